"""A run with any one of its files damaged ends with the same results or is refused in one line."""

import json
import os
import random
import shutil

import pytest
from hostile import report
from run_records import ONE_DEVICE, assert_same_run, events_of, interrupt_after, metrics_of, run_of

from cifar_flax import train
from cifar_flax.errors import BadInput, Interrupted, Unwritable
from cifar_flax.inference import load_run
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import checkpoints

pytestmark = pytest.mark.medium

NUM_FILES = None if "CIFAR_FLAX_EXAMPLES" in os.environ else 2  # per kind of workdir and damage; None: all


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def flip(file):
    content = bytearray(file.read_bytes())
    if content:
        content[random.Random(str(file.name)).randrange(len(content))] ^= 1 << 3
    file.write_bytes(content)


def delete(file):
    file.unlink()


def unreadable(file):
    """Simulates missing read permission with a folder, which even root cannot read as a file."""
    file.unlink()
    file.mkdir()


DAMAGES = [truncate, empty, flip, delete, unreadable]
KINDS = {"stopped": "stopped run", "finished": "finished run"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def finished(folder, tiny_config):
    """The workdir of an uninterrupted run of three epochs."""
    tiny_config.num_epochs = 3.0
    train_and_evaluate(tiny_config, folder / "finished", ONE_DEVICE)
    return folder / "finished"


@pytest.fixture
def stopped(folder, finished, tiny_config, monkeypatch):
    """The workdir of the same run, stopped in its third epoch."""
    if not (folder / "stopped").exists():
        with monkeypatch.context() as patch:
            patch.setattr(train, "FIRST_CHUNK", 1)
            patch.setattr(train, "CHUNK_SECONDS", 0)
            interrupt_after(patch, 10)
            with pytest.raises(Interrupted):
                train_and_evaluate(tiny_config, folder / "stopped", ONE_DEVICE)
    return folder / "stopped"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_recovered_or_reported(kind, damage, finished, stopped, tiny_config, tmp_path):
    intact = {"stopped": stopped, "finished": finished}[kind]
    files = sorted(path.relative_to(intact) for path in intact.rglob("*") if path.is_file())
    sample = files if NUM_FILES is None else random.Random(damage.__name__ + kind).sample(files, NUM_FILES)
    failures = []
    for file in sample:
        workdir = tmp_path / "workdir"
        shutil.copytree(intact, workdir)
        damage(workdir / file)
        try:
            train_and_evaluate(tiny_config, workdir, ONE_DEVICE)
            if kind == "finished" and "checkpoints" in file.parts:  # a finished run does not read them
                assert (metrics_of(workdir), run_of(workdir)) == (metrics_of(finished), run_of(finished))
            else:
                assert_same_run(workdir, finished)
        except (BadInput, Unwritable) as error:
            if str(workdir) not in str(error):
                failures.append(f"{file}: does not name the workdir: {error}")
        except Exception as error:
            failures.append(f"{file}: {type(error).__name__}: {error}")
        shutil.rmtree(workdir)
    report(f"files of a {KINDS[kind]}, {damage.__name__}", len(sample), len(failures))
    assert not failures, "\n".join(failures)


def newest_checkpoint(workdir):
    return max((workdir / "checkpoints/latest").glob("[0-9]*"), key=lambda folder: int(folder.name))


def damage_arrays(checkpoint):
    """Flips a bit in the largest file of the checkpoint, which contains parameters."""
    flip(max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))


def test_damaged_newest_checkpoint_is_set_aside_and_the_previous_one_is_used(
    finished, stopped, tiny_config, tmp_path, capsys
):
    shutil.copytree(stopped, tmp_path / "w")
    damage_arrays(newest_checkpoint(tmp_path / "w"))
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    output = capsys.readouterr()
    assert str(tmp_path / "w/checkpoints/latest/10") in output.err
    assert "resuming after step 8 of 12" in output.out
    assert [path.name for path in (tmp_path / "w/checkpoints/damaged").iterdir()] == ["latest-10-1"]
    assert_same_run(tmp_path / "w", finished)
    assert [step for step, _ in events_of(tmp_path / "w", "train_loss")] == [4, 8, 12]


