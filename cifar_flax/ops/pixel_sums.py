"""Sums over a batch of feature maps, by channel, and their transpose: for the biases of convolutions and for BatchNorm.

XLA's sum over three axes of a large array runs on one core of a CPU, one number at a time. In steps over flat axes it
is up to 25 times as fast; docs/performance.md has the measurements.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from cifar_flax.ops.windows import materialize

MIN_BATCH_FOR_ROWS = 128  # images from which the rows of each are summed first: XLA shares many images between cores


@jax.custom_vjp
def stepwise_sum(maps: Array) -> Array:
    """Maps [B, H, W, C] -> [C] float32, the same as `maps.sum((0, 1, 2))` but for rounding."""
    batch, height, width, channels = maps.shape
    flat = maps.astype(jnp.float32)
    if batch >= MIN_BATCH_FOR_ROWS:
        flat = materialize(flat.reshape(batch, height, width * channels).sum(1))
    flat = materialize(flat.reshape(batch, -1).sum(0))
    return flat.reshape(-1, channels).sum(0)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def stepwise_spread(vector: Array, shape: tuple[int, ...]) -> Array:
    """`jnp.broadcast_to(vector, shape)`, [C] -> [B, H, W, C]. Its gradient is a `stepwise_sum`."""
    return jnp.broadcast_to(vector, shape)


def _sum_forward(maps: Array) -> tuple[Array, Array]:
    return stepwise_sum(maps), jnp.empty((0, *maps.shape), maps.dtype)  # its shape and dtype are all that is kept


def _sum_backward(like: Array, gradient: Array) -> tuple[Array]:
    return (stepwise_spread(gradient.astype(like.dtype), like.shape[1:]),)


def _spread_forward(vector: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    return stepwise_spread(vector, shape), jnp.empty((0,), vector.dtype)


def _spread_backward(_: tuple[int, ...], like: Array, gradient: Array) -> tuple[Array]:
    return (stepwise_sum(gradient).astype(like.dtype),)


stepwise_sum.defvjp(_sum_forward, _sum_backward)
stepwise_spread.defvjp(_spread_forward, _spread_backward)


def plain_sum(maps: Array) -> Array:
    """Maps [B, H, W, C] -> [C] float32."""
    return maps.sum((0, 1, 2), dtype=jnp.float32)
