"""Training runs: their records, resuming with the same results, and the ways in which they can end."""

import errno
import io
import json
import math
import os
import re
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_records import ONE_DEVICE, assert_same_run, events_of, final_arrays, interrupt_after, metrics_of, run_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cifar_flax import resume, train
from cifar_flax.errors import BadInput, Diverged, Interrupted, Unwritable
from cifar_flax.reporting import console
from cifar_flax.train import train_and_evaluate
from cifar_flax.training import job, programs
from cifar_flax.workdir import checkpoints, tensorboard

NUM_TEST = 27  # images of the tiny dataset


@pytest.fixture
def single_steps(monkeypatch):
    """Makes each chunk one step, so that a signal can arrive after any step."""
    monkeypatch.setattr(train, "FIRST_CHUNK", 1)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)


@pytest.fixture(scope="module")
def finished_workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def finished_run(finished_workdir, tiny_config):
    """The workdir of an uninterrupted run."""
    train_and_evaluate(tiny_config, finished_workdir, ONE_DEVICE)  # trains only the first time
    return finished_workdir


def test_run_json_is_complete(finished_run, tiny_config):
    record = run_of(finished_run)
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
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 4), (2, 8)]
    best = min(lines, key=lambda line: line["validation_loss"])
    assert record["best_epoch"] == best["epoch"]
    assert record["best_validation_loss"] == best["validation_loss"]
    assert record["best_validation_accuracy"] == best["validation_accuracy"]
    assert record["train_seconds"] == pytest.approx(sum(line["epoch_seconds"] for line in lines))
    assert record["train_images_per_second"] == pytest.approx(128 / record["train_seconds"])
    stored = json.loads((finished_run / "config.json").read_text())
    assert stored == {**tiny_config.to_dict(), "lowering": "patches", "stream": False}


@pytest.mark.medium
def test_learning_rate_of_the_last_step_of_each_epoch_is_recorded(tiny_config, tmp_path, capsys):
    """Eight steps: a warm-up of two, then six from 0.1 down to 0. Their indices count from 0, as in optax."""
    tiny_config.update(optimizer="sgd", learning_rate=0.1, schedule="linear", warmup=0.25)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    rates = [line["learning_rate"] for line in metrics_of(tmp_path)]
    assert rates == pytest.approx([0.1 * 5 / 6, 0.1 / 6])
    assert events_of(tmp_path, "learning_rate") == [(4, pytest.approx(rates[0])), (8, pytest.approx(rates[1]))]
    assert re.findall(r" - learning_rate: (\S+) - ", capsys.readouterr().out) == ["0.0833", "0.0167"]


@pytest.mark.medium
def test_constant_learning_rate_is_recorded_but_not_printed(tiny_config, tmp_path, capsys):
    tiny_config.num_epochs = 0.25
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert [line["learning_rate"] for line in metrics_of(tmp_path)] == [1e-3]
    assert " - learning_rate" not in capsys.readouterr().out


@pytest.mark.medium
def test_run_of_a_version_that_recorded_no_learning_rate_is_continued(
    finished_run, tiny_config, tmp_path, monkeypatch, single_steps
):
    with monkeypatch.context() as patch:
        finish_epoch = train.finish_epoch

        def finish_epoch_as_before(*arguments):
            position = finish_epoch(*arguments)
            del position.epochs[-1]["learning_rate"]
            return position

        patch.setattr(train, "finish_epoch", finish_epoch_as_before)
        interrupt_after(patch, 5)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    first, second = metrics_of(finished_run)
    del first["learning_rate"]
    assert metrics_of(tmp_path) == [first, second]


FIGURES = {"training_images", "augmented_images", "learning_curves", "predictions", "confusion_matrix"}


def test_figures_exist_as_files_and_in_tensorboard(finished_run):
    assert {path.name for path in (finished_run / "figures").iterdir()} == {f"{name}.png" for name in FIGURES}
    for name in FIGURES:
        assert len(events_of(finished_run, name)) == 1


@pytest.mark.medium
def test_run_without_augmentation_has_no_figure_of_it(tiny_config, tmp_path):
    tiny_config.update(augment="none", num_epochs=0.25)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert not (tmp_path / "figures" / "augmented_images.png").exists()


