"""Kills real processes, as `make torture` does hundreds of times."""

import json
import sys

import pytest

from benchmarks import torture

pytestmark = pytest.mark.slow


def test_killed_runs_give_the_results_of_an_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torture, "FOLDER", tmp_path / "torture")
    monkeypatch.setattr(torture, "UNDISTURBED", tmp_path / "torture/undisturbed")
    monkeypatch.setattr(torture, "REPORT", tmp_path / "report.json")
    monkeypatch.setitem(torture.OVERRIDES, "num_epochs", 1)
    monkeypatch.setattr(torture, "examine", lambda report: None)
    monkeypatch.setattr(sys, "argv", ["torture", "--sigkill=1", "--sigterm=1"])
    monkeypatch.delenv("XLA_FLAGS")
    torture.main()
    report = json.loads((tmp_path / "report.json").read_text())
    for name, tries in (("SIGKILL", 1), ("SIGTERM", 1)):
        assert report[name]["tries"] == tries
        assert report[name]["runs"] >= 1
        assert report[name]["failures"] == []
