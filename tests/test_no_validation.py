"""Training without validation images: the network of the last step is tested."""

import json
from dataclasses import replace

import pytest
from run_records import ONE_DEVICE, assert_same_run, final_arrays, interrupt_after, metrics_of, run_of

from cifar_flax import evaluate, inference, report, train
from cifar_flax.errors import BadInput, Interrupted
from cifar_flax.inference import load_run
from cifar_flax.reporting import console

pytestmark = pytest.mark.medium


@pytest.fixture
def config(tiny_config, tiny_dataset, monkeypatch):
    """The config of the tiny run, with `num_validation=0`."""
    dataset = replace(tiny_dataset, validation=tiny_dataset.validation[:0])
    for module in (train, inference):
        monkeypatch.setattr(module, "load", lambda config: dataset)
    tiny_config.num_validation = 0
    return tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def workdir(folder, config):
    """The workdir of an uninterrupted run."""
    train.train_and_evaluate(config, folder, ONE_DEVICE)  # trains only the first time
    return folder


def test_last_epoch_is_tested(workdir):
    record = run_of(workdir)
    assert record["status"] == "done"
    assert record["num_validation_examples"] == 0
    assert record["best_epoch"] == 2
    assert (record["best_validation_loss"], record["best_validation_accuracy"]) == (None, None)
    assert not list((workdir / "checkpoints" / "best").iterdir())
    assert all("validation_loss" not in line for line in metrics_of(workdir))


def test_training_is_the_same_with_and_without_validation_images(workdir, config, tiny_dataset, tmp_path, monkeypatch):
    config.num_validation = 21
    monkeypatch.setattr(train, "load", lambda config: tiny_dataset)
    train.train_and_evaluate(config, tmp_path, ONE_DEVICE)
    with_validation, without = final_arrays(tmp_path), final_arrays(workdir)
    assert all((with_validation[path] == without[path]).all() for path in without)


def test_interrupted_run_resumes_with_the_same_results(workdir, config, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert load_run(tmp_path).epoch == 1
    with pytest.raises(BadInput, match="has no validation images"):
        report.command([str(tmp_path), "--out", str(tmp_path / "report.html")])
    train.train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, workdir)


def test_commands_use_the_last_checkpoint(workdir, capsys):
    evaluate.command(["--workdir", str(workdir), "--json"])
    result, record = json.loads(capsys.readouterr().out), run_of(workdir)
    assert (result["loss"], result["accuracy"]) == (record["test_loss"], record["test_accuracy"])
    evaluate.command(["--workdir", str(workdir)])
    assert "epoch 2, the last" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"--split: .* has no validation images"):
        evaluate.command(["--workdir", str(workdir), "--split", "validation"])


def test_reports_state_that_there_are_no_validation_images(workdir, tmp_path):
    report.command([str(workdir), "--out", str(tmp_path / "one.html")])
    assert "There were no validation images" in (tmp_path / "one.html").read_text()
    (tmp_path / "copy").mkdir()
    for name in ("config.json", "run.json", "metrics.jsonl"):
        (tmp_path / "copy" / name).write_bytes((workdir / name).read_bytes())
    report.command([str(workdir), str(tmp_path / "copy"), "--out", str(tmp_path / "two.html")])
    two = (tmp_path / "two.html").read_text()
    assert "Validation curves" not in two
    assert "no validation curve: " in two


def test_terminal_output_names_no_best_epoch(workdir, capsys):
    console.result(run_of(workdir), workdir)
    output = capsys.readouterr().out
    assert "last epoch; there are no validation images" in output
    assert "best epoch" not in output
    assert "validation accuracy none" in console.seeds_table([run_of(workdir)] * 2)
