"""Logits and gradients on the accelerator, compared with those of the host's CPU in float32, array by array."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from benchmarks.exactness import largest_error, named
from benchmarks.machine import peak_device_bytes
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.data import Dataset, load
from cifar_flax.training.evaluation import evaluate_batch
from cifar_flax.training.job import Job, init_state, make_job, resolve_config
from cifar_flax.training.state import TrainState
from cifar_flax.training.train_step import train_step

# name -> (config.dtype, precision of products in float32; None: the default, TF32 on NVIDIA's GPUs)
PRECISIONS = {
    "highest": ("float32", "highest"),
    "default": ("float32", None),
    "bfloat16": ("bfloat16", None),
}
QUANTITIES = ("logits", "gradients")
# keeps the gradients as its state and leaves the parameters as they are
GRADIENTS = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, __=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def compare(experiment: str, lowerings: Sequence[str], batch_size: int, dataset: str) -> dict[str, Any]:
    """The largest errors of the logits and of the gradients of the first training images, by lowering and precision.

    The reference is the CPU in float32, with XLA's own convolutions. The error of an array is its largest absolute
    difference, divided by the largest absolute value of the reference. `distance` is the length of the difference of
    all gradients together, divided by that of the reference: a unit that a rounding turns on or off hardly shows there.
    """
    config = load_experiment(experiment)
    config.update(dataset=dataset, num_validation=0, batch_size=batch_size)
    data = load(config)
    [cpu, *_], [device, *_] = jax.devices("cpu"), jax.devices()
    with jax.default_device(cpu):
        job = job_of(config, data, cpu, "library", "float32")
        state = jax.jit(partial(init_state, job))(jax.random.key(0), data.train.images)
    exact = compute(job, state, data, cpu, "highest")
    errors: dict[str, Any] = {}
    for lowering in lowerings:
        for name, (dtype, precision) in PRECISIONS.items():
            arrays = compute(job_of(config, data, device, lowering, dtype), state, data, device, precision)
            errors.setdefault(lowering, {})[name] = errors_of(arrays, exact)
    return {"errors": errors, "peak_bytes": peak_device_bytes()}


def job_of(config: ConfigDict, data: Dataset, device: jax.Device, lowering: str, dtype: str) -> Job:
    """The job on one device, without averaging and with GRADIENTS as its optimizer."""
    config = resolve_config(config, [device])
    config.update(lowering=lowering, dtype=dtype)
    job = make_job(config, len(data.train), data.num_classes, [device])
    return job._replace(optimizer=GRADIENTS, averaging=None)


def compute(
    job: Job, state: TrainState, data: Dataset, device: jax.Device, precision: str | None
) -> dict[str, np.ndarray]:
    """The logits and gradients of the first batch, by `QUANTITY: NAME`."""
    batch = data.train[: job.batch_size]
    with jax.default_matmul_precision(precision):
        logits, after, loss = jax.jit(partial(step, job))(*jax.device_put((state, batch.images, batch.labels), device))
    return named("logits", logits) | named("gradients", {"loss": loss, "params": after})


def step(job: Job, state: TrainState, images: Array, labels: Array) -> tuple[Array, Any, Array]:
    """The logits [B, K] of evaluation; the gradients and the sum of the losses of training, with dropout."""
    predict = partial(job.model.apply, {"params": state.params, "batch_stats": state.batch_stats}, train=False)
    _, logits = evaluate_batch(predict, images, labels, jnp.ones_like(labels, bool), "none")
    after, metrics, _ = train_step(job, state, images.astype(jnp.float32) / 255, labels, jax.random.key(1))
    return logits, after.opt_state, metrics.loss_sum


def errors_of(arrays: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, Any]:
    """By quantity: `error` and the `array` that has it; of the gradients also `distance`."""
    names = {quantity: [name for name in exact if name.startswith(f"{quantity}: ")] for quantity in QUANTITIES}
    errors: dict[str, Any] = {quantity: largest_error(arrays, exact, names[quantity]) for quantity in QUANTITIES}
    flat, reference = (
        np.concatenate([some[name].ravel() for name in names["gradients"][1:]]) for some in (arrays, exact)
    )
    errors["gradients"]["distance"] = float(np.linalg.norm(flat - reference) / np.linalg.norm(reference))
    return errors
