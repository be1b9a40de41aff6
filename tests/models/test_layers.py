"""The project's convolution and batch normalization are those of Flax, with other sums."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.models.layers import BatchNorm, Conv
from cifar_flax.ops import LOWERINGS


def value_and_gradients(module, variables, inputs):
    """The outputs, the gradients of a weighted sum of them, and the new `batch_stats`."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*inputs.shape[:3], 1)), jnp.float32)

    def loss(params, inputs):
        outputs, updates = module.apply({**variables, "params": params}, inputs, mutable=["batch_stats"])
        return (weights * outputs).sum(), (outputs, updates)

    (_, results), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], inputs)
    return results, gradients


def assert_same(ours, flax, **tolerance):
    inputs = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 6, 5, 4)), jnp.float32)
    variables = flax.init(jax.random.key(0), inputs)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), inputs), variables)
    variables["params"]["bias"] += jnp.arange(4.0)
    results, expected = (value_and_gradients(module, variables, inputs) for module in (ours, flax))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), results) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), results, expected)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_that_of_flax(lowering, use_scale, train):
    fields = {"use_running_average": not train, "momentum": 0.9, "epsilon": 1e-3, "use_scale": use_scale}
    ours = BatchNorm(**fields, lowering=LOWERINGS[lowering])
    assert_same(ours, nn.BatchNorm(**fields, use_fast_variance=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_convolution_is_that_of_flax(lowering):
    ours = Conv(4, (3, 3), conv_general_dilated=LOWERINGS[lowering].conv, spread=LOWERINGS[lowering].spread)
    assert_same(ours, nn.Conv(4, (3, 3)), rtol=1e-4, atol=1e-4)


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6, 5, 4)), jnp.bfloat16)
    layer = BatchNorm(False, 0.9, 1e-3, dtype=jnp.bfloat16)
    outputs, updates = layer.apply(layer.init(jax.random.key(0), maps), maps, mutable=["batch_stats"])
    assert outputs.dtype == jnp.bfloat16
    assert {statistic.dtype for statistic in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
