"""The training loop: a run from its config to its test accuracy.

`train_and_evaluate` checks the config and locks the workdir, `train` runs the epochs, `train_epoch` dispatches the
steps of an epoch in chunks. A chunk is one call of a compiled function (training/steps.py), in which each step gathers
a shuffled batch, augments it, and takes a gradient step (training/train_step.py).

`Job` holds what stays the same in a run, `Programs` the compiled functions and the images on the device, and `Position`
what changes. `SavedPositions` keeps positions in checkpoints, `Records` the text files; people see what `RunLog` shows.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import Dataset, load
from cifar_flax.data.remarks import remarks
from cifar_flax.errors import Diverged, warn
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.reporting.profile import profile_steps
from cifar_flax.reporting.run_log import RunLog
from cifar_flax.resume import Position, SavedPositions
from cifar_flax.training.checks import check_config
from cifar_flax.training.evaluation import evaluate_split
from cifar_flax.training.job import Job, make_job_for, resolve_config, zero_metrics
from cifar_flax.training.memory import batch_fits, too_large
from cifar_flax.training.programs import Programs, evaluate_test, start_compiling
from cifar_flax.training.steps import what_diverged
from cifar_flax.weights.start import refuse_replaced
from cifar_flax.workdir import identity
from cifar_flax.workdir.environment import environment, find_devices
from cifar_flax.workdir.epochs import stops_early
from cifar_flax.workdir.lock import lock_workdir
from cifar_flax.workdir.records import Records

# Long enough to hide the cost of a call, short enough to show progress and to react to signals.
CHUNK_SECONDS = 2.0
FIRST_CHUNK = 1  # steps, in each epoch, before its speed is known


class Parts(NamedTuple):
    """What a search, or a sweep in one program, replaces in a run."""

    make_log: Callable[..., RunLog] = RunLog
    start_compiling: Callable[[Job, Dataset, ConfigDict], Callable[[], Programs]] = start_compiling


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    devices: Sequence[jax.Device] | None = None,
    profile: bool = False,
    parts: Parts | None = None,
) -> dict[str, Any]:
    """Trains a run, or resumes it, and tests its best checkpoint once; without validation images, its last state.

    Args:
        config: all fields of `config.base_config()`.
        workdir: folder of the run's records and checkpoints; created if it does not exist.
        devices: the devices that share each batch; by default all devices of JAX's default platform.
        profile: whether to profile a few steps before the training (reporting/profile.py).
        parts: by default those of a run alone.

    Returns:
        The content of run.json.

    Raises:
        BadInput: the config, the dataset or the workdir cannot be used.
        Interrupted, Stopped: a signal arrived, or the log ended the run; the state is saved.
        Diverged: a loss or a parameter is not finite; the last checkpoint remains.
        Unwritable: the disk is full or the workdir cannot be written; the last checkpoint remains.
    """
    check_config(config)
    devices = list(devices or find_devices())
    config = resolve_config(identity.with_absolute_paths(config), devices)
    records = Records(workdir)
    if not is_done(records, config):
        with lock_workdir(records.workdir):
            records.read()  # another process may have written here until now
            if not is_done(records, config):
                train(config, records, devices, profile, parts or Parts())
    elif profile:
        warn("--profile: nothing is trained, so nothing is profiled; choose a new --workdir")
    console.result(records.run, records.workdir)
    return records.run


def is_done(records: Records, config: ConfigDict) -> bool:
    """Whether the workdir holds this run and nothing remains to be trained. If so, prints that.

    Raises:
        BadInput: it holds a run with another config, or a finished one whose dataset or start was replaced.
    """
    identity.refuse_other_config(records, config)
    if not records.done or identity.only_adds_epochs(records.config, config):
        return False
    refuse_replaced(records, config)
    console.say(f"This run is done; nothing is trained again.\nworkdir     {console.relative(records.workdir)}")
    return True


def train(config: ConfigDict, records: Records, devices: list[jax.Device], profile: bool, parts: Parts) -> None:
    """Trains and tests in a workdir that is locked. A run that is refused changes nothing there."""
    dataset = load(config)
    job = make_job_for(config, dataset, devices)
    config.stream = too_large(dataset, job.mesh.local_devices) if config.stream is None else config.stream
    data = identity.describe_data(dataset)
    if records.saved:
        identity.refuse_other_data(records.run, data, f"config.dataset: {config.dataset}")
    else:
        for remark in remarks(dataset):
            warn(remark)
    with (
        records.status(),
        Interruption() as interruption,
        SavedPositions(job, config, records, data) as saved,
        parts.make_log(job, dataset, config, records, saved.data) as log,
    ):
        position = saved.restore_or_init(dataset.train.images)
        finish_compiling = parts.start_compiling(job, dataset, config)
        records.begin(config, identity.describe_run(config) | saved.data | environment(devices), position.step)
        saved.reset_records(position)
        log.begin(position)
        programs = finish_compiling()
        records.update(compile_seconds=programs.compile_seconds)
        log.compiled(programs)
        if profile:
            profile_steps(job, programs, position, records.workdir / "profile")
        while len(position.epochs) < job.num_epochs and not stops_early(position.epochs, config.patience):
            position = train_epoch(job, programs, position, saved, log, interruption)
            saved.save(position)  # before the validation, which may not fit into memory
            position = finish_epoch(job, programs, position)
            saved.end_epoch(position)
            log.epoch(position)
            interruption.raise_if_received()
        test, predicted = evaluate_test(programs, saved.state_to_test(position))
        log.end(position, test, predicted)
        records.finish(**test, stopped_early=len(position.epochs) < job.num_epochs)


def train_epoch(
    job: Job, programs: Programs, position: Position, saved: SavedPositions, log: RunLog, interruption: Interruption
) -> Position:
    """Trains to the end of the current epoch. Saves the position every `config.save_seconds`, and on a signal.

    Raises:
        Interrupted: a signal arrived before the end of the epoch; the position is saved.
        Diverged: a loss or a parameter is not finite; the message names the step.
    """
    epoch = len(position.epochs)
    step, stop = position.step, job.steps_after(epoch + 1)
    order = programs.epoch_order(position.state.rng, np.int32(epoch))
    chunk, chunk_seconds = FIRST_CHUNK, min(CHUNK_SECONDS, saved.interval)
    with log.progress(position) as progress:
        while step < stop:
            first, seconds = step, position.seconds
            step = min(step + chunk, stop)
            position = train_chunk(programs, position, order, step)
            speed = (step - first) / (position.seconds - seconds)  # steps per second
            chunk = max(1, round(chunk_seconds * speed))
            progress.update(int(position.metrics.num_images), *position.metrics.means(), speed * job.batch_size)
            if step < stop and (saved.is_due(position) or interruption.received):
                saved.save(position)
                interruption.raise_if_received()
    return position


def train_chunk(programs: Programs, position: Position, order: jax.Array, stop: int) -> Position:
    """Trains up to step `stop` of the current epoch, which has this order, in one call.

    Raises Diverged if a value is not finite.
    """
    start = time.perf_counter()
    with batch_fits("config.batch_size", programs.batch_size):
        state, metrics, diverged = programs.train_steps(
            position.state, position.metrics, order, programs.train.images, programs.train.labels, np.int32(stop)
        )
        diverged = bool(diverged)  # waits for the device
    if diverged:
        raise Diverged(f"{what_diverged(state)} (epoch {len(position.epochs) + 1}) is not finite")
    return Position(state, metrics, position.epochs, position.seconds + time.perf_counter() - start)


def finish_epoch(job: Job, programs: Programs, position: Position) -> Position:
    """Validates, if there are validation images, and turns the epoch's sums into a line of metrics.jsonl.

    Raises Diverged if the validation loss is not finite.
    """
    train_loss, train_accuracy = position.metrics.means()
    line: dict[str, Any] = {
        "epoch": len(position.epochs) + 1,
        "step": position.step,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "learning_rate": float(job.schedule(position.step - 1)),  # of the epoch's last step
        "epoch_seconds": position.seconds,
        "images_per_second": int(position.metrics.num_images) / position.seconds,
    }
    if programs.validation.num_images:
        with batch_fits("config.eval_batch_size", programs.eval_batch_size):
            validation = evaluate_split(programs.evaluate, position.state, programs.validation)
        if not math.isfinite(validation.loss):
            raise Diverged(f"the validation loss after step {line['step']} (epoch {line['epoch']}) is not finite")
        line |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
    return Position(position.state, zero_metrics(job), [*position.epochs, line], seconds=0.0)
