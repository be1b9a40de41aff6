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

from cifar_flax import console
from cifar_flax.checkpoints import Checkpoints, abstract, restore, save
from cifar_flax.config import differences, extends, validate, validate_sizes
from cifar_flax.data import Dataset, load, num_validation_of
from cifar_flax.errors import BadInput, Diverged
from cifar_flax.gallery import Gallery
from cifar_flax.interruption import Interruption
from cifar_flax.layers import resolve_lowering
from cifar_flax.metrics import Metrics
from cifar_flax.programs import Evaluation, Job, Programs, evaluate_all, make_job, make_programs, zero_metrics
from cifar_flax.records import Records, TensorBoard, environment
from cifar_flax.state import TrainState, count_parameters, create_train_state, split_roots
from cifar_flax.steps import replicated

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

    Args:
        config: all fields of `config.base_config()`.
        workdir: folder of the run's records and checkpoints; made if it is not there.
        devices: what to split each batch over; all devices of jax' default platform if not given.

    Returns:
        What run.json holds.

    Raises:
        BadInput: a config, dataset or workdir that cannot be used.
        Interrupted: by SIGINT or SIGTERM; the state is saved.
        Diverged: a loss was not finite; the last checkpoint remains.
    """
    validate(config)
    devices = list(devices or jax.devices())
    config = resolve(config, devices)
    workdir = Path(workdir).expanduser().absolute()
    records = Records(workdir)
    refuse_another_config(records, config)
    if records.run.get("status") == "done" and not extends(records.config, config):
        console.say(f"This run is done; nothing is trained again.\nworkdir     {workdir}")
        console.result(records.run, workdir)
        return records.run

    began = time.perf_counter()
    dataset = load(config)
    validate_sizes(config, len(dataset.train), len(devices))
    console.first_screen(config, dataset, time.perf_counter() - began, devices, workdir)
    records.begin(config, identity(config, dataset) | environment(devices))
    with (
        records.status(),
        Interruption() as interruption,
        Checkpoints(workdir) as checkpoints,
        TensorBoard(workdir) as tensorboard,
    ):
        job = make_job(config, dataset, devices)
        position = restore_or_start(job, checkpoints, config.seed, dataset)
        train(job, position, dataset, config, records, checkpoints, tensorboard, interruption)
    console.result(records.run, workdir)
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
    console.say(f"compiled in {programs.compile_seconds:.1f} s\n")
    if int(position.state.step) == 0:
        tensorboard.write_config(config.to_dict())
        key = split_roots(position.state.rng).augmentation
        Gallery(records, tensorboard, step=0).add_inputs(dataset, config.augment, key)
    for epoch in range(len(position.epochs) + 1, job.num_epochs + 1):
        stop = min(epoch * job.steps_per_epoch, job.num_steps)
        position = train_epoch(job, programs, position, epoch, stop, interruption)
        if int(position.state.step) < stop:
            save(checkpoints.latest, *checkpoint_of(position))
            interruption.raise_if_received()
        position = finish_epoch(job, programs, position, epoch)
        save(checkpoints.latest, *checkpoint_of(position))
        keep_if_best(position, checkpoints)
        record_epochs(records, position, job)
        tensorboard.write_epoch(position.epochs[-1], position.state.params)
        console.epoch_line(title_of(epoch, job), position.epochs)
        interruption.raise_if_received()
    test = test_best(job, programs, position, checkpoints)
    tensorboard.write_test(job.num_steps, test.loss, test.accuracy)
    gallery = Gallery(records, tensorboard, job.num_steps)
    gallery.add_curves(position.epochs)
    gallery.add_predictions(dataset, test.predicted, config.seed)
    records.update(status="done", test_loss=test.loss, test_accuracy=test.accuracy)


def resolve(config: ConfigDict, devices: list[jax.Device]) -> ConfigDict:
    """A copy of the config as it takes effect on these devices: what `auto` stands for, what a set has."""
    config = config.copy_and_resolve_references()
    config.num_validation = num_validation_of(config)
    config.lowering = resolve_lowering(config.lowering, devices[0].platform)
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


def restore_or_start(job: Job, checkpoints: Checkpoints, seed: int, dataset: Dataset) -> Position:
    """The newest checkpoint's position, or the one before the first step."""
    create = jax.jit(
        partial(create_train_state, job.model, job.optimizer, image_shape=dataset.image_shape),
        out_shardings=replicated(job.mesh),
    )
    rng = jax.random.key(seed)
    if checkpoints.latest.latest_step() is None:
        return Position(create(rng), zero_metrics(job), epochs=[], seconds=0.0)
    like = abstract((jax.eval_shape(create, rng), jax.eval_shape(Metrics.zero)), replicated(job.mesh))
    (state, metrics), stored = restore(checkpoints.latest, like)
    position = Position(state, metrics, stored["epochs"], stored["seconds"])
    keep_if_best(position, checkpoints)  # the run may have ended between the two checkpoints of an epoch
    console.say(f"going on after step {int(state.step):,} of {job.num_steps:,}\n")
    return position


