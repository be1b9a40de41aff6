"""A run as a whole: its record, the same numbers however it was interrupted, and every way it can end."""

import json
import math
import re
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_records import ONE, assert_same_run, events_of, final_arrays, interrupt_after, metrics_of, run_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_flax import train
from cifar_flax.errors import BadInput, Diverged, Interrupted
from cifar_flax.reporting import console
from cifar_flax.train import train_and_evaluate
from cifar_flax.training import programs
from cifar_flax.workdir import checkpoints, tensorboard

NUM_VALIDATION, NUM_TEST = 21, 27  # of the tiny dataset


@pytest.fixture
def single_steps(monkeypatch):
    """Pieces of one step, so that a signal can arrive after any of them."""
    monkeypatch.setattr(train, "FIRST_PIECE", 1)
    monkeypatch.setattr(train, "PIECE_SECONDS", 0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tmp_path_factory.mktemp("straight")


@pytest.fixture
def straight_run(straight, tiny_config):
    """The workdir of an undisturbed run."""
    train_and_evaluate(tiny_config, straight, ONE)  # the second time it only says that it is done
    return straight


def test_the_record_is_complete(straight_run, tiny_config):
    record = run_of(straight_run)
    assert record["status"] == "done"
    expected = {
        "experiment": "tiny",
        "model": "tiny",
        "dataset": "tiny",
        "seed": 0,
        "num_train_examples": 70,
        "num_validation_examples": 21,
        "num_test_examples": 27,
        "image_shape": [8, 8, 3],
        "class_names": ["dark", "middle", "light"],
        "trainable_parameters": 3 * 3 * 3 * 4 + 4 + 2 * 4 + 4 * 4 * 4 * 3 + 3,
        "non_trainable_parameters": 8,
        "platform": "cpu",
        "num_devices": 1,
        "lowering": "patches",
    }
    assert {field: record[field] for field in expected} == expected
    assert set(record["versions"]) == {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"}
    assert record["git_commit"]
    assert record["device_kind"]
    assert record["processor"]
    assert record["num_cpus"] >= 1
    assert record["compile_seconds"] > 0
    lines = [json.loads(line) for line in (straight_run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 4), (2, 8)]
    best = min(lines, key=lambda line: line["validation_loss"])
    assert record["best_epoch"] == best["epoch"]
    assert record["best_validation_loss"] == best["validation_loss"]
    assert record["best_validation_accuracy"] == best["validation_accuracy"]
    assert record["train_seconds"] == pytest.approx(sum(line["epoch_seconds"] for line in lines))
    assert record["train_images_per_second"] == pytest.approx(128 / record["train_seconds"])
    stored = json.loads((straight_run / "config.json").read_text())
    assert stored == {**tiny_config.to_dict(), "lowering": "patches"}


FIGURES = {"training_images", "augmented_images", "learning_curves", "predictions", "confusion_matrix"}


def test_the_pictures_are_there_as_files_and_in_tensorboard(straight_run):
    assert {path.name for path in (straight_run / "figures").iterdir()} == {f"{name}.png" for name in FIGURES}
    for name in FIGURES:
        assert len(events_of(straight_run, name)) == 1


def test_a_run_without_augmentation_shows_none(tiny_config, tmp_path):
    tiny_config.update(augment="none", num_epochs=0.25)
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert not (tmp_path / "figures" / "augmented_images.png").exists()


def test_tensorboard_has_scalars_histograms_and_hyperparameters(straight_run):
    events = EventAccumulator(str(straight_run / "tensorboard")).Reload()
    names = {tag for kind in ("tensors", "scalars", "histograms") for tag in events.Tags()[kind]}
    assert {"train_loss", "validation_accuracy", "test_accuracy", "conv1/kernel", "norm1/scale"} <= names
    assert "_hparams_/session_start_info" in names
    assert [event.step for event in events.Tensors("train_loss")] == [4, 8]
    assert [event.step for event in events.Tensors("conv1/kernel")] == [4, 8]


def test_a_resumed_run_repeats_no_event(straight_run, tiny_config, tmp_path, monkeypatch, single_steps):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, ONE)
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert [step for step, _ in events_of(tmp_path, "train_loss")] == [4, 8]
    assert events_of(tmp_path, "train_loss") == events_of(straight_run, "train_loss")
    assert len(events_of(tmp_path, "test_accuracy")) == 1


@pytest.mark.parametrize("written", [False, True])
def test_a_run_killed_around_an_epochs_events_has_them_once(written, straight_run, tiny_config, tmp_path, monkeypatch):
    """The checkpoint of the second epoch is there; its events are not, or the run knows nothing of them."""
    with monkeypatch.context() as patch:
        write_epoch = tensorboard.TensorBoard.write_epoch

        def killed(self, epoch, params):
            if epoch["epoch"] == 1 or written:
                write_epoch(self, epoch, params)
            if epoch["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(tensorboard.TensorBoard, "write_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny_config, tmp_path, ONE)
    train_and_evaluate(tiny_config, tmp_path, ONE)
    for tag in ("train_loss", "conv1/kernel", "test_accuracy", "learning_curves", "training_images"):
        assert [step for step, _ in events_of(tmp_path, tag)] == [step for step, _ in events_of(straight_run, tag)], tag
    assert events_of(tmp_path, "train_loss") == events_of(straight_run, "train_loss")


def test_positions_within_an_epoch_are_saved(straight_run, tiny_config, tmp_path, monkeypatch, single_steps):
    saved = []
    save = train.save

    def spy(manager, step, arrays, progress):
        save(manager, step, arrays, progress)
        if manager.directory.name == "latest":
            saved.append(step)

    monkeypatch.setattr(train, "save", spy)
    tiny_config.save_seconds = 1e-9
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert saved == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_same_run(tmp_path, straight_run)


def test_a_finished_run_says_so_and_trains_nothing(straight_run, tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(train, "load", None)
    before = run_of(straight_run)
    record = train_and_evaluate(tiny_config, straight_run, ONE)
    assert record == before == run_of(straight_run)
    out = capsys.readouterr().out
    assert "is done" in out
    assert f"test accuracy {before['test_accuracy']:.2%}" in out


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_sigterm_after_any_step_changes_no_number(step, straight_run, tiny_config, tmp_path, monkeypatch, single_steps):
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        with pytest.raises(Interrupted) as interrupted:
            train_and_evaluate(tiny_config, tmp_path, ONE)
    assert interrupted.value.signal_number == signal.SIGTERM
    assert run_of(tmp_path)["status"] == "interrupted"
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert_same_run(tmp_path, straight_run)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(straight_run, tiny_config, tmp_path):
    train_and_evaluate(tiny_config, tmp_path / "again", ONE)
    assert_same_run(tmp_path / "again", straight_run)
    tiny_config.seed = 1
    train_and_evaluate(tiny_config, tmp_path / "other", ONE)
    assert metrics_of(tmp_path / "other")[0]["train_loss"] != metrics_of(straight_run)[0]["train_loss"]


def test_a_run_can_be_interrupted_again_and_again(straight_run, tiny_config, tmp_path, monkeypatch, single_steps):
    for _ in range(3):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2, signal.SIGINT)
            with pytest.raises(Interrupted):
                train_and_evaluate(tiny_config, tmp_path, ONE)
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert_same_run(tmp_path, straight_run)


def test_the_second_signal_acts_at_once(tiny_config, tmp_path, monkeypatch, single_steps):
    def twice(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.EpochProgress, "update", twice)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(tiny_config, tmp_path, ONE)
    assert run_of(tmp_path)["status"] == "interrupted"


def test_a_run_that_ends_between_its_two_checkpoints_loses_neither(straight_run, tiny_config, tmp_path, monkeypatch):
    """As power loss would: the newest is written, the best is not."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "keep_if_best", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_and_evaluate(tiny_config, tmp_path, ONE)
    assert run_of(tmp_path)["status"] == "failed"
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert_same_run(tmp_path, straight_run)


def test_more_epochs_continue_a_finished_run(straight_run, tiny_config, tmp_path):
    tiny_config.num_epochs = 1.0
    train_and_evaluate(tiny_config, tmp_path, ONE)
    tiny_config.num_epochs = 2.0
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert_same_run(tmp_path, straight_run)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"num_epochs": 2.0}, {"num_epochs": 1.0}),
        ({"num_epochs": 0.5}, {"num_epochs": 1.0}),  # its partial last epoch has been counted as one
        ({"num_epochs": 1.0, "schedule": "cosine"}, {"num_epochs": 2.0, "schedule": "cosine"}),
        ({"seed": 0}, {"seed": 1}),
        ({}, {"learning_rate": 0.5, "batch_size": 8}),
    ],
)
def test_another_config_is_refused_with_the_difference(first, second, tiny_config, tmp_path):
    tiny_config.update(first)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config.to_dict()))
    tiny_config.update(second)
    changed = {field: value for field, value in second.items() if first.get(field) != value}
    with pytest.raises(BadInput) as refused:
        train_and_evaluate(tiny_config, tmp_path, ONE)
    assert all(
        f"{field}: " in str(refused.value) and str(value) in str(refused.value) for field, value in changed.items()
    )


def test_what_changes_no_number_is_no_other_config(straight_run, tiny_config):
    tiny_config.update(data_dir="/elsewhere", experiment="renamed", lowering="library", eval_batch_size=3)
    assert train_and_evaluate(tiny_config, straight_run, ONE)["status"] == "done"


@pytest.mark.parametrize("damage", ["gone", "[]", "{"])
def test_a_run_whose_config_is_lost_is_refused(damage, straight_run, tiny_config, tmp_path):
    (tmp_path / "run.json").write_text((straight_run / "run.json").read_text())
    if damage != "gone":
        (tmp_path / "config.json").write_text(damage)
    with pytest.raises(BadInput, match=r"--workdir: .*config\.json"):
        train_and_evaluate(tiny_config, tmp_path, ONE)


def test_the_recorded_config_is_what_took_effect(tiny_config, tmp_path, monkeypatch, tiny_dataset):
    tiny_config.update(dataset="synthetic", num_validation=5_000, num_epochs=0.25)
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert json.loads((tmp_path / "config.json").read_text())["num_validation"] == 1_000


def test_a_fraction_of_an_epoch_ends_the_run_within_it(tiny_config, tmp_path):
    tiny_config.num_epochs = 1.5
    train_and_evaluate(tiny_config, tmp_path, ONE)
    assert [(line["epoch"], line["step"]) for line in metrics_of(tmp_path)] == [(1, 4), (2, 6)]


def test_best_and_newest_survive_worsening_validation(tiny_config, tmp_path, monkeypatch):
    losses = iter([1.0, 2.0, 3.0, 4.0])
    evaluate_all = train.evaluate_all
    splits = []

    def worsening(program, state, split):
        splits.append(split)
        found = evaluate_all(program, state, split)
        return found._replace(loss=next(losses)) if int(split[2]) == NUM_VALIDATION else found

    monkeypatch.setattr(train, "evaluate_all", worsening)
    tiny_config.num_epochs = 4.0
    record = train_and_evaluate(tiny_config, tmp_path, ONE)
    with checkpoints.Checkpoints(tmp_path) as stored:
        assert stored.best.all_steps() == [4]
        assert stored.latest.all_steps() == [12, 16]
    assert (record["best_epoch"], record["best_validation_loss"]) == (1, 1.0)


def test_the_test_accuracy_is_that_of_the_best_checkpoint(tiny_config, tmp_path, monkeypatch):
    evaluated = []
    evaluate_all = train.evaluate_all

    def spy(program, state, split):
        evaluated.append((int(state.step), int(split[2]) == NUM_TEST))
        return evaluate_all(program, state, split)

    for module in (train, programs):
        monkeypatch.setattr(module, "evaluate_all", spy)
    record = train_and_evaluate(tiny_config, tmp_path, ONE)
    assert evaluated[-1] == (4 * record["best_epoch"], True)
    assert [is_test for _, is_test in evaluated].count(True) == 1


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tiny_config, tmp_path, monkeypatch):
    tiny_config.update(optimizer="sgd", learning_rate=1e30, num_epochs=20.0)
    with pytest.raises(Diverged) as diverged:
        train_and_evaluate(tiny_config, tmp_path, ONE)
    assert re.fullmatch(r"the loss of step \d+ \(epoch 1\) is not finite", str(diverged.value))
    assert (run_of(tmp_path)["status"], run_of(tmp_path)["reason"]) == ("diverged", str(diverged.value))


@pytest.mark.parametrize("step", [6, 8])  # within the second epoch, and its last one, whose parameters no loss sees
def test_a_parameter_that_is_not_finite_ends_the_run_at_its_step(step, tiny_config, tmp_path, monkeypatch):
    def breaks(*arguments):
        return optax.sgd(lambda count: jnp.where(count == step - 1, jnp.inf, 0.01))

    monkeypatch.setattr(programs, "make_optimizer", breaks)
    with pytest.raises(Diverged, match=rf"a parameter after step {step} \(epoch 2\) is not finite"):
        train_and_evaluate(tiny_config, tmp_path, ONE)
    assert run_of(tmp_path)["status"] == "diverged"
    for arrays in (final_arrays(tmp_path), final_arrays(tmp_path, "best")):
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_one_two_and_four_devices_give_the_same_losses(straight_run, tiny_config, tmp_path):
    expected = metrics_of(straight_run)
    for count in (2, 4):
        workdir = tmp_path / str(count)
        train_and_evaluate(tiny_config, workdir, jax.devices()[:count])
        assert run_of(workdir)["num_devices"] == count
        for mine, other in zip(metrics_of(workdir), expected, strict=True):
            for field in ("train_loss", "validation_loss"):
                assert mine[field] == pytest.approx(other[field], rel=1e-4)


def test_a_checkpoint_of_four_devices_is_restored_on_one(
    straight_run, tiny_config, tmp_path, monkeypatch, single_steps
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, jax.devices()[:4])
    record = train_and_evaluate(tiny_config, tmp_path, ONE)
    assert (record["status"], record["num_devices"]) == ("done", 1)
    assert metrics_of(tmp_path)[1]["train_loss"] == pytest.approx(metrics_of(straight_run)[1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "devices"), [("batch_size", 71, 1), ("batch_size", 6, 4), ("eval_batch_size", 6, 4)]
)
def test_a_batch_that_does_not_fit_is_named_before_anything_is_written(field, value, devices, tiny_config, tmp_path):
    tiny_config[field] = value
    with pytest.raises(BadInput, match=f"config.{field}: {value} "):
        train_and_evaluate(tiny_config, tmp_path / "new", jax.devices()[:devices])
    assert not (tmp_path / "new").exists()


def test_a_relative_workdir_is_made_absolute(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_config.num_epochs = 0.25
    train_and_evaluate(tiny_config, "there/tiny", ONE)
    assert run_of(Path("there/tiny"))["status"] == "done"
    assert math.isfinite(run_of(tmp_path / "there" / "tiny")["test_loss"])
