"""Kills real processes, as `make torture` does hundreds of times."""

import contextlib
import json
import sys
import time
from types import SimpleNamespace

import pytest
from processes import write_dataset

from benchmarks import torture

pytestmark = pytest.mark.slow


def wait_for_a_checkpoint(*_):
    """Takes the place of a random time: the run is killed when it has saved its first checkpoint."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if any("checkpoint_step" in path.read_text() for path in torture.FOLDER.glob("SIG*/run.json")):
                return 0
        time.sleep(0.01)
    raise AssertionError("no run saved a checkpoint")


def test_killed_runs_give_the_results_of_an_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torture, "FOLDER", tmp_path / "torture")
    monkeypatch.setattr(torture, "UNDISTURBED", tmp_path / "torture/undisturbed")
    monkeypatch.setattr(torture, "REPORT", tmp_path / "report.json")
    images = write_dataset(tmp_path / "images.npz", count=6_000)
    for field, value in {"dataset": images, "num_validation": 100, "num_epochs": 3, "save_seconds": 0.02}.items():
        monkeypatch.setitem(torture.OVERRIDES, field, str(value))
    monkeypatch.setattr(torture, "random", SimpleNamespace(uniform=wait_for_a_checkpoint))
    monkeypatch.setattr(torture, "examine", lambda report: None)
    monkeypatch.setattr(sys, "argv", ["torture", "--sigkill=1", "--sigterm=1"])
    monkeypatch.delenv("XLA_FLAGS")
    torture.main()
    report = json.loads((tmp_path / "report.json").read_text())
    for name, tries in (("SIGKILL", 1), ("SIGTERM", 1)):
        assert report[name]["tries"] == tries
        assert report[name]["runs"] >= 1
        assert report[name]["failures"] == []
