"""Every file of a workdir damaged, one at a time: the run goes on to the same numbers or refuses in one line."""

import json
import os
import random
import shutil

import pytest
from hostile import report
from run_records import ONE, assert_same_run, events_of, interrupt_after, metrics_of, run_of

from cifar_flax import train
from cifar_flax.errors import BadInput, Interrupted, Unwritable
from cifar_flax.inference import load_run
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import checkpoints

SAMPLE = None if "CIFAR_FLAX_EXAMPLES" in os.environ else 2  # files, of each kind of workdir and damage


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
    """As a file without permission to read it; to root, who may read everything, a folder is one."""
    file.unlink()
    file.mkdir()


DAMAGES = [truncate, empty, flip, delete, unreadable]
KINDS = {"stopped": "stopped run", "straight": "finished run"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def straight(place, tiny_config):
    """The workdir of an undisturbed run of three epochs."""
    tiny_config.num_epochs = 3.0
    train_and_evaluate(tiny_config, place / "straight", ONE)
    return place / "straight"


@pytest.fixture
def stopped(place, straight, tiny_config, monkeypatch):
    """The workdir of the same run, stopped in its third epoch."""
    if not (place / "stopped").exists():
        with monkeypatch.context() as patch:
            patch.setattr(train, "FIRST_PIECE", 1)
            patch.setattr(train, "PIECE_SECONDS", 0)
            interrupt_after(patch, 10)
            with pytest.raises(Interrupted):
                train_and_evaluate(tiny_config, place / "stopped", ONE)
    return place / "stopped"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_damaged_file_is_overcome_or_named(kind, damage, straight, stopped, tiny_config, tmp_path):
    intact = {"stopped": stopped, "straight": straight}[kind]
    files = sorted(path.relative_to(intact) for path in intact.rglob("*") if path.is_file())
    chosen = files if SAMPLE is None else random.Random(damage.__name__ + kind).sample(files, SAMPLE)
    failures = []
    for file in chosen:
        workdir = tmp_path / "workdir"
        shutil.copytree(intact, workdir)
        damage(workdir / file)
        try:
            train_and_evaluate(tiny_config, workdir, ONE)
            if kind == "straight" and "checkpoints" in file.parts:  # a finished run has no need of them
                assert (metrics_of(workdir), run_of(workdir)) == (metrics_of(straight), run_of(straight))
            else:
                assert_same_run(workdir, straight)
        except (BadInput, Unwritable) as error:
            if str(workdir) not in str(error):
                failures.append(f"{file}: does not name the workdir: {error}")
        except Exception as error:
            failures.append(f"{file}: {type(error).__name__}: {error}")
        shutil.rmtree(workdir)
    report(f"files of a {KINDS[kind]}, {damage.__name__}", len(chosen), len(failures))
    assert not failures, "\n".join(failures)


def the_newest(workdir):
    return max((workdir / "checkpoints/latest").glob("[0-9]*"), key=lambda folder: int(folder.name))


def damage_arrays(checkpoint):
    """Flips a bit in the largest of its files, which holds parameters."""
    flip(max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(
    straight, stopped, tiny_config, tmp_path, capsys
):
    shutil.copytree(stopped, tmp_path / "w")
    damage_arrays(the_newest(tmp_path / "w"))
    train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    said = capsys.readouterr()
    assert str(tmp_path / "w/checkpoints/latest/10") in said.err
    assert "going on after step 8 of 12" in said.out
    assert [path.name for path in (tmp_path / "w/checkpoints/damaged").iterdir()] == ["latest-10-1"]
    assert_same_run(tmp_path / "w", straight)
    assert [step for step, _ in events_of(tmp_path / "w", "train_loss")] == [4, 8, 12]


def test_a_run_whose_checkpoints_are_all_damaged_never_begins_anew(stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    for checkpoint in (tmp_path / "w/checkpoints/latest").glob("[0-9]*"):
        damage_arrays(checkpoint)
    for _ in range(2):  # the second time they lie aside
        with pytest.raises(BadInput, match="damaged and set aside"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert len(metrics_of(tmp_path / "w")) == 2


def test_a_run_whose_checkpoints_are_gone_never_begins_anew(stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/checkpoints")
    with pytest.raises(BadInput, match=r"checkpoints of .* are gone"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE)


def test_a_lost_best_checkpoint_is_taken_from_the_newest_or_missed_at_once(straight, stopped, tiny_config, tmp_path):
    shutil.copytree(stopped, tmp_path / "w")
    (best,) = (tmp_path / "w/checkpoints/best").glob("[0-9]*")
    damage_arrays(best)
    if (tmp_path / "w/checkpoints/latest" / best.name).exists():
        train_and_evaluate(tiny_config, tmp_path / "w", ONE)
        assert_same_run(tmp_path / "w", straight)
    shutil.rmtree(tmp_path / "w")
    shutil.copytree(stopped, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/checkpoints/best")
    shutil.rmtree(tmp_path / "w/checkpoints/latest" / best.name, ignore_errors=True)
    with pytest.raises(BadInput, match=f"best checkpoint, that of step {best.name}"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE)


def test_a_checkpoint_of_another_version_or_network_is_recognised(stopped, tiny_config, tmp_path, monkeypatch):
    shutil.copytree(stopped, tmp_path / "w")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", checkpoints.VERSION + 1)
        with pytest.raises(BadInput, match="is of version 1, this program reads version 2"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    config = json.loads((tmp_path / "w/config.json").read_text())
    (tmp_path / "w/config.json").write_text(json.dumps(config | {"optimizer": "sgd"}))
    tiny_config.optimizer = "sgd"
    with pytest.raises(BadInput, match=r"holds another state .*opt_state"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert not (tmp_path / "w/checkpoints/damaged").exists()


def test_commands_refuse_what_is_not_the_run(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "w")
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


def test_a_finished_run_heals_its_metrics_and_its_record(straight, tiny_config, tmp_path):
    shutil.copytree(straight, tmp_path / "w")
    (tmp_path / "w/metrics.jsonl").write_text("")
    train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert_same_run(tmp_path / "w", straight)
    (tmp_path / "w/run.json").unlink()
    train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert_same_run(tmp_path / "w", straight)
    assert len(events_of(tmp_path / "w", "test_accuracy")) == 1