def test_tensorboard_has_scalars_histograms_and_hyperparameters(finished_run):
    pytest.importorskip("tensorflow")
    events = EventAccumulator(str(finished_run / "tensorboard")).Reload()
    names = {tag for kind in ("tensors", "scalars", "histograms") for tag in events.Tags()[kind]}
    assert {"train_loss", "validation_accuracy", "test_accuracy", "conv1/kernel", "norm1/scale"} <= names
    assert "_hparams_/session_start_info" in names
    assert [event.step for event in events.Tensors("train_loss")] == [4, 8]
    assert [event.step for event in events.Tensors("conv1/kernel")] == [4, 8]


@pytest.mark.medium
def test_resumed_run_writes_no_tensorboard_event_twice(finished_run, tiny_config, tmp_path, monkeypatch, single_steps):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert [step for step, _ in events_of(tmp_path, "train_loss")] == [4, 8]
    assert events_of(tmp_path, "train_loss") == events_of(finished_run, "train_loss")
    assert len(events_of(tmp_path, "test_accuracy")) == 1


@pytest.mark.medium
@pytest.mark.parametrize("written", [False, True])
def test_run_killed_while_writing_events_has_each_event_once(written, finished_run, tiny_config, tmp_path, monkeypatch):
    """The checkpoint of the second epoch exists; the run was killed before or after writing the epoch's events."""
    with monkeypatch.context() as patch:
        write_epoch = tensorboard.TensorBoard.write_epoch

        def killed(self, epoch, params):
            if epoch["epoch"] == 1 or written:
                write_epoch(self, epoch, params)
            if epoch["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(tensorboard.TensorBoard, "write_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    for tag in ("train_loss", "conv1/kernel", "test_accuracy", "learning_curves", "training_images"):
        assert [step for step, _ in events_of(tmp_path, tag)] == [step for step, _ in events_of(finished_run, tag)], tag
    assert events_of(tmp_path, "train_loss") == events_of(finished_run, "train_loss")


@pytest.mark.medium
def test_run_killed_before_the_first_events_has_them_after_it_is_resumed(
    finished_run, tiny_config, tmp_path, monkeypatch, single_steps
):
    with monkeypatch.context() as patch:
        patch.setattr(tensorboard.TensorBoard, "start", lambda self: None)  # as if it came too late
        interrupt_after(patch, 2)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert not (tmp_path / "tensorboard").exists()
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    for tag in ("training_images", "augmented_images", "train_loss"):
        assert events_of(tmp_path, tag) == events_of(finished_run, tag), tag
    assert recorded_epochs(tmp_path) == [2.0]


@pytest.mark.medium
def test_tensorflow_is_imported_after_the_first_step(tiny_config, tmp_path, monkeypatch):
    order = []
    show, import_writers = console.EpochProgress._show, tensorboard._import_writers
    monkeypatch.setattr(console.EpochProgress, "_show", lambda *values: (order.append("step"), show(*values)))
    monkeypatch.setattr(tensorboard, "_import_writers", lambda: order.append("import") or import_writers())
    tiny_config.num_epochs = 0.25
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert order[:2] == ["step", "import"]


@pytest.mark.medium
def test_run_whose_events_cannot_be_written_ends_and_is_resumed(finished_run, tiny_config, tmp_path):
    (tmp_path / "tensorboard").write_text("a file, not a folder")
    with pytest.raises(Unwritable, match=r"TensorBoard's events: Not a directory\)"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    (tmp_path / "tensorboard").unlink()
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)
    assert events_of(tmp_path, "train_loss") == events_of(finished_run, "train_loss")


@pytest.mark.medium
def test_checkpoints_are_saved_within_an_epoch(finished_run, tiny_config, tmp_path, monkeypatch, single_steps):
    saved = []
    save = resume.save

    def spy(manager, step, arrays, progress):
        save(manager, step, arrays, progress)
        if manager.directory.name == "latest":
            saved.append(step)

    monkeypatch.setattr(resume, "save", spy)
    tiny_config.save_seconds = 1e-9
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert saved == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_same_run(tmp_path, finished_run)


def test_finished_run_is_not_trained_again(finished_run, tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(train, "load", None)
    before = run_of(finished_run)
    record = train_and_evaluate(tiny_config, finished_run, ONE_DEVICE)
    assert record == before == run_of(finished_run)
    out = capsys.readouterr().out
    assert "is done" in out
    assert f"test accuracy {before['test_accuracy']:.2%}" in out


@pytest.mark.medium
@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_sigterm_after_any_step_does_not_change_the_results(
    step, finished_run, tiny_config, tmp_path, monkeypatch, single_steps
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        with pytest.raises(Interrupted) as error:
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert error.value.signal_number == signal.SIGTERM
    assert run_of(tmp_path)["status"] == "interrupted"
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)


@pytest.mark.medium
def test_same_seed_gives_identical_results_and_another_seed_does_not(finished_run, tiny_config, tmp_path):
    train_and_evaluate(tiny_config, tmp_path / "again", ONE_DEVICE)
    assert_same_run(tmp_path / "again", finished_run)
    tiny_config.seed = 1
    train_and_evaluate(tiny_config, tmp_path / "other", ONE_DEVICE)
    assert metrics_of(tmp_path / "other")[0]["train_loss"] != metrics_of(finished_run)[0]["train_loss"]


@pytest.mark.medium
def test_run_can_be_interrupted_repeatedly(finished_run, tiny_config, tmp_path, monkeypatch, single_steps):
    for _ in range(3):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2, signal.SIGINT)
            with pytest.raises(Interrupted):
                train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)


