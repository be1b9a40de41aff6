"""A run, from its config to its test accuracy: `train_and_evaluate` reads from top to bottom."""

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.config import differences, extends, validate, validate_sizes
from cifar_flax.data import Dataset, load, num_validation_of
from cifar_flax.errors import BadInput, Diverged
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.reporting.run_figures import Gallery
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.programs import (
    Job,
    Programs,
    augmentation_of,
    evaluate_all,
    make_job,
    make_programs,
    resolve_lowering,
    test_measures,
    zero_metrics,
)
from cifar_flax.training.state import TrainState, count_parameters, create_train_state, split_roots
from cifar_flax.training.steps import replicated
from cifar_flax.workdir.checkpoints import Checkpoints, Damaged, abstract, damaged_folder, newest, read, save, set_aside
from cifar_flax.workdir.environment import environment
from cifar_flax.workdir.epochs import best_of, validated
from cifar_flax.workdir.records import Records, alone
from cifar_flax.workdir.tensorboard import TensorBoard

PIECE_SECONDS = 2.0  # between two looks at the clock and at signals: dispatch is lost in it, progress is not
FIRST_PIECE = 1  # step, before their speed is known


class Position(NamedTuple):
    """Where a run stands; this is what a checkpoint holds.

    Attributes:
        state: after the last finished step.
        metrics: sums over the unfinished epoch.
        epochs: the lines of metrics.jsonl, one for each finished epoch.
        seconds: of training in the unfinished epoch.
    """

    state: TrainState
    metrics: Metrics
    epochs: list[dict[str, Any]]
    seconds: float


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains as `config` says, or goes on where `workdir` stopped, and tests the best checkpoint once.

    Without validation images there is no best one: the network is tested as its last step leaves it.

    Args:
        config: all fields of `config.base_config()`.
        workdir: folder of the run's records and checkpoints; made if it is not there.
        devices: what to split each batch over; all devices of jax' default platform if not given.

    Returns:
        What run.json holds.

    Raises:
        BadInput: a config, dataset or workdir that cannot be used.
        Interrupted: by SIGINT or SIGTERM; the state is saved.
        Diverged: a loss or a parameter was not finite; the last checkpoint remains.
        Unwritable: a full disk, or a workdir that cannot be written any more; the last checkpoint remains.
    """
    validate(config)
    devices = list(devices or jax.devices())
    config = resolve(config, devices)
    workdir = Path(workdir).expanduser().absolute()
    records = Records(workdir)
    refuse_another_config(records, config)
    if records.done and not extends(records.config, config):
        console.say(f"This run is done; nothing is trained again.\nworkdir     {workdir}")
        console.result(records.run, workdir)
        return records.run
    with alone(workdir):
        records.read()  # another process may have been here until now
        refuse_another_config(records, config)
        return _train_and_evaluate(config, records, devices)


def _train_and_evaluate(config: ConfigDict, records: Records, devices: list[jax.Device]) -> dict[str, Any]:
    """The same, in a workdir that is this process' own."""
    began = time.perf_counter()
    dataset = load(config)
    validate_sizes(config, len(dataset.train), dataset.image_shape, len(devices))
    console.first_screen(config, dataset, time.perf_counter() - began, devices, records.workdir)
    records.begin(config, identity(config, dataset) | environment(devices))
    with records.status(), Interruption() as interruption, Checkpoints(records.workdir) as checkpoints:
        job = make_job(config, dataset, devices)
        position = restore_or_start(job, checkpoints, config, records, dataset)
        with TensorBoard(records.workdir, int(position.state.step)) as tensorboard:
            train(job, position, dataset, config, records, checkpoints, tensorboard, interruption)
    console.result(records.run, records.workdir)
    return records.run


def train(
    job: Job,
    position: Position,
    dataset: Dataset,
    config: ConfigDict,
    records: Records,
    checkpoints: Checkpoints,
    tensorboard: TensorBoard,
    interruption: Interruption,
) -> None:
    """From `position` to the test accuracy."""
    console.say(console.model_table(job.model, dataset.image_shape))
    programs = make_programs(job, position.state, position.metrics, dataset, config)
    records.update(
        trainable_parameters=count_parameters(position.state.params),
        non_trainable_parameters=count_parameters(position.state.batch_stats),
        compile_seconds=programs.compile_seconds,
    )
    record_epochs(records, position, job)  # lines that no checkpoint knows of are cut off
    tensorboard.complete(position.epochs, position.state.params)
    console.say(f"compiled in {programs.compile_seconds:.1f} s\n")
    if int(position.state.step) == 0:
        tensorboard.write_config(config.to_dict())
        key = split_roots(position.state.rng).augmentation
        Gallery(records, tensorboard, step=0).add_inputs(dataset, augmentation_of(config), key)
    for epoch in range(len(position.epochs) + 1, job.num_epochs + 1):
        stop = min(epoch * job.steps_per_epoch, job.num_steps)
        while True:
            position = train_epoch(job, programs, position, epoch, stop, config.save_seconds, interruption)
            if int(position.state.step) == stop:
                break
            save_position(position, checkpoints, records, config)
            interruption.raise_if_received()
        position = finish_epoch(job, programs, position, epoch)
        save_position(position, checkpoints, records, config)
        keep_if_best(position, checkpoints, config)
        record_epochs(records, position, job)
        tensorboard.write_epoch(position.epochs[-1], position.state.params)
        console.epoch_line(title_of(epoch, job), position.epochs)
        interruption.raise_if_received()
    measures, predicted = test_measures(programs, network_that_counts(job, position, checkpoints))
    tensorboard.write_test(job.num_steps, measures)
    gallery = Gallery(records, tensorboard, job.num_steps)
    gallery.add_curves(position.epochs)
    gallery.add_predictions(dataset, predicted, config.seed)
    records.finish(**measures)


