"""Many training steps in one compiled function, with the dataset as an argument on the device."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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


class Batch(NamedTuple):
    """The images of a step, before augmentation.

    Attributes:
        images: [B, H, W, C] uint8.
        labels: [B] int32.
        indices: [B] int32, the index of each image in the training set.
    """

    images: Array
    labels: Array
    indices: Array


def make_train_steps(job: Job) -> Any:
    """Jits `train_steps` for one job. One compilation serves all values of `stop`; `state`, `metrics` are donated."""
    return jax.jit(partial(train_steps, job), donate_argnums=(0, 1), out_shardings=replicated(job.mesh))


def make_epoch_order(job: Job, num_images: int) -> Any:
    """Jits `epoch_order` for a training set of `num_images`."""
    return jax.jit(partial(epoch_order, num_images=num_images), out_shardings=replicated(job.mesh))


def train_steps(
    job: Job, state: TrainState, metrics: Metrics, order: Array, images: Array, labels: Array, stop: Array
) -> Carry:
    """Trains from `state.step` up to, but not including, step `stop` of the same epoch.

    Each step gathers its batch, augments it, and calls `train_step`. The result is bitwise identical, however an epoch
    is divided into calls.

    Args:
        job: the model, the optimizer, the augmentation and the sizes.
        state: at any step of an epoch.
        metrics: sums over the epoch so far.
        order: [N] int32, the epoch's permutation of the training set (`epoch_order`).
        images: [N, H, W, C] uint8, the training set.
        labels: [N] int32.
        stop: int32 scalar.

    Returns:
        The new state and metrics, and `diverged` (bool scalar). It is True if a loss is not finite, in which case the
        state is the one before that step, and if a parameter is not finite at the end.
    """

    def batch_of(step: Array) -> Batch:
        indices = lax.dynamic_slice_in_dim(order, step * job.batch_size, job.batch_size)
        return Batch(images[indices], labels[indices], indices)

    return train_on(job, (state, metrics, jnp.array(False)), batch_of, stop)


def epoch_order(rng: Array, epoch: Array, num_images: int) -> Array:
    """[num_images] int32: the epoch's permutation of the training set. `rng` is the key of the run's seed."""
    return jax.random.permutation(jax.random.fold_in(split_rng(rng).permutation, epoch), num_images)


def train_on(job: Job, carry: Carry, batch_of: Callable[[Array], Batch], stop: Array) -> Carry:
    """Trains up to step `stop` on the batches of one epoch, as `train_steps` describes.

    Args:
        job: as in `train_steps`.
        carry: the state, the metrics and whether the run has diverged before, in which case nothing is trained.
        batch_of: the batch of a step (int32 scalar), which counts from the start of the epoch.
        stop: int32 scalar.
    """
    epoch = carry[0].step // job.steps_per_epoch
    keys = split_rng(carry[0].rng)

    def unfinished(carry: Carry) -> Array:
        state, _, diverged = carry
        return (state.step < stop) & ~diverged

    def step(carry: Carry) -> Carry:
        state, metrics, _ = carry
        images, labels, indices = batch_of(state.step - epoch * job.steps_per_epoch)
        images = lax.with_sharding_constraint(images, split_by_image(job.mesh))
        # XLA must neither fuse what follows with where the batch comes from, nor move it out of the loop if there is
        # only one batch: that could change how it is rounded
        images, labels, indices, _ = lax.optimization_barrier((images, labels, indices, state.step))
        batch = job.augmentation(keys.augmentation, images.astype(jnp.float32), indices, epoch) / 255
        dropout_key = jax.random.fold_in(keys.dropout, state.step)
        state, batch_metrics, finite = train_step(job, state, batch, labels, dropout_key)
        metrics = jax.tree.map(lambda new, old: jnp.where(finite, new, old), metrics + batch_metrics, metrics)
        return state, metrics, ~finite

    state, metrics, diverged = lax.while_loop(unfinished, step, carry)
    # Once per call. In every step it would cost one to four percent, and the next loss shows a bad parameter anyway.
    finite = [jnp.isfinite(array).all() for array in jax.tree.leaves(state.params)]
    return state, metrics, diverged | ~jnp.stack(finite).all()


def what_diverged(state: TrainState) -> str:
    """Says which value is not finite, and at which step."""
    if all(np.isfinite(array).all() for array in jax.tree.leaves(jax.device_get(state.params))):
        return f"the loss of step {int(state.step) + 1}"
    return f"a parameter after step {int(state.step)}"