class LostStdout(io.StringIO):
    """A stdout that cannot be written from the first epoch on."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if "Epoch" in text:
            raise self.error
        return super().write(text)


@pytest.mark.medium
def test_run_whose_output_is_cut_off_is_saved_and_resumes(finished_run, tiny_config, tmp_path, monkeypatch):
    """As by `| head`: the reader of stdout went away, nothing is wrong with the workdir."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", LostStdout(BrokenPipeError()))
        with pytest.raises(Interrupted, match="SIGPIPE"):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert (run_of(tmp_path)["status"], run_of(tmp_path)["checkpoint_step"]) == ("interrupted", 4)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)


@pytest.mark.medium
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_run_continues_without_an_output_that_cannot_be_written(
    number, finished_run, tiny_config, tmp_path, monkeypatch, capsys
):
    """As on a terminal that is gone, or with a log on a full disk."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", LostStdout(OSError(number, os.strerror(number))))
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)
    assert capsys.readouterr().err.count(f"stdout cannot be written (OSError: [Errno {number}]") == 1


@pytest.mark.medium
def test_non_finite_test_loss_ends_the_run_as_diverged(tiny_config, tmp_path, monkeypatch):
    evaluate_split = programs.evaluate_split
    monkeypatch.setattr(programs, "evaluate_split", lambda *args: evaluate_split(*args)._replace(loss=math.nan))
    with pytest.raises(Diverged, match=r"^the test loss is not finite$"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert run_of(tmp_path)["status"] == "diverged"


@pytest.mark.medium
def test_second_signal_stops_the_run_immediately(tiny_config, tmp_path, monkeypatch, single_steps):
    def raise_twice(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.EpochProgress, "update", raise_twice)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert run_of(tmp_path)["status"] == "interrupted"


@pytest.mark.medium
def test_run_that_stops_before_the_best_checkpoint_is_written_recovers_it(
    finished_run, tiny_config, tmp_path, monkeypatch
):
    """A loss of power can cause this: the newest checkpoint is written, the best is not."""
    with monkeypatch.context() as patch:
        patch.setattr(resume.SavedPositions, "_keep_if_best", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert run_of(tmp_path)["status"] == "failed"
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)


@pytest.mark.medium
def test_run_killed_before_it_recorded_its_best_epoch_does_not_validate_it_again(tiny_config, tmp_path, monkeypatch):
    """The second validation could be worse, and the best checkpoint before is gone."""

    def killed(self, position):
        self._keep_if_best(position)
        if len(position.epochs) == 2:
            raise KeyboardInterrupt
        self._records.write_epochs(position.epochs, 16)

    losses = iter([2.0, 1.0, 3.0])
    evaluate_split = train.evaluate_split
    monkeypatch.setattr(train, "evaluate_split", lambda *args: evaluate_split(*args)._replace(loss=next(losses)))
    tiny_config.num_epochs = 3.0
    with monkeypatch.context() as patch:
        patch.setattr(resume.SavedPositions, "end_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    record = train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert (record["best_epoch"], record["best_validation_loss"]) == (2, 1.0)
    assert [line["validation_loss"] for line in metrics_of(tmp_path)] == [2.0, 1.0, 3.0]


@pytest.mark.medium
def test_finished_run_continues_with_more_epochs(finished_run, tiny_config, tmp_path):
    tiny_config.num_epochs = 1.0
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    tiny_config.num_epochs = 2.0
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert_same_run(tmp_path, finished_run)


@pytest.mark.medium
def test_figures_and_events_are_those_of_one_run_after_more_epochs(finished_run, tiny_config, tmp_path):
    tiny_config.num_epochs = 1.0
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    tiny_config.num_epochs = 2.0
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    for tag in ("train_loss", "test_accuracy", "learning_curves", "predictions"):
        assert events_of(tmp_path, tag) == events_of(finished_run, tag), tag
    for name in FIGURES:
        drawn, expected = (folder / "figures" / f"{name}.png" for folder in (tmp_path, finished_run))
        assert drawn.read_bytes() == expected.read_bytes()
    assert before["learning_curves.png"] != (tmp_path / "figures" / "learning_curves.png").read_bytes()
    assert recorded_epochs(tmp_path) == [2.0]
    assert json.loads((tmp_path / "config.json").read_text())["num_epochs"] == 2.0


def recorded_epochs(workdir):
    """`num_epochs` of all hyperparameters in TensorBoard's files, of which it shows the first."""
    files = (workdir / "tensorboard").iterdir()
    values = [value for file in files for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    stored = [value for value in values if value.tag == "_hparams_/session_start_info"]
    contents = [HParamsPluginData.FromString(value.metadata.plugin_data.content) for value in stored]
    return [content.session_start_info.hparams["num_epochs"].number_value for content in contents]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"num_epochs": 2.0}, {"num_epochs": 1.0}),
        ({"num_epochs": 0.5}, {"num_epochs": 1.0}),  # a partial last epoch counts as an epoch
        ({"num_epochs": 1.0, "schedule": "cosine"}, {"num_epochs": 2.0, "schedule": "cosine"}),
        ({"seed": 0}, {"seed": 1}),
        ({}, {"learning_rate": 0.5, "batch_size": 8}),
    ],
)
def test_other_config_is_rejected_with_the_differences(first, second, tiny_config, tmp_path):
    tiny_config.update(first)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config.to_dict()))
    tiny_config.update(second)
    changed = {field: value for field, value in second.items() if first.get(field) != value}
    with pytest.raises(BadInput) as error:
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert all(f"{field}: " in str(error.value) and str(value) in str(error.value) for field, value in changed.items())


