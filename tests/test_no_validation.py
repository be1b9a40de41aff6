"""Training on all images: nothing is validated, no epoch is chosen, the network of the last step counts."""

import json
from dataclasses import replace

import pytest
from run_records import ONE, assert_same_run, final_arrays, interrupt_after, metrics_of, run_of

from cifar_flax import evaluate, report, train
from cifar_flax.errors import BadInput, Interrupted
from cifar_flax.inference import load_run
from cifar_flax.reporting import console


@pytest.fixture
def whole_config(tiny_config, tiny_dataset, monkeypatch):
    """The tiny run with `num_validation=0`."""
    dataset = replace(tiny_dataset, validation=tiny_dataset.validation[:0])
    for module in (train, evaluate, report):
        monkeypatch.setattr(module, "load", lambda config: dataset)
    tiny_config.num_validation = 0
    return tiny_config


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tmp_path_factory.mktemp("straight")


@pytest.fixture
def workdir(straight, whole_config):
    """The workdir of an undisturbed run."""
    train.train_and_evaluate(whole_config, straight, ONE)  # the second time it only says that it is done
    return straight


def test_the_last_epoch_is_the_one_that_is_tested(workdir):
    record = run_of(workdir)
    assert record["status"] == "done"
    assert record["num_validation_examples"] == 0
    assert record["best_epoch"] == 2
    assert (record["best_validation_loss"], record["best_validation_accuracy"]) == (None, None)
    assert not list((workdir / "checkpoints" / "best").iterdir())
    assert all("validation_loss" not in line for line in metrics_of(workdir))


def test_it_trains_as_with_validation_images(workdir, whole_config, tiny_dataset, tmp_path, monkeypatch):
    whole_config.num_validation = 21
    monkeypatch.setattr(train, "load", lambda config: tiny_dataset)
    train.train_and_evaluate(whole_config, tmp_path, ONE)
    with_validation, without = final_arrays(tmp_path), final_arrays(workdir)
    assert all((with_validation[path] == without[path]).all() for path in without)


def test_an_interrupted_run_goes_on_to_the_same_numbers(workdir, whole_config, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PIECE_SECONDS", 0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(whole_config, tmp_path, ONE)
    assert load_run(tmp_path).epoch == 1
    with pytest.raises(BadInput, match="has no validation images"):
        report.command([str(tmp_path), "--out", str(tmp_path / "report.html")])
    train.train_and_evaluate(whole_config, tmp_path, ONE)
    assert_same_run(tmp_path, workdir)


def test_the_commands_take_the_last_network(workdir, capsys):
    evaluate.command(["--workdir", str(workdir), "--json"])
    found, record = json.loads(capsys.readouterr().out), run_of(workdir)
    assert (found["loss"], found["accuracy"]) == (record["test_loss"], record["test_accuracy"])
    evaluate.command(["--workdir", str(workdir)])
    assert "epoch 2, the last" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"--split: .* has no validation images"):
        evaluate.command(["--workdir", str(workdir), "--split", "validation"])


def test_reports_say_that_nothing_was_validated(workdir, tmp_path):
    report.command([str(workdir), "--out", str(tmp_path / "one.html")])
    assert "No image was kept for validation" in (tmp_path / "one.html").read_text()
    (tmp_path / "copy").mkdir()
    for name in ("config.json", "run.json", "metrics.jsonl"):
        (tmp_path / "copy" / name).write_bytes((workdir / name).read_bytes())
    report.command([str(workdir), str(tmp_path / "copy"), "--out", str(tmp_path / "two.html")])
    two = (tmp_path / "two.html").read_text()
    assert "Validation curves" not in two
    assert "without a curve: " in two


def test_the_terminal_names_no_best_epoch(workdir, capsys):
    console.result(run_of(workdir), workdir)
    said = capsys.readouterr().out
    assert "as the last epoch left it" in said
    assert "best epoch" not in said
    assert "validation accuracy none" in console.seeds_table([run_of(workdir)] * 2)
