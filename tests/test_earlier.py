"""A run that is resumed under other versions or on another machine says so, and records both."""

import pytest
from run_records import ONE_DEVICE, interrupt_after, metrics_of, run_of

from cifar_flax import train
from cifar_flax.errors import Interrupted
from cifar_flax.reporting import html
from cifar_flax.workdir import earlier

OLD = {"versions": {"python": "3.11.7", "jax": "0.10.2"}, "platform": "cpu", "num_cpus": 2, "xla_flags": ""}
NEW = OLD | {"versions": {"python": "3.13.0", "jax": "0.12.0"}, "num_cpus": 4, "xla_flags": "--xla_a=1"}


def resume(run, now, step):
    """run.json after a process in the environment `now` has restored `step`."""
    return now | {earlier.FIELD: earlier.resume(run, now, step)[0]}


def parts(run):
    return [(part["versions"]["jax"], part["end_step"]) for part in run[earlier.FIELD]]


def test_changes_name_what_differs():
    assert earlier.changes(OLD, OLD) == []
    assert earlier.changes(OLD, NEW) == [
        "python: 3.11.7 -> 3.13.0",
        "jax: 0.10.2 -> 0.12.0",
        "num_cpus: 2 -> 4",
        "xla_flags: none -> --xla_a=1",
    ]


def test_environment_that_an_older_run_did_not_record_is_not_compared():
    assert earlier.changes({"versions": {"jax": "0.10.2"}}, NEW) == ["jax: 0.10.2 -> 0.12.0"]
    assert earlier.changes({"versions": None}, NEW) == []
    assert resume({}, NEW, 100) == NEW | {earlier.FIELD: []}


def test_each_environment_is_recorded_with_its_last_step():
    run = resume(OLD, NEW, 100)
    assert parts(run) == [("0.10.2", 100)]
    assert parts(resume(run, NEW, 150)) == [("0.10.2", 100)]
    assert parts(resume(run, OLD, 150)) == [("0.10.2", 100), ("0.12.0", 150)]


def test_environment_in_which_no_remaining_step_was_trained_is_not_recorded():
    run = resume(OLD, NEW, 100)
    assert parts(resume(run, OLD, 100)) == []  # killed before it saved a step
    assert parts(resume(run, NEW, 0)) == []
    back = resume(resume(run, OLD, 150), NEW, 80)  # the later checkpoints are damaged
    assert parts(back) == [("0.10.2", 80)]


@pytest.fixture
def train_in(tiny_config, tmp_path, monkeypatch):
    """A function that trains, or resumes, in an environment in which these fields differ from the real one."""
    monkeypatch.setattr(train, "FIRST_CHUNK", 1)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)
    real = train.environment

    def run(steps=None, **fields):
        with monkeypatch.context() as patch:
            patch.setattr(train, "environment", lambda devices: real(devices) | {"git_commit": "a"} | fields)
            if steps is None:
                train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
                return
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted):
                train.train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)

    return run


@pytest.mark.medium
def test_run_resumed_under_other_versions_says_so_once_and_continues(train_in, tmp_path, capsys):
    train_in(steps=2, versions=OLD["versions"])
    assert run_of(tmp_path)[earlier.FIELD] == []
    assert "another environment" not in capsys.readouterr().err
    train_in(steps=3, versions=NEW["versions"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "environment" in line]
    assert line == (
        "resumed in another environment (python: 3.11.7 -> 3.13.0; jax: 0.10.2 -> 0.12.0): from step 3 on, numbers can "
        "differ from those of a run in one environment; run.json records both"
    )
    train_in(versions=NEW["versions"])
    assert "environment" not in capsys.readouterr().err
    record = run_of(tmp_path)
    assert (record["status"], record["versions"]) == ("done", NEW["versions"])
    assert parts(record) == [("0.10.2", 2)]
    assert record[earlier.FIELD][0]["git_commit"] == record["git_commit"]
    assert [line["step"] for line in metrics_of(tmp_path)] == [4, 8]
    assert ("up to step 2", "python: 3.11.7 -> 3.13.0; jax: 0.10.2 -> 0.12.0") in html.environment(record)


@pytest.mark.medium
def test_finished_run_is_not_changed_in_another_environment(train_in, tmp_path, capsys):
    train_in(versions=OLD["versions"])
    before = (tmp_path / "run.json").read_text()
    train_in(versions=NEW["versions"])
    assert (tmp_path / "run.json").read_text() == before
    assert capsys.readouterr().err == ""