def test_runtime_fields_may_differ(finished_run, tiny_config):
    tiny_config.update(data_dir="/elsewhere", experiment="renamed", lowering="library", eval_batch_size=3)
    assert train_and_evaluate(tiny_config, finished_run, ONE_DEVICE)["status"] == "done"


@pytest.mark.parametrize("damage", ["missing", "[]", "{"])
def test_run_with_a_lost_or_damaged_config_is_rejected(damage, finished_run, tiny_config, tmp_path):
    (tmp_path / "run.json").write_text((finished_run / "run.json").read_text())
    if damage != "missing":
        (tmp_path / "config.json").write_text(damage)
    with pytest.raises(BadInput, match=r"--workdir: .*config\.json"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)


@pytest.mark.medium
def test_recorded_config_has_the_values_that_were_used(tiny_config, tmp_path, monkeypatch, tiny_dataset):
    tiny_config.update(dataset="synthetic", num_validation=5_000, num_epochs=0.25)
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert json.loads((tmp_path / "config.json").read_text())["num_validation"] == 1_000


@pytest.mark.medium
def test_fractional_number_of_epochs_ends_within_an_epoch(tiny_config, tmp_path):
    tiny_config.num_epochs = 1.5
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert [(line["epoch"], line["step"]) for line in metrics_of(tmp_path)] == [(1, 4), (2, 6)]


