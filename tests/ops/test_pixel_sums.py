"""Sums over the pixels of a batch, and their transpose, have the values and gradients of the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cifar_flax.ops.pixel_sums import MIN_BATCH_FOR_ROWS, plain_sum, stepwise_spread, stepwise_sum
from cifar_flax.training.sharding import data_mesh

SIZES = [(1, 1, 1, 1), (3, 5, 4, 2), (8, 3, 3, 24), (160, 6, 5, 4), (2, 7, 1, 3)]


def random(shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


def test_a_batch_needs_the_rows_first():
    assert max(size[0] for size in SIZES) >= MIN_BATCH_FOR_ROWS


@pytest.mark.parametrize("size", SIZES)
def test_sum_has_the_value_and_the_gradient_of_the_plain_one(size):
    maps, weights = random(size), random(size[-1:])
    np.testing.assert_allclose(jax.jit(stepwise_sum)(maps), maps.sum((0, 1, 2)), rtol=1e-5, atol=1e-4)
    gradient = jax.grad(lambda x: (weights * stepwise_sum(x)).sum())(maps)
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(weights, size))


@pytest.mark.parametrize("size", SIZES)
def test_spread_has_the_value_and_the_gradient_of_the_plain_one(size):
    vector, weights = random(size[-1:]), random(size)
    np.testing.assert_array_equal(stepwise_spread(vector, size), jnp.broadcast_to(vector, size))
    gradient = jax.jit(jax.grad(lambda x: (weights * stepwise_spread(x, size)).sum()))(vector)
    np.testing.assert_allclose(gradient, weights.sum((0, 1, 2)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sum_of", [stepwise_sum, plain_sum])
def test_sums_of_bfloat16_are_float32_and_their_gradients_bfloat16(sum_of):
    maps = jnp.ones((64, 8, 8, 3), jnp.bfloat16)
    np.testing.assert_array_equal(sum_of(maps), jnp.full(3, 4096, jnp.float32))  # bfloat16 cannot count beyond 256
    assert sum_of(maps).dtype == jnp.float32
    assert jax.grad(lambda x: sum_of(x).sum())(maps).dtype == jnp.bfloat16
    vector = jnp.ones(3, jnp.bfloat16)
    gradient = jax.grad(lambda x: stepwise_spread(x, maps.shape).astype(jnp.float32).sum())(vector)
    np.testing.assert_array_equal(gradient, jnp.full(3, 4096, jnp.bfloat16))


def test_sums_of_a_batch_on_several_devices_match_one_device():
    maps = random((16, 5, 4, 3))
    sharding = NamedSharding(data_mesh(jax.devices()), PartitionSpec("data"))
    np.testing.assert_allclose(jax.jit(stepwise_sum)(jax.device_put(maps, sharding)), maps.sum((0, 1, 2)), atol=1e-4)
