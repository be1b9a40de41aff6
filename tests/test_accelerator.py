"""All measurements on an accelerator: the parts on a tiny network, and which of them a call runs."""

import inspect
import json
import os

import numpy as np
import pytest
from tiny import Tiny, tiny_split

from benchmarks.accelerator import numerics, paper, paths, profiling, runs, session, speed, tables
from benchmarks.accelerator.parts import Part, all_parts, tiny_parts
from benchmarks.contestants import OURS
from benchmarks.machine import describe
from cifar_flax.errors import BadInput, Failed
from cifar_flax.models import MODELS

pytestmark = [
    pytest.mark.medium,
    # of jaxlib on Python 3.13, for the types of an event's and a plane's properties
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning"),
]
EXPERIMENT = """
from cifar_flax.config import base_config

def get_config():
    config = base_config()
    config.update(experiment="tiny", model="tiny", batch_size=16, eval_batch_size=8, num_epochs=2.0, num_validation=21)
    config.update(augment="shift_flip", tta="mirror_translate", average_every=2)
    return config
"""


def in_this_process(function, arguments, seconds):
    return function(**arguments)


class StubWorker:
    """Stands for the process of a contestant. Compiled PyTorch does not start."""

    memory = 2**20

    def __init__(self, name, network, images, settings):
        self.name, self.network, self.batch_size = name, network, settings.batch_size
        self.speed = 300 if name == OURS else 200

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def ready(self):
        if "compiled" in self.name:
            raise RuntimeError("PyTorch, compiled exited:\nsome lines\nno compiler")
        return {"num_parameters": 7, "compile_seconds": 1.0, "peak_device_bytes": self.memory}

    def ask(self, command):
        return {"images_per_second": self.speed, "peak_memory_mib": 1.0, "peak_device_bytes": self.memory}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The files of an experiment and of its images."""
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    train, test = tiny_split(91, 0), tiny_split(27, 2)
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(tmp_path / "images.npz", **arrays)
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    return str(tmp_path / "tiny.py"), str(tmp_path / "images.npz")


@pytest.mark.slow
def test_all_kinds_of_parts_run_and_appear_in_the_tables(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "call", in_this_process)
    monkeypatch.setattr(speed, "Worker", StubWorker)
    monkeypatch.setattr(speed, "write_images", lambda path, dataset: None)
    monkeypatch.setattr(speed, "find_spec", lambda name: name)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    experiment, dataset = tiny
    trained = {"experiment": experiment, "overrides": {}}
    several = {"seeds": [0], "dtypes": ["float32"], "overrides": {"num_epochs": 0.5}}
    compared = {"network": "mlp", "precision": "tf32", "batch_size": 32, "seconds": 0.1, "rounds": 3}
    lowerings = {"lowerings": ["patches"], "batch_size": 16}
    parts = [
        Part("numerics: tiny", numerics.compare, {"experiment": experiment, **lowerings}, 1),
        Part("paths: tiny", paths.compare, {"experiment": experiment, "batch_size": 16, "num_batches": 4}, 1),
        Part("resume: tiny", paths.resume, trained, 1),
        Part("runs: tiny", runs.train, {"experiment": experiment, **several}, 1),
        Part("speed: mlp, tf32, 32", speed.compare, compared, 1),
        Part("profile: tiny", profiling.profile, trained, 1),
    ]
    path = tmp_path / "results" / "accelerator_tiny.json"
    record = {"machine": describe(), "data": {}, "parts": {}}
    session.run_parts(parts, record, path, dataset, 10)
    assert json.loads(path.read_text()) == record
    results = {name: part["result"] for name, part in record["parts"].items()}
    for errors in results["numerics: tiny"]["errors"].values():
        assert errors["highest"]["logits"]["error"] < 1e-5
        assert errors["highest"]["gradients"]["distance"] < 1e-5
    assert results["paths: tiny"]["training"] == {"repeated": 0, "cut elsewhere": 0, "streamed": 0}
    assert results["paths: tiny"]["augmentation"] == 0
    evaluation = results["paths: tiny"]["evaluation"]
    assert (evaluation["counted"], evaluation["evaluate, streamed"], evaluation["evaluate_tta, streamed"]) == (27, 0, 0)
    assert evaluation["batches of another size"] < 1e-5
    losses = ["training loss of epoch 1", "training loss of epoch 2", "test loss"]
    assert results["resume: tiny"]["errors"] == dict.fromkeys(losses, 0)
    [run] = results["runs: tiny"]["runs"]
    assert 0 <= run["tta_test_accuracy"] <= 1
    assert results["speed: mlp, tf32, 32"]["failed"] == {"PyTorch, compiled": "no compiler"}
    text = tables.measured(path.parent)
    for row in (
        "`tiny`, patches |",
        "streamed | 0",
        "`tiny`, float32 | 1 |",
        "300 | 200 |  | **1.50** |",
        "ms per step",
    ):
        assert row in text
    assert tables.measured(tmp_path) == tables.NOTHING


def test_contestant_on_another_kind_of_device_is_not_compared(monkeypatch):
    class OnCPU(StubWorker):
        memory = property(lambda self: 2**20 if self.name == OURS else None)

    monkeypatch.setattr(speed, "Worker", OnCPU)
    monkeypatch.setattr(speed, "write_images", lambda path, dataset: None)
    monkeypatch.setattr(speed, "find_spec", lambda name: name)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    result = speed.compare("mlp", "tf32", 32, 0.1, 3, "images")
    assert list(result["contestants"]) == [OURS]
    assert result["failed"]["PyTorch, eager"] == "is on another kind of device"


def part(name, seconds=1, **arguments):
    return Part(name, lambda **arguments: arguments, arguments, seconds)


@pytest.fixture
def called(monkeypatch):
    """Replaces the processes; the list has what the parts were called with."""
    calls = []

    def call(function, arguments, seconds):
        calls.append(arguments)
        if "error" in arguments:
            raise arguments["error"]
        return function(**arguments)

    monkeypatch.setattr(session, "call", call)
    return calls


def test_second_call_skips_what_is_in_the_file_and_repeats_what_changed(called, tmp_path, capsys):
    path, start = tmp_path / "record.json", {"machine": {"device_kind": "a", "versions": {}}, "data": {"sha": 1}}
    for batch_size in (1, 1, 2):
        record = session.open_record(path, start)
        parts = [part("a"), part("b", batch_size=batch_size)]
        session.run_parts(parts, record, path, "images", 1)
    assert called == [{"dataset": "images"}, *({"dataset": "images", "batch_size": size} for size in (1, 2))]
    assert capsys.readouterr().out.count("in the file") == 3
    with pytest.raises(BadInput, match=r"record.json was measured with other device_kind, images; name another file$"):
        session.open_record(path, {"machine": {"device_kind": "b", "versions": {}}, "data": {}})
    path.write_text("[]")
    with pytest.raises(BadInput, match="is not a record"):
        session.open_record(path, start)


def test_what_does_not_fit_or_fails_is_left_for_the_next_call(called, tmp_path, capsys):
    record = {"parts": {}}
    late, broken = part("late", error=TimeoutError()), part("broken", error=Failed("exit code 3"))
    parts = [part("long", seconds=300), late, broken, part("last")]
    with pytest.raises(Failed, match=r"^broken \(exit code 3\)$"):
        session.run_parts(parts, record, tmp_path / "record.json", "images", 2)
    assert list(record["parts"]) == ["last"]
    assert "left for the next call, about 5 min: long, late" in capsys.readouterr().out


def test_process_that_dies_or_is_late_or_has_bad_input_is_reported(tmp_path):
    with pytest.raises(TimeoutError):
        session.call(os._exit, {"status": 0}, 0.05)
    with pytest.raises(Failed, match="exit code 3"):
        session.call(os._exit, {"status": 3}, 600)
    with pytest.raises(BadInput, match=r"missing\.npz"):
        session.call(session.describe_start, {"dataset": str(tmp_path / "missing.npz")}, 600)


@pytest.mark.parametrize("parts", [all_parts(), tiny_parts()])
def test_parts_can_be_called_and_recorded(parts):
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        inspect.signature(part.function).bind(dataset="", **part.arguments)
        assert json.loads(json.dumps(part.arguments)) == part.arguments


def test_least_times_follow_from_the_limits():
    networks = {"cnn": {"work": {"operations": 989e6, "bytes": 48e6 - 32 * 3072}}}
    text = paper.on_paper({"batch_size": 32, "networks": networks})
    assert "| CNN, 32 | 0.989 | 47.9 | 0.0983 | 2 | 0.999 | 14.3 | 10 |" in text