@pytest.mark.medium
def test_best_checkpoint_is_kept_in_worse_epochs(tiny_config, tmp_path, monkeypatch):
    losses = iter([1.0, 2.0, 3.0, 4.0])
    evaluate_split = train.evaluate_split

    def worsening(program, state, split):
        return evaluate_split(program, state, split)._replace(loss=next(losses))

    monkeypatch.setattr(train, "evaluate_split", worsening)
    tiny_config.num_epochs = 4.0
    record = train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    with checkpoints.Checkpoints(tmp_path) as stored:
        assert stored.best.all_steps() == [4]
        assert stored.latest.all_steps() == [12, 16]
    assert (record["best_epoch"], record["best_validation_loss"]) == (1, 1.0)


@pytest.mark.medium
def test_best_checkpoint_is_tested_exactly_once(tiny_config, tmp_path, monkeypatch):
    evaluated = []
    evaluate_split = train.evaluate_split

    def spy(program, state, split):
        evaluated.append((int(state.step), int(split.num_images) == NUM_TEST))
        return evaluate_split(program, state, split)

    for module in (train, programs):
        monkeypatch.setattr(module, "evaluate_split", spy)
    record = train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert evaluated[-1] == (4 * record["best_epoch"], True)
    assert [is_test for _, is_test in evaluated].count(True) == 1


@pytest.mark.medium
def test_non_finite_loss_ends_the_run_as_diverged(tiny_config, tmp_path, monkeypatch):
    tiny_config.update(optimizer="sgd", learning_rate=1e30, num_epochs=20.0)
    with pytest.raises(Diverged) as error:
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert re.fullmatch(r"the loss of step \d+ \(epoch 1\) is not finite", str(error.value))
    assert (run_of(tmp_path)["status"], run_of(tmp_path)["reason"]) == ("diverged", str(error.value))


@pytest.mark.medium
@pytest.mark.parametrize("step", [6, 8])  # within the second epoch, and its last step, which no later loss checks
def test_non_finite_parameter_ends_the_run_as_diverged(step, tiny_config, tmp_path, monkeypatch):
    def make_broken_optimizer(*arguments):
        return optax.sgd(lambda count: jnp.where(count == step - 1, jnp.inf, 0.01))

    monkeypatch.setattr(job, "make_optimizer", make_broken_optimizer)
    with pytest.raises(Diverged, match=rf"a parameter after step {step} \(epoch 2\) is not finite"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert run_of(tmp_path)["status"] == "diverged"
    for arrays in (final_arrays(tmp_path), final_arrays(tmp_path, "best")):
        assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.medium
def test_number_of_devices_does_not_change_the_losses(finished_run, tiny_config, tmp_path):
    expected = metrics_of(finished_run)
    for count in (2, 4):
        workdir = tmp_path / str(count)
        train_and_evaluate(tiny_config, workdir, jax.devices()[:count])
        assert run_of(workdir)["num_devices"] == count
        for line, expected_line in zip(metrics_of(workdir), expected, strict=True):
            for field in ("train_loss", "validation_loss"):
                assert line[field] == pytest.approx(expected_line[field], rel=1e-4)


@pytest.mark.medium
def test_checkpoint_of_four_devices_is_restored_on_one(finished_run, tiny_config, tmp_path, monkeypatch, single_steps):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path, jax.devices()[:4])
    record = train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert (record["status"], record["num_devices"]) == ("done", 1)
    assert metrics_of(tmp_path)[1]["train_loss"] == pytest.approx(metrics_of(finished_run)[1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "devices"), [("batch_size", 71, 1), ("batch_size", 6, 4), ("eval_batch_size", 6, 4)]
)
def test_unsuitable_batch_size_is_rejected_before_anything_is_written(field, value, devices, tiny_config, tmp_path):
    tiny_config[field] = value
    with pytest.raises(BadInput, match=f"config.{field}: {value} "):
        train_and_evaluate(tiny_config, tmp_path / "new", jax.devices()[:devices])
    assert not (tmp_path / "new").exists()


@pytest.mark.medium
def test_relative_workdir_is_relative_to_the_current_folder(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_config.num_epochs = 0.25
    train_and_evaluate(tiny_config, "runs/tiny", ONE_DEVICE)
    assert run_of(Path("runs/tiny"))["status"] == "done"
    assert math.isfinite(run_of(tmp_path / "runs" / "tiny")["test_loss"])