def test_finished_run_that_cannot_be_extended_is_not_changed(finished, tiny_config, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/checkpoints")
    tiny_config.num_epochs = 4.0
    with pytest.raises(BadInput, match="are missing"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    for name in ("run.json", "config.json", "metrics.jsonl"):
        assert (tmp_path / "w" / name).read_text() == (finished / name).read_text()


def test_best_checkpoint_that_is_damaged_in_both_places_is_reported(stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    (best,) = (tmp_path / "w/checkpoints/best").glob("[0-9]*")
    damage_arrays(best)
    if (tmp_path / "w/checkpoints/latest" / best.name).exists():
        damage_arrays(tmp_path / "w/checkpoints/latest" / best.name)
    with pytest.raises(BadInput, match=f"best checkpoint, step {best.name}, is damaged or missing"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)


def test_run_whose_checkpoints_are_all_damaged_does_not_start_over(stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    for checkpoint in (tmp_path / "w/checkpoints/latest").glob("[0-9]*"):
        damage_arrays(checkpoint)
    for _ in range(2):  # the second time, they have already been set aside
        with pytest.raises(BadInput, match="damaged and set aside"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert len(metrics_of(tmp_path / "w")) == 2


def test_run_whose_checkpoints_are_missing_does_not_start_over(stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/checkpoints")
    with pytest.raises(BadInput, match=r"checkpoints of .* are missing"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)


def test_damaged_best_checkpoint_is_rebuilt_or_reported(finished, stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    (best,) = (tmp_path / "w/checkpoints/best").glob("[0-9]*")
    damage_arrays(best)
    if (tmp_path / "w/checkpoints/latest" / best.name).exists():
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
        assert_same_run(tmp_path / "w", finished)
    shutil.rmtree(tmp_path / "w")
    shutil.copytree(stopped, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/checkpoints/best")
    shutil.rmtree(tmp_path / "w/checkpoints/latest" / best.name, ignore_errors=True)
    with pytest.raises(BadInput, match=f"best checkpoint, step {best.name}, is"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)


def test_checkpoint_of_another_version_or_network_is_rejected(stopped, tiny_config, tmp_path, monkeypatch):
    shutil.copytree(stopped, tmp_path / "w")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", checkpoints.VERSION + 1)
        with pytest.raises(BadInput, match="has version 1, this program reads version 2"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    config = json.loads((tmp_path / "w/config.json").read_text())
    (tmp_path / "w/config.json").write_text(json.dumps(config | {"optimizer": "sgd"}))
    tiny_config.optimizer = "sgd"
    with pytest.raises(BadInput, match=r"holds another state .*opt_state"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert not (tmp_path / "w/checkpoints/damaged").exists()


def test_commands_reject_files_of_another_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    config = json.loads((tmp_path / "w/config.json").read_text())
    (tmp_path / "w/config.json").write_text(json.dumps(config | {"num_validation": 4_000}))
    with pytest.raises(BadInput, match=r"config\.json is not the config of the best checkpoint"):
        load_run(tmp_path / "w")
    (tmp_path / "w/config.json").write_text(json.dumps(config))
    record = run_of(tmp_path / "w")
    (tmp_path / "w/run.json").write_text(json.dumps(record | {"test_accuracy": 0.99}))
    with pytest.raises(BadInput, match=r"run\.json is damaged"):
        load_run(tmp_path / "w")
    (tmp_path / "w/run.json").write_text(json.dumps(record))
    for best in (tmp_path / "w/checkpoints/best").glob("[0-9]*"):
        damage_arrays(best)
    with pytest.raises(BadInput, match="checkpoints/best/"):
        load_run(tmp_path / "w")


def test_finished_run_restores_missing_metrics_and_run_json(finished, tiny_config, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    (tmp_path / "w/metrics.jsonl").write_text("")
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert_same_run(tmp_path / "w", finished)
    (tmp_path / "w/run.json").unlink()
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert_same_run(tmp_path / "w", finished)
    assert len(events_of(tmp_path / "w", "test_accuracy")) == 1
