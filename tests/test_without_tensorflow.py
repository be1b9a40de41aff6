"""Without TensorFlow, or with a broken one, everything works except TensorBoard's events and TFDS datasets."""

import importlib.abc
import json
import sys

import pytest
from processes import ROOT, assert_one_line, run, train_command, write_dataset
from run_records import ONE_DEVICE, assert_same_run, events_of, run_of

from cifar_flax import data, evaluate, export, inference, predict, report
from cifar_flax.config import base_config
from cifar_flax.errors import BadInput
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import tensorboard

PACKAGES = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard", "array_record")
NO_EVENTS = "no TensorBoard events are written: "
ADVICE = "; install tensorflow, clu and tensorboard for them, or see metrics.jsonl and figures/\n"


class Broken(importlib.abc.MetaPathFinder):
    """Lets the import of packages fail with an error."""

    def __init__(self, names, error):
        self.names, self.error = names, error

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise self.error


@pytest.fixture
def without(monkeypatch):
    """A function that makes packages missing, or broken with the given error."""

    def change(*names, error=None):
        tensorboard._warn_once.cache_clear()
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
            if error:
                monkeypatch.delitem(sys.modules, name)
        if error:
            monkeypatch.setattr(sys, "meta_path", [Broken(names, error), *sys.meta_path])

    return change


@pytest.mark.medium
def test_run_without_tensorflow_is_complete_but_for_the_events(tiny_config, tmp_path, without, capsys):
    without("tensorflow")
    for seed in (0, 1):  # as in a sweep
        tiny_config.seed = seed
        train_and_evaluate(tiny_config, tmp_path / f"{seed}", ONE_DEVICE)
        assert run_of(tmp_path / f"{seed}")["status"] == "done"
        assert (tmp_path / f"{seed}" / "figures" / "learning_curves.png").exists()
        assert not (tmp_path / f"{seed}" / "tensorboard").exists()
    out, err = capsys.readouterr()
    assert err == f"{NO_EVENTS}tensorflow is not installed{ADVICE}"
    assert "tensorboard --logdir" not in out


@pytest.mark.parametrize("name", ["tensorflow", "clu", "tensorboard"])
def test_events_need_three_packages(name, tmp_path, without, capsys):
    if name == "clu":
        pytest.importorskip("tensorflow")
    without(name)
    assert not tensorboard.can_write_events()
    with tensorboard.TensorBoard(tmp_path) as events:
        events.begin(step=0)
        events.write_test(0, {"test_loss": 1.0})
    assert capsys.readouterr().err == f"{NO_EVENTS}{name} is not installed{ADVICE}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ImportError("no GLIBC"), AttributeError("_ARRAY_API\nnot found"), TypeError("x")])
def test_broken_tensorflow_is_one_line(error, tmp_path, without, capsys):
    without("tensorflow", error=error)
    with tensorboard.TensorBoard(tmp_path) as events:
        events.begin(step=0)
        events.write_config({"seed": 0})
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    line = f"{NO_EVENTS}tensorflow, clu or tensorboard cannot be imported ({reason}){ADVICE}"
    assert capsys.readouterr().err == line
    with pytest.raises(BadInput) as refused:
        load_cifar10(tmp_path)
    assert f" and tensorflow or tensorflow-datasets cannot be imported ({reason}); " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.medium
def test_events_of_an_earlier_process_are_kept_and_completed_later(tiny_config, tmp_path, monkeypatch, without):
    pytest.importorskip("tensorflow")

    def extend(num_epochs):
        tiny_config.num_epochs = num_epochs
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)

    extend(1.0)
    before = {path: path.read_bytes() for path in (tmp_path / "w" / "tensorboard").iterdir()}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        extend(2.0)
    assert {path: path.read_bytes() for path in (tmp_path / "w" / "tensorboard").iterdir()} == before
    extend(3.0)
    assert [step for step, _ in events_of(tmp_path / "w", "train_loss")] == [4, 8, 12]
    train_and_evaluate(tiny_config, tmp_path / "at_once", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "at_once")


def load_cifar10(data_dir):
    config = base_config()
    config.update(dataset="cifar10", data_dir=str(data_dir))
    return data.load(config)


@pytest.mark.parametrize("missing", [("tensorflow",), ("tensorflow_datasets",), ("tensorflow", "tensorflow_datasets")])
def test_tfds_dataset_without_its_packages_is_refused_with_the_alternatives(missing, tmp_path, without):
    if "tensorflow" not in missing:
        pytest.importorskip("tensorflow")
    without(*missing)
    with pytest.raises(BadInput) as error:
        load_cifar10(tmp_path)
    message = str(error.value)
    assert message.startswith(
        f"config.dataset: 'cifar10' can only be read with TFDS, and {missing[0]} is not installed;"
    )
    alternatives = ("install tensorflow and tensorflow-datasets", "an older Python", "cifar-10-python.tar.gz", ".npz")
    assert all(words in message for words in (*alternatives, "--config.dataset=synthetic", "cifar10 does not exist"))


@pytest.mark.medium
def test_commands_on_a_run_need_no_tensorflow(tiny_config, tiny_dataset, tmp_path, monkeypatch, without, capsys):
    without(*PACKAGES)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    monkeypatch.setattr(report, "load_split", inference.load_split)
    capsys.readouterr()
    picture = tmp_path / "figures" / "training_images.png"
    assert evaluate.main(["--workdir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == run_of(tmp_path)["test_accuracy"]
    assert predict.main(["--workdir", str(tmp_path), str(picture)]) == 0
    assert export.main(["--workdir", str(tmp_path)]) == 0
    assert report.main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.medium
def test_training_process_with_broken_packages(tmp_path):
    """As after an update of numpy or protobuf that the packages do not fit."""
    for name in PACKAGES:
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text("raise RuntimeError('compiled for\\nanother numpy')\n")
    variables = {"PYTHONPATH": f"{tmp_path / 'broken'}:{ROOT}"}
    dataset = write_dataset(tmp_path / "d.npz")
    code, _, err = run(train_command(dataset, tmp_path / "w"), tmp_path, variables)
    assert (code, err.count("\n")) == (0, 1), err
    assert err.startswith(NO_EVENTS)
    assert "(RuntimeError: compiled for another numpy)" in err
    refused = run(train_command("cifar10", tmp_path / "x", f"--config.data_dir={tmp_path}"), tmp_path, variables)
    assert_one_line(refused, "config.dataset: 'cifar10'", "(RuntimeError: compiled for another numpy)")