def resolve(config: ConfigDict, devices: list[jax.Device]) -> ConfigDict:
    """A copy of the config as it takes effect on these devices: what `auto` stands for, what a set has."""
    config = config.copy_and_resolve_references()
    config.num_validation = num_validation_of(config)
    config.lowering = resolve_lowering(config, devices[0].platform)
    return config


def refuse_another_config(records: Records, config: ConfigDict) -> None:
    """Raises BadInput where the workdir holds a run of another config, or of one that nobody knows."""
    if not records.config and (records.run or (records.workdir / "checkpoints").exists()):
        raise BadInput(f"--workdir: {records.workdir} holds a run without its config.json; choose another workdir")
    differing = differences(records.config, config) if records.config else []
    if differing:
        raise BadInput(
            f"--workdir: {records.workdir} holds a run of another config ({'; '.join(differing)}); "
            "choose another workdir or the stored values"
        )


def identity(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """What is trained on what, in run.json's fields."""
    fields = ("experiment", "model", "dataset", "seed", "lowering")
    return {field: config[field] for field in fields} | {
        "num_train_examples": len(dataset.train),
        "num_validation_examples": len(dataset.validation),
        "num_test_examples": len(dataset.test),
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
    }


def restore_or_start(
    job: Job, checkpoints: Checkpoints, config: ConfigDict, records: Records, dataset: Dataset
) -> Position:
    """The position of the newest sound checkpoint, or the one before the first step.

    Raises:
        BadInput: there are checkpoints, but no sound one, or they are of another config.
    """
    create = jax.jit(
        partial(create_train_state, job.model, job.optimizer, averaged=bool(config.average_every)),
        out_shardings=replicated(job.mesh),
    )
    rng = jax.random.key(config.seed)
    beginning = rng, dataset.train.images
    like = abstract((jax.eval_shape(create, *beginning), jax.eval_shape(Metrics.zero)), replicated(job.mesh))
    found = newest(checkpoints.latest, like)
    if found is None:
        refuse_lost_checkpoints(records, checkpoints)
        return Position(create(*beginning), zero_metrics(job), epochs=[], seconds=0.0)
    (state, metrics), stored = found
    differing = differences(stored["config"], config)
    if differing:
        raise BadInput(
            f"--workdir: {records.workdir / 'config.json'} is not the config of the checkpoints "
            f"({'; '.join(differing)}); restore it or choose another workdir"
        )
    position = Position(state, metrics, stored["epochs"], stored["seconds"])
    secure_best(position, checkpoints, like, config)
    console.say(f"going on after step {int(state.step):,} of {job.num_steps:,}\n")
    return position


def refuse_lost_checkpoints(records: Records, checkpoints: Checkpoints) -> None:
    """Raises BadInput if there has been a checkpoint: a run never starts from zero in silence."""
    aside = damaged_folder(records.workdir)
    if "checkpoint_step" in records.run or aside.exists() or checkpoints.best.all_steps():
        what = f"damaged and set aside in {aside}" if aside.exists() else "gone"
        raise BadInput(
            f"--workdir: the newest checkpoints of {records.workdir} are {what}; restore them, or choose another "
            "workdir to train from the start"
        )


def secure_best(position: Position, checkpoints: Checkpoints, like: Any, config: ConfigDict) -> None:
    """Sees that the best epoch's checkpoint is sound; where it is not, takes it from the newest ones.

    A later one than the position's is sound, too: its epoch was finished, its newest checkpoint was damaged, and it
    will come again.

    Raises:
        BadInput: the best is lost.
    """
    if not position.epochs or not validated(position.epochs):
        return
    step = best_of(position.epochs)["step"]
    for stored in checkpoints.best.all_steps():
        try:
            if stored >= step and read(checkpoints.best, stored, like):
                return
        except Damaged as error:
            set_aside(checkpoints.best, stored, error)
    if step == int(position.state.step):  # the run may have ended between the two checkpoints of an epoch
        keep_if_best(position, checkpoints, config)
    elif step in checkpoints.latest.all_steps():
        save(checkpoints.best, step, *read(checkpoints.latest, step, like))
    else:
        raise BadInput(
            f"--workdir: the best checkpoint, that of step {step}, is damaged or gone and cannot be had again; restore "
            f"it in {checkpoints.best.directory}, or choose another workdir to train from the start"
        )


def save_position(position: Position, checkpoints: Checkpoints, records: Records, config: ConfigDict) -> None:
    """Saves the position as the newest, and notes in run.json that there is a checkpoint."""
    save(checkpoints.latest, *checkpoint_of(position, config))
    records.update(checkpoint_step=int(position.state.step))


def checkpoint_of(position: Position, config: ConfigDict) -> tuple[int, Any, dict[str, Any]]:
    """(step, arrays, progress) for `checkpoints.save`."""
    progress = {"epochs": position.epochs, "seconds": position.seconds, "config": config.to_dict()}
    return int(position.state.step), (position.state, position.metrics), progress


def title_of(epoch: int, job: Job) -> str:
    return f"Epoch {epoch}/{job.num_epochs}"


def train_epoch(
    job: Job,
    programs: Programs,
    position: Position,
    epoch: int,
    stop: int,
    save_seconds: float,
    interruption: Interruption,
) -> Position:
    """Trains to step `stop`, the end of `epoch`, or to where a signal arrives or the position is to be saved.

    Raises:
        Diverged: names the step.
    """
    state, metrics, epochs, seconds = position
    save_at = seconds + save_seconds
    step, first = int(state.step), (epoch - 1) * job.steps_per_epoch
    done, total = (step - first) * job.batch_size, (stop - first) * job.batch_size
    bar = console.EpochProgress(title_of(epoch, job), done, total)
    piece_seconds = min(PIECE_SECONDS, save_seconds)
    piece = steps_in(piece_seconds, epochs[-1]["images_per_second"] / job.batch_size) if epochs else FIRST_PIECE
    while step < stop and seconds < save_at and not interruption.received:
        piece_stop = min(stop, step + piece)
        began = time.perf_counter()
        state, metrics, diverged = programs.train_steps(state, metrics, *programs.train, np.int32(piece_stop))
        if diverged:  # asking waits for the device
            bar.close()
            raise Diverged(f"{what_diverged(state)} (epoch {epoch}) is not finite")
        elapsed = time.perf_counter() - began
        rate = (piece_stop - step) / elapsed
        piece = steps_in(piece_seconds, rate)
        step, seconds = piece_stop, seconds + elapsed
        loss, accuracy = metrics.means()
        bar.update((step - first) * job.batch_size, loss, accuracy, rate * job.batch_size)
    bar.close()
    return Position(state, metrics, epochs, seconds)


def what_diverged(state: TrainState) -> str:
    """Which number is not finite, and of which step."""
    if all(np.isfinite(array).all() for array in jax.tree.leaves(jax.device_get(state.params))):
        return f"the loss of step {int(state.step) + 1}"
    return f"a parameter after step {int(state.step)}"


def steps_in(seconds: float, steps_per_second: float) -> int:
    return max(1, round(seconds * steps_per_second))


def finish_epoch(job: Job, programs: Programs, position: Position, epoch: int) -> Position:
    """Validates where there are images for it, and turns the epoch's sums into a line of metrics.jsonl."""
    state, metrics, epochs, seconds = position
    train_loss, train_accuracy = metrics.means()
    line: dict[str, Any] = {
        "epoch": epoch,
        "step": int(state.step),
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "epoch_seconds": seconds,
        "images_per_second": int(metrics.num_images) / seconds,
    }
    if programs.validation[2]:
        validation = evaluate_all(programs.evaluate, state, programs.validation)
        if not math.isfinite(validation.loss):
            raise Diverged(f"the validation loss after step {int(state.step)} (epoch {epoch}) is not finite")
        line |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
    return Position(state, zero_metrics(job), [*epochs, line], seconds=0.0)


def keep_if_best(position: Position, checkpoints: Checkpoints, config: ConfigDict) -> None:
    """Saves the position as the best if it is the end of the best epoch so far."""
    if validated(position.epochs) and best_of(position.epochs)["step"] == int(position.state.step):
        save(checkpoints.best, *checkpoint_of(position, config))


def record_epochs(records: Records, position: Position, job: Job) -> None:
    """Writes metrics.jsonl and what run.json says of it."""
    records.write_metrics(position.epochs)
    if position.epochs:
        best, last = best_of(position.epochs), position.epochs[-1]
        seconds = sum(line["epoch_seconds"] for line in position.epochs)
        records.update(
            best_epoch=best["epoch"],
            best_validation_loss=best.get("validation_loss"),
            best_validation_accuracy=best.get("validation_accuracy"),
            train_seconds=seconds,
            train_images_per_second=last["step"] * job.batch_size / seconds,
        )


def network_that_counts(job: Job, position: Position, checkpoints: Checkpoints) -> TrainState:
    """The state of the best checkpoint; without validation, the one at the end.

    Raises:
        BadInput: it is gone or damaged.
    """
    if not validated(position.epochs):
        return position.state
    like = abstract((position.state, position.metrics), replicated(job.mesh))
    step = best_of(position.epochs)["step"]
    if step not in checkpoints.best.all_steps():
        raise BadInput(f"--workdir: the best checkpoint, {checkpoints.best.directory / str(step)}, is gone")
    try:
        (state, _), _ = read(checkpoints.best, step, like)
    except Damaged as error:
        raise BadInput(f"--workdir: {error}; it cannot be tested") from error
    return state