def checkpoint_of(position: Position) -> tuple[int, Any, dict[str, Any]]:
    """(step, arrays, progress) for `checkpoints.save`."""
    arrays = (position.state, position.metrics)
    return int(position.state.step), arrays, {"epochs": position.epochs, "seconds": position.seconds}


def title_of(epoch: int, job: Job) -> str:
    return f"Epoch {epoch}/{job.num_epochs}"


def train_epoch(
    job: Job, programs: Programs, position: Position, epoch: int, stop: int, interruption: Interruption
) -> Position:
    """Trains to step `stop`, the end of `epoch`, or to where a signal arrives.

    Raises:
        Diverged: names the step.
    """
    state, metrics, epochs, seconds = position
    step, first = int(state.step), (epoch - 1) * job.steps_per_epoch
    done, total = (step - first) * job.batch_size, (stop - first) * job.batch_size
    bar = console.EpochProgress(title_of(epoch, job), done, total)
    piece = steps_in(PIECE_SECONDS, epochs[-1]["images_per_second"] / job.batch_size) if epochs else FIRST_PIECE
    while step < stop and not interruption.received:
        piece_stop = min(stop, step + piece)
        began = time.perf_counter()
        state, metrics, diverged = programs.train_steps(state, metrics, *programs.train, np.int32(piece_stop))
        if diverged:  # asking waits for the device
            bar.close()
            raise Diverged(f"the loss of step {int(state.step) + 1} (epoch {epoch}) is not finite")
        elapsed = time.perf_counter() - began
        rate = (piece_stop - step) / elapsed
        piece = steps_in(PIECE_SECONDS, rate)
        step, seconds = piece_stop, seconds + elapsed
        loss, accuracy = metrics.means()
        bar.update((step - first) * job.batch_size, loss, accuracy, rate * job.batch_size)
    bar.close()
    return Position(state, metrics, epochs, seconds)


def steps_in(seconds: float, steps_per_second: float) -> int:
    return max(1, round(seconds * steps_per_second))


def finish_epoch(job: Job, programs: Programs, position: Position, epoch: int) -> Position:
    """Validates, and turns the epoch's sums into a line of metrics.jsonl."""
    state, metrics, epochs, seconds = position
    train_loss, train_accuracy = metrics.means()
    validation = evaluate_all(programs, state, programs.validation)
    if not math.isfinite(validation.loss):
        raise Diverged(f"the validation loss after step {int(state.step)} (epoch {epoch}) is not finite")
    line = {
        "epoch": epoch,
        "step": int(state.step),
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "epoch_seconds": seconds,
        "images_per_second": int(metrics.num_images) / seconds,
    }
    return Position(state, zero_metrics(job), [*epochs, line], seconds=0.0)


def best_of(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """The line with the lowest validation loss, the first of equals."""
    return min(epochs, key=lambda line: line["validation_loss"])


def keep_if_best(position: Position, checkpoints: Checkpoints) -> None:
    """Saves the position as the best if it is the end of the best epoch so far."""
    if position.epochs and best_of(position.epochs)["step"] == int(position.state.step):
        save(checkpoints.best, *checkpoint_of(position))


def record_epochs(records: Records, position: Position, job: Job) -> None:
    """Writes metrics.jsonl and what run.json says of it."""
    records.write_metrics(position.epochs)
    if position.epochs:
        best, last = best_of(position.epochs), position.epochs[-1]
        seconds = sum(line["epoch_seconds"] for line in position.epochs)
        records.update(
            best_epoch=best["epoch"],
            best_validation_loss=best["validation_loss"],
            best_validation_accuracy=best["validation_accuracy"],
            train_seconds=seconds,
            train_images_per_second=last["step"] * job.batch_size / seconds,
        )


def test_best(job: Job, programs: Programs, position: Position, checkpoints: Checkpoints) -> Evaluation:
    """The best checkpoint on the test images."""
    like = abstract((position.state, position.metrics), replicated(job.mesh))
    (state, _), _ = restore(checkpoints.best, like)
    return evaluate_all(programs, state, programs.test)
