"""Test-time augmentation: its views, and how the results are reported."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from run_records import ONE_DEVICE, events_of, run_of

from cifar_flax import evaluate, inference, report, train
from cifar_flax.reporting import console
from cifar_flax.training.tta import mirror_translate


def test_views_match_the_paper():
    """The network returns the pixels. Half of the weight is on the image and its mirror image."""
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def with_mirror_image(view):
        return (view + view[:, :, ::-1]) / 2

    translated = (with_mirror_image(padded[:, 0:5, 0:6]) + with_mirror_image(padded[:, 2:7, 2:8])) / 2
    expected = (with_mirror_image(images) + translated) / 2
    result = mirror_translate(lambda view: view.reshape(2, -1), jnp.asarray(images))
    np.testing.assert_allclose(result, expected.reshape(2, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_results_are_reported_with_and_without_augmentation(tiny_config, tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    plain = train.train_and_evaluate(tiny_config, tmp_path / "plain", ONE_DEVICE)
    tiny_config.tta = "mirror_translate"
    record = train.train_and_evaluate(tiny_config, tmp_path / "tta", ONE_DEVICE)
    unchanged = ("test_loss", "test_accuracy", "best_validation_loss", "best_validation_accuracy")
    assert [record[field] for field in unchanged] == [plain[field] for field in unchanged]
    assert not any(field.startswith("tta") for field in plain)
    assert record["tta_test_loss"] != record["test_loss"]
    assert f"with test-time augmentation {record['tta_test_accuracy']:.2%}" in capsys.readouterr().out
    assert [value for _, value in events_of(tmp_path / "tta", "tta_test_loss")] == [np.float32(record["tta_test_loss"])]

    command = ["--workdir", str(tmp_path / "plain"), "--tta", "mirror_translate"]
    evaluate.command([*command, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["loss"], result["accuracy"]) == (record["tta_test_loss"], record["tta_test_accuracy"])
    evaluate.command(command)
    assert "test, mirror_translate: 27 images" in capsys.readouterr().out
    report.command([str(tmp_path / "tta"), "--out", str(tmp_path / "report.html")])
    assert (
        f"{record['tta_test_accuracy']:.2%} test accuracy with test-time augmentation"
        in (tmp_path / "report.html").read_text()
    )
    assert "with test-time augmentation" in console.seeds_table([run_of(tmp_path / "tta")])


@pytest.mark.medium
def test_extending_a_run_without_tta_removes_its_results_with_tta(tiny_config, tmp_path):
    tiny_config.update(num_epochs=1.0, tta="mirror_translate")
    train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    tiny_config.update(num_epochs=2.0, tta="none")
    record = train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert not any(field.startswith("tta") for field in record)


@pytest.mark.medium
def test_finished_run_is_not_retrained_if_only_tta_changes(tiny_config, tmp_path, capsys):
    train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    tiny_config.tta = "mirror_translate"
    train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert "This run is done" in capsys.readouterr().out
