"""A search: its trials are runs, compared by validation loss, shared by workers and resumed. Test is used once."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import optuna
import pytest
from processes import ROOT, SHORT, command, start, write_dataset
from run_records import interrupt_after, metrics_of, run_of

from cifar_flax import main, train, tune
from cifar_flax.config import base_config
from cifar_flax.errors import BadInput, Stopped
from cifar_flax.tuning import report
from cifar_flax.tuning.space import Space
from cifar_flax.tuning.study import SharedStudy
from cifar_flax.workdir.identity import DATA_FIELDS, differences

SPACE = """
def space(trial):
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "optimizer": trial.suggest_categorical("optimizer", ["adam", "sgd"]),
    }
"""
# a trial that learns, one that diverges, and one that does not learn
HARD_SPACE = """
def space(trial):
    trial.suggest_float("unused", 0, 1)
    return {"learning_rate": [1e-2, 1e30, 0.0][trial.number % 3], "optimizer": "sgd"}
"""
PASSWORD = "s3cret"
TINY = [
    "--config=experiments/cnn.py",
    *(f"--config.{field}" for field in ("model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8")),
    "--config.num_epochs=2",
]


@pytest.fixture
def search(tmp_path, monkeypatch, tiny_config):
    """A function that runs the command on the tiny dataset in the checkout, and returns its exit code."""
    monkeypatch.chdir(ROOT)

    def search(name, space, num_trials, *arguments):
        (tmp_path / "space.py").write_text(space)
        flags = [f"--space={tmp_path / 'space.py'}", f"--trials={num_trials}", f"--workdir={tmp_path / name}"]
        return tune.main([*TINY, *flags, *arguments])

    return search


def trials_of(workdir):
    return json.loads((workdir / "trials.json").read_text())


def shared_study(folder, space=SPACE, url=None, **fields):
    """The study of one worker, without its training."""
    config = base_config()
    config.update(fields)
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "space.py").write_text(space)
    return SharedStudy(config, Space(folder.parent / "space.py", config, []), folder, url)


@pytest.mark.medium
def test_search_compares_by_validation_and_tests_the_best_trial_once(tmp_path, capsys, monkeypatch, search):
    tested, evaluate_test = [], train.evaluate_test
    monkeypatch.setattr(train, "evaluate_test", lambda *inputs: tested.append(1) or evaluate_test(*inputs))
    pruner = partial(optuna.pruners.MedianPruner, n_startup_trials=1)
    monkeypatch.setattr(optuna.pruners, "MedianPruner", pruner)
    assert search("w", HARD_SPACE, 3) == 0
    out, err = capsys.readouterr()
    found = trials_of(tmp_path / "w")
    assert [row["state"] for row in found["trials"]] == ["complete", "diverged", "pruned"]
    assert (found["best_trial"], [*found["tested_trials"]], tested, err) == (0, ["0"], [1], "")
    for number, row in enumerate(found["trials"]):
        record = run_of(tmp_path / "w" / f"trial{number}")
        assert ("test_accuracy" in record) == (number == 0)
        assert record.get("best_validation_loss") == row["validation_loss"]
    assert "trial 1: diverged: " in out
    assert "trial 2: pruned after epoch 1, " in out
    assert "3 trials of 2 epochs were compared by validation loss: 1 complete, 1 diverged, 1 pruned." in out

    line = out.splitlines()[-1]
    assert line.startswith("train it    python -m cifar_flax.main ")
    config, _ = main.parse(shlex.split(line)[5:])
    assert not differences(json.loads((tmp_path / "w" / "trial0" / "config.json").read_text()), config)

    assert search("w", HARD_SPACE, 3) == 0  # does nothing again
    assert (tested, trials_of(tmp_path / "w")) == ([1], found)
    assert line in capsys.readouterr().out


@pytest.mark.medium
def test_interrupted_search_goes_on_with_its_trial(tmp_path, capsys, monkeypatch, search):
    with monkeypatch.context() as patch:
        patch.setattr(train, "CHUNK_SECONDS", 0.0)  # one step per chunk
        interrupt_after(patch, 6)  # each trial has 8 steps
        assert search("w", SPACE, 1) == 143
    assert "the same command resumes" in capsys.readouterr().err
    assert run_of(tmp_path / "w" / "trial0")["status"] == "interrupted"
    assert search("w", SPACE, 1) == 0
    assert "resuming after step 6 of 8" in (tmp_path / "w" / "trial0" / "screen.txt").read_text()
    (row,) = trials_of(tmp_path / "w")["trials"]
    assert (row["state"], row["epochs"], row["is_recipe"]) == ("complete", 2, True)
    assert row["values"] == {"learning_rate": 1e-3, "optimizer": "adam"}
    assert run_of(tmp_path / "w" / "trial0")["status"] == "done"


def epochs_of(*losses):
    return [
        {"epoch": number, "validation_loss": loss, "validation_accuracy": 1 / 4, "epoch_seconds": 1.0}
        for number, loss in enumerate(losses, 1)
    ]


def test_trial_ends_when_it_is_complete_or_worse_than_most_and_the_report_shows_all(tmp_path):
    study, data = shared_study(tmp_path / "w", num_epochs=3.0), dict.fromkeys(DATA_FIELDS, 1)
    for number in range(5):
        trial, _, claim = study.next_trial(9)
        with claim:
            study.watch(trial, epochs_of(2.0, 1.5), 3, data)
            with pytest.raises(Stopped):
                study.watch(trial, epochs_of(2.0, 1.5, 1.6 + number), 3, data)
    trial, _, _ = study.next_trial(9)
    study.watch(trial, [], 3, data)
    with pytest.raises(Stopped):
        study.watch(trial, epochs_of(2.5), 3, data)
    with pytest.raises(BadInput, match=r"^config.dataset: cifar10 is not what the run was trained on .training images"):
        study.watch(trial, [], 3, data | {"num_train_examples": 2})
    found = report.write(study)
    assert [row["state"] for row in found["trials"]] == ["complete"] * 5 + ["pruned"]
    assert (found["best_trial"], found["tested_trials"]) == (0, {})
    assert found["trials"][1] | {"values": {}} == {
        "trial": 1, "state": "complete", "is_recipe": False, "validation_loss": 1.5, "validation_accuracy": 0.25,
        "best_epoch": 2, "epochs": 3, "train_seconds": 3.0, "values": {},
    }  # fmt: skip
    page = (tmp_path / "w" / "report.html").read_text()
    assert all(title in page for title in ("History", "Importance of the fields", "Parallel coordinates"))
    assert page.count("Plotly.newPlot(") >= 3
    assert 'src="http' not in page


def worker(tmp_path, *arguments):
    """The command of a worker in a process, whose trials take a few seconds."""
    dataset = tmp_path / "d.npz"
    if not dataset.exists():
        write_dataset(dataset)
        (tmp_path / "space.py").write_text(SPACE)
    flags = ["--config=mlp", f"--config.dataset={dataset}", *SHORT]
    return command("tune", *flags, f"--space={tmp_path / 'space.py'}", f"--workdir={tmp_path / 'w'}", *arguments)


def assert_search_is_complete(workdir, num_trials):
    """All trials have ended, and the best alone was tested."""
    found = trials_of(workdir)
    assert len(found["trials"]) == num_trials
    assert {row["state"] for row in found["trials"]} <= {"complete", "pruned"}
    tested = [number for number in range(num_trials) if "test_accuracy" in run_of(workdir / f"trial{number}")]
    assert tested == [found["best_trial"]]


@pytest.mark.slow
def test_trial_of_a_killed_worker_is_continued_by_one_of_two_others(tmp_path):
    long_trials = ("--trials=2", "--config.num_epochs=30")
    first = start(worker(tmp_path, *long_trials))
    assert first.stdout.readline().startswith("trial 0, 1 of 2")
    path = tmp_path / "w" / "trial0" / "metrics.jsonl"
    while not (path.exists() and path.read_text()):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.communicate()
    epochs = metrics_of(tmp_path / "w" / "trial0")
    others = [start(worker(tmp_path, *long_trials)) for _ in range(2)]
    results = [(other.communicate(), other.returncode) for other in others]
    assert [(err, code) for (_, err), code in results] == [("", 0)] * 2
    assert sum("trial 0, 1 of 2" in out for (out, _), _ in results) == 1
    assert_search_is_complete(tmp_path / "w", 2)
    assert metrics_of(tmp_path / "w" / "trial0")[: len(epochs)] == epochs
    screen = (tmp_path / "w" / "trial0" / "screen.txt").read_text()
    step, last = re.search(r"resuming after step (\d+) of (\d+)", screen).groups()
    assert int(step) < int(last)


@pytest.fixture
def postgresql():
    """The URL of a database of a real server, which asks for a password, and the password."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed where Debian's package puts it")
    pytest.importorskip("psycopg")
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}

    def call(program, *arguments):
        path = programs[-1].with_name(program)
        subprocess.run([path, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user)

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        Path(folder, "password").write_text(PASSWORD)
        if as_user:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
        call("initdb", "--pgdata=data", "--username=me", "--auth=scram-sha-256", "--pwfile=password", "--no-sync")
        port = free.getsockname()[1]
        free.close()
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        call("pg_ctl", "--pgdata=data", "--log=log", f"--options={options}", "--wait", "start")
        yield f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{port}/postgres"
        call("pg_ctl", "--pgdata=data", "--mode=immediate", "stop")


@pytest.mark.slow
def test_two_workers_share_a_study_in_postgresql(tmp_path, postgresql):
    refused = start(worker(tmp_path, f"--storage={postgresql.replace(PASSWORD, 'wr0ng')}"))
    out, err = refused.communicate()
    assert (out, err.count("\n"), refused.returncode) == ("", 1, 2)
    assert "password authentication failed" in err
    assert "wr0ng" not in err
    workers = [start(worker(tmp_path, "--trials=4", f"--storage={postgresql}")) for _ in range(2)]
    results = [(process.communicate(), process.returncode) for process in workers]
    assert [(err, code) for (_, err), code in results] == [("", 0)] * 2
    assert_search_is_complete(tmp_path / "w", 4)
    assert PASSWORD not in "".join(out for (out, _), _ in results)
    assert not any(PASSWORD.encode() in path.read_bytes() for path in (tmp_path / "w").iterdir() if path.is_file())


def test_trial_is_taken_by_one_worker_and_taken_over_when_its_claim_is_free(tmp_path):
    workers = [shared_study(tmp_path / "w") for _ in range(3)]
    first, second = workers[0].next_trial(2), workers[1].next_trial(2)
    assert [first.trial.number, second.trial.number] == [0, 1]
    assert first.config != second.config
    assert workers[2].next_trial(2) is None  # two have begun, and both have workers
    first.claim.close()  # as when its worker dies
    again = workers[2].next_trial(2)
    assert (again.trial.number, again.config) == (0, first.config)
    for worker, claimed in ((workers[2], again), (workers[1], second)):
        worker.fail(claimed.trial, BadInput("x"))
        claimed.claim.close()
    assert workers[0].next_trial(2) is None
    assert workers[0].next_trial(3).trial.number == 2


def test_values_depend_on_the_seed_and_the_trial_alone(tmp_path):
    def values(name, reopened=False, **fields):
        drawn, study = [], None
        for _ in range(4):
            if study is None or reopened:
                study = shared_study(tmp_path / name / "w", **fields)
            trial, _, claim = study.next_trial(4)
            drawn.append(str(trial.params))
            with claim:
                study.diverge(trial, ValueError("x"))
        assert len(set(drawn)) == 4
        return drawn

    undisturbed = values("a")
    assert values("b", reopened=True) == undisturbed
    assert values("c", seed=1)[1:] != undisturbed[1:]


def test_search_goes_on_after_a_full_disk_has_cut_off_the_journal(tmp_path):
    shared_study(tmp_path / "w").next_trial(2).claim.close()
    path = tmp_path / "w" / "journal.log"
    path.write_bytes(path.read_bytes()[:-9])
    for number in range(2):
        study = shared_study(tmp_path / "w")
        trial, _, claim = study.next_trial(2)
        assert trial.number == number
        with claim:
            study.diverge(trial, ValueError("x"))


def test_other_search_in_the_workdir_is_refused(tmp_path):
    shared_study(tmp_path / "w").next_trial(1)
    mark = f"^--workdir: {tmp_path / 'w'} holds a search with another config "
    with pytest.raises(BadInput, match=rf"{mark}\(batch_size: 32 -> 16; seed: 0 -> 1\); choose"):
        shared_study(tmp_path / "w", batch_size=16, seed=1)
    with pytest.raises(BadInput, match=rf"{mark}\(num_epochs: 20.0 -> 30.0\)"):
        shared_study(tmp_path / "w", num_epochs=30.0)
    with pytest.raises(BadInput, match=r"^--space: .*space.py, line 5, is not what the search in .*w began with"):
        shared_study(tmp_path / "w", space=SPACE.replace('"sgd"', '"rmsprop"'))
    shared_study(tmp_path / "w", eval_batch_size=50)  # does not change what is trained
    (tmp_path / "w").rename(tmp_path / "renamed")
    assert shared_study(tmp_path / "renamed").trials()[0].number == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(BadInput, match=r"^--workdir: .*run holds a run, not a search; choose another workdir"):
        shared_study(tmp_path / "run")


def test_workers_of_one_study_need_one_folder(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    shared_study(tmp_path / "a" / "w", url=url).next_trial(1)
    (tmp_path / "a" / "w" / "trial0").mkdir()
    with pytest.raises(BadInput, match=r"b/w is not where the study 'w' has its runs; all workers need the same"):
        shared_study(tmp_path / "b" / "w", url=url)
    with pytest.raises(BadInput, match=r"^--storage: the study of the runs in .*a/w is not there; name the storage"):
        shared_study(tmp_path / "a" / "w")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def space(:\n", ["line 1", "SyntaxError"]),
        ("import nothing_of_that_name\n", ["line 1", "nothing_of_that_name"]),
        ("x = 1\n", ["has no function space(trial)"]),
        ("def space(trial):\n    return 1\n", ["returns int, not a dict"]),
        ("def space(trial):\n    return {}\n", ["suggests no value"]),
        ("def space(trial):\n    return {1: 2}\n", ["not a dict of fields"]),
        ("def space(trial):\n    1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("def space(trial):\n    raise SystemExit\n", ["line 2", "sys.exit()"]),
        ("def space(trial):\n    return {\n        'dropuot': 0.1}\n", ["line 3", "config.dropuot", "mean 'dropout'"]),
        ("def space(trial):\n    return {'seed': 1}\n", ["line 2", "config.seed", "cannot be tuned"]),
        ("def space(trial):\n    return {'dropout': 'a'}\n", ["line 2", "config.dropout", "'a'", "a number"]),
        ("def space(trial):\n    return {'momentum': trial.suggest_float('m', 1, 2)}\n", ["line 2", "in [0, 1)"]),
        ("def space(trial):\n    return {'batch_size': trial.suggest_int('b', 1)}\n", ["line 2", "TypeError"]),
        (SPACE, ["--config.learning_rate", "tunes this field"]),
    ],
)  # fmt: skip
def test_mistake_in_the_space_is_one_line_and_nothing_is_written(text, words, tmp_path, capsys, search):
    assert search("w", text, 1, *(["--config.learning_rate=1"] if text == SPACE else [])) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert all(word in err for word in ["space.py", *words]), err
    assert (out, (tmp_path / "w").exists()) == ("", False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials=0"], ["--trials", "0", "1 to 100,000"]),
        (["--config.num_validation=0"], ["config.num_validation", "use 1 or more"]),
        (["--space=spcae.py"], ["--space", "'spcae.py'", "alexnet_space, cnn_space"]),
        (["--space=cnn_spac"], ["--space", "did you mean 'cnn_space'"]),
        (["--storage=postgres"], ["--storage", "not the URL"]),
        (["--storage=nothing://me:s3cret@host/x"], ["--storage", "nothing://me:***@host/x"]),
        (["--storage=oracle://me:s3cret@host/x"], ["--storage", "oracle", "is not installed", "the driver"]),
        (
            ["--storage=postgresql+psycopg://me:s3cret@127.0.0.1:9/x?password=s3cret"],
            ["--storage", "postgresql+psycopg://me:***@127.0.0.1:9/x", "refused", "check the address"],
        ),
    ],
)
def test_unusable_argument_is_one_line_without_the_password(arguments, words, tmp_path, capsys, search):
    assert search("w", SPACE, 1, *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert "s3cret" not in err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("package", ["optuna", "plotly"])
def test_missing_package_is_reported(package, tmp_path, capsys, monkeypatch, search):
    for name in [name for name in sys.modules if name.startswith(("cifar_flax.tuning", f"{package}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("cifar_flax.tuning", None, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert search("w", SPACE, 1) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: the search needs more packages, and {package}")
    assert err.endswith("is not installed; run: pip install 'cifar_flax[tune]'\n")
    assert err.count("\n") == 1
