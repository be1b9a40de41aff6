"""Many training steps in one compiled function, with the dataset as an argument on the device."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cifar_flax.training.job import Job
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import replicated, split_by_image
from cifar_flax.training.state import TrainState, split_rng
from cifar_flax.training.train_step import train_step

Carry = tuple[TrainState, Metrics, Array]  # state, metrics of the epoch, whether the run diverged


def make_train_steps(job: Job) -> Any:
    """Jits `train_steps` for one job. One compilation serves all values of `stop`; `state`, `metrics` are donated."""
    return jax.jit(partial(train_steps, job), donate_argnums=(0, 1), out_shardings=replicated(job.mesh))


def train_steps(job: Job, state: TrainState, metrics: Metrics, images: Array, labels: Array, stop: Array) -> Carry:
    """Trains from `state.step` up to, but not including, step `stop` of the same epoch.

    Each step gathers its batch from the epoch's permutation of the images, augments it, and calls `train_step`. The
    result is bitwise identical, however an epoch is divided into calls.

    Args:
        job: the model, the optimizer, the augmentation and the sizes.
        state: at any step of an epoch.
        metrics: sums over the epoch so far.
        images: [N, H, W, C] uint8, the training set.
        labels: [N] int32.
        stop: int32 scalar.

    Returns:
        The new state and metrics, and `diverged` (bool scalar). It is True if a loss is not finite, in which case the
        state is the one before that step, and if a parameter is not finite at the end.
    """
    epoch = state.step // job.steps_per_epoch
    keys = split_rng(state.rng)
    order = jax.random.permutation(jax.random.fold_in(keys.permutation, epoch), images.shape[0])

    def unfinished(carry: Carry) -> Array:
        state, _, diverged = carry
        return (state.step < stop) & ~diverged

    def step(carry: Carry) -> Carry:
        state, metrics, _ = carry
        first = (state.step - epoch * job.steps_per_epoch) * job.batch_size
        indices = lax.dynamic_slice_in_dim(order, first, job.batch_size)
        batch = lax.with_sharding_constraint(images[indices].astype(jnp.float32), split_by_image(job.mesh))
        batch = job.augmentation(keys.augmentation, batch, indices, epoch) / 255
        dropout_key = jax.random.fold_in(keys.dropout, state.step)
        state, batch_metrics, finite = train_step(job, state, batch, labels[indices], dropout_key)
        metrics = jax.tree.map(lambda new, old: jnp.where(finite, new, old), metrics + batch_metrics, metrics)
        return state, metrics, ~finite

    state, metrics, diverged = lax.while_loop(unfinished, step, (state, metrics, jnp.array(False)))
    # Once per call. In every step it would cost one to four percent, and the next loss shows a bad parameter anyway.
    finite = [jnp.isfinite(array).all() for array in jax.tree.leaves(state.params)]
    return state, metrics, diverged | ~jnp.stack(finite).all()


def what_diverged(state: TrainState) -> str:
    """Says which value is not finite, and at which step."""
    if all(np.isfinite(array).all() for array in jax.tree.leaves(jax.device_get(state.params))):
        return f"the loss of step {int(state.step) + 1}"
    return f"a parameter after step {int(state.step)}"
