"""Test-time augmentation: its views by hand, and its result beside the plain one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from run_records import ONE, events_of, run_of

from cifar_flax import evaluate, report, train
from cifar_flax.reporting import console
from cifar_flax.training.tta import mirror_translate


def test_the_views_are_the_papers():
    """A network that returns an image's pixels: half of the result is the image with its mirror image."""
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def with_mirror_image(view):
        return (view + view[:, :, ::-1]) / 2

    moved = (with_mirror_image(padded[:, 0:5, 0:6]) + with_mirror_image(padded[:, 2:7, 2:8])) / 2
    expected = (with_mirror_image(images) + moved) / 2
    found = mirror_translate(lambda view: view.reshape(2, -1), jnp.asarray(images))
    np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=1e-5, atol=1e-6)


def test_its_result_stands_beside_the_plain_one(tiny_config, tiny_dataset, tmp_path, capsys, monkeypatch):
    for module in (evaluate, report):
        monkeypatch.setattr(module, "load", lambda config: tiny_dataset)
    plain = train.train_and_evaluate(tiny_config, tmp_path / "plain", ONE)
    tiny_config.tta = "mirror_translate"
    record = train.train_and_evaluate(tiny_config, tmp_path / "tta", ONE)
    same = ("test_loss", "test_accuracy", "best_validation_loss", "best_validation_accuracy")
    assert [record[field] for field in same] == [plain[field] for field in same]
    assert not any(field.startswith("tta") for field in plain)
    assert record["tta_test_loss"] != record["test_loss"]
    assert f"with test-time augmentation {record['tta_test_accuracy']:.2%}" in capsys.readouterr().out
    assert [value for _, value in events_of(tmp_path / "tta", "tta_test_loss")] == [np.float32(record["tta_test_loss"])]

    command = ["--workdir", str(tmp_path / "plain"), "--tta", "mirror_translate"]
    evaluate.command([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["loss"], found["accuracy"]) == (record["tta_test_loss"], record["tta_test_accuracy"])
    evaluate.command(command)
    assert "test, mirror_translate: 27 images" in capsys.readouterr().out
    report.command([str(tmp_path / "tta"), "--out", str(tmp_path / "report.html")])
    assert f"augmentation {record['tta_test_accuracy']:.2%} of the test" in (tmp_path / "report.html").read_text()
    assert "with test-time augmentation" in console.seeds_table([run_of(tmp_path / "tta")])


def test_asking_for_it_does_not_make_a_run_another_one(tiny_config, tmp_path, capsys):
    train.train_and_evaluate(tiny_config, tmp_path, jax.devices()[:1])
    tiny_config.tta = "mirror_translate"
    train.train_and_evaluate(tiny_config, tmp_path, ONE)
    assert "This run is done" in capsys.readouterr().out
