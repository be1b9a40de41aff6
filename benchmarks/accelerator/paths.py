"""The programs of a run on the accelerator, compared with each other: they must give the same numbers."""

import contextlib
import io
import json
import signal
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.exactness import error, named
from benchmarks.machine import peak_device_bytes
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.data import Dataset, load
from cifar_flax.errors import Interrupted
from cifar_flax.interruption import interrupt
from cifar_flax.reporting.console import EpochProgress
from cifar_flax.reporting.run_log import RunLog
from cifar_flax.resume import Position
from cifar_flax.train import Parts, train_and_evaluate
from cifar_flax.training.augment import shift_and_flip_by, translate_and_flip_by
from cifar_flax.training.evaluation import Evaluation, evaluate_split, make_evaluate, place_split
from cifar_flax.training.job import Job, init_state, make_job_for, resolve_config, zero_metrics
from cifar_flax.training.programs import Programs, make_programs
from cifar_flax.training.state import TrainState

NUM_EPOCHS = 2
MAX_OFFSET = 3  # pixels
AUGMENTATIONS = {"shift_flip": (shift_and_flip_by, "edge"), "translate_flip": (translate_and_flip_by, "reflect")}


def compare(experiment: str, batch_size: int, num_batches: int, dataset: str) -> dict[str, Any]:
    """How far two epochs of `num_batches` steps, and evaluations, are from those of other ways to compute them.

    All numbers are errors as in numerics.py, here of the array that differs most: 0 if they have the same bits. The
    augmentation is compared with NumPy's padding and indexing.
    """
    config = load_experiment(experiment)
    config.update(dataset=dataset, num_validation=0, batch_size=batch_size, num_epochs=float(NUM_EPOCHS))
    devices = jax.devices()
    config = resolve_config(config, devices)
    data = first_images(load(config), batch_size * num_batches + 1, config.eval_batch_size)
    job = make_job_for(config, data, devices)
    state = jax.jit(partial(init_state, job))(jax.random.key(0), data.train.images)
    resident, streamed = programs = [programs_of(job, config, data, stream) for stream in (False, True)]
    epochs = [num_batches, 2 * num_batches]
    cuts = sorted({1, num_batches // 2, *epochs, 2 * num_batches - 1})
    trained, whole = train(job, resident, epochs, state)
    others = {
        "repeated": train(job, resident, epochs, state),
        "cut elsewhere": train(job, resident, cuts, state),
        "streamed": train(job, streamed, cuts, state),
    }
    training = {name: largest(arrays, whole) for name, (_, arrays) in others.items()}
    return {
        "training": training,
        "evaluation": evaluations(job, config, programs, trained, data),
        "augmentation": whole_pixels(config.augment, data.train.images[:batch_size]),
        "peak_bytes": peak_device_bytes(),
    }


def first_images(data: Dataset, num_train: int, eval_batch_size: int) -> Dataset:
    """The first training images; of the test images so many that the last batch is not full."""
    num_test = len(data.test) - (len(data.test) % eval_batch_size == 0)
    return Dataset(data.train[:num_train], data.validation, data.test[:num_test], data.class_names)


def programs_of(job: Job, config: ConfigDict, data: Dataset, stream: bool) -> Programs:
    config = config.copy_and_resolve_references()
    config.stream = stream
    return make_programs(job, data, config)


def train(
    job: Job, programs: Programs, stops: Sequence[int], state: TrainState
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """The state after one call for each of the stops, and all of its arrays by name, with the metrics."""
    state, metrics = jax.tree.map(jnp.copy, state), zero_metrics(job)
    num_epochs = -(-stops[-1] // job.steps_per_epoch)
    orders = [programs.epoch_order(state.rng, np.int32(epoch)) for epoch in range(num_epochs)]
    for stop in stops:
        order = orders[(stop - 1) // job.steps_per_epoch]
        state, metrics, diverged = programs.train_steps(
            state, metrics, order, programs.train.images, programs.train.labels, np.int32(stop)
        )
        assert not diverged
    arrays = (state.params, state.batch_stats, state.opt_state, state.average, metrics)
    return state, named("state", arrays)


def largest(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    return max(error(arrays[name], others[name]) for name in others)


def evaluations(
    job: Job, config: ConfigDict, programs: Sequence[Programs], state: TrainState, data: Dataset
) -> dict[str, Any]:
    """The number of test images that were counted, and the errors of the logits. A wrong count is an error."""
    resident, streamed = programs
    results: dict[str, Any] = {}
    for name in ("evaluate", "evaluate_tta"):
        if getattr(resident, name):
            whole = evaluate_split(getattr(resident, name), state, resident.test)
            other = evaluate_split(getattr(streamed, name), state, streamed.test)
            results |= {f"{name}, streamed": error(other.logits, whole.logits), "counted": len(whole.predicted)}
    whole = evaluate_split(resident.evaluate, state, resident.test)
    results["batches of another size"] = error(with_batches(job, config, state, data).logits, whole.logits)
    return results


def with_batches(job: Job, config: ConfigDict, state: TrainState, data: Dataset) -> Evaluation:
    """The test images evaluated in batches of half the size."""
    batch_size = config.eval_batch_size // 2
    evaluate = make_evaluate(job.model, num_classes=data.num_classes, batch_size=batch_size, mesh=job.mesh)
    return evaluate_split(evaluate, state, place_split(data.test, len(data.test), job.mesh))


def whole_pixels(name: str, images: np.ndarray) -> float:
    """The largest difference in gray levels from NumPy's translation and mirroring by whole pixels: 0 if exact.

    Args:
        name: a key of AUGMENTATIONS.
        images: [B, H, W, C] uint8.
    """
    function, mode = AUGMENTATIONS[name]
    rng, size = np.random.default_rng(0), images.shape[1]
    offsets, flips = rng.integers(-MAX_OFFSET, MAX_OFFSET + 1, (len(images), 2)), rng.random(len(images)) < 0.5
    moved = jax.jit(function)(images.astype(np.float32), offsets.astype(np.float32), flips)
    margins = ((0, 0), (MAX_OFFSET, MAX_OFFSET), (MAX_OFFSET, MAX_OFFSET), (0, 0))
    padded = np.pad(images, margins, mode=mode)  # type: ignore[call-overload]
    expected = np.stack(
        [
            image[MAX_OFFSET - y : MAX_OFFSET - y + size, MAX_OFFSET - x : MAX_OFFSET - x + size][
                :, :: -1 if flip else 1
            ]
            for image, (y, x), flip in zip(padded, offsets, flips, strict=True)
        ]
    )
    return float(np.abs(np.asarray(moved) - expected).max())


class InterruptedLog(RunLog):
    """Interrupts the run after the first call of the second epoch."""

    def progress(self, position: Position) -> EpochProgress:
        if len(position.epochs) == 1:
            interrupt(signal.SIGTERM)
        return super().progress(position)


def resume(experiment: str, overrides: dict[str, Any], dataset: str) -> dict[str, Any]:
    """How far a run that was interrupted in its second epoch, and resumed, is from an undisturbed one.

    Returns:
        `errors`: of the training loss of each epoch and of the test loss, relative; 0 if they have the same bits.
    """
    config = load_experiment(experiment)
    config.update(dataset=dataset, **overrides)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        undisturbed, resumed = Path(folder, "undisturbed"), Path(folder, "resumed")
        train_and_evaluate(config, undisturbed)
        try:
            train_and_evaluate(config, resumed, parts=Parts(InterruptedLog))
            raise AssertionError("the run was not interrupted")
        except Interrupted:
            train_and_evaluate(config, resumed)
        expected, losses = losses_of(undisturbed), losses_of(resumed)
    errors = {name: abs(losses[name] - value) / value for name, value in expected.items()}
    return {"errors": errors, "peak_bytes": peak_device_bytes()}


def losses_of(workdir: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {f"training loss of epoch {line['epoch']}": line["train_loss"] for line in lines}
    return losses | {"test loss": json.loads((workdir / "run.json").read_text())["test_loss"]}
