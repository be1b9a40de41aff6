"""Layers shared by several models, against NumPy and Flax."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.models.layers import BatchNorm, Conv, Normalize, Normalized, gelu
from cifar_flax.ops import LOWERINGS


@pytest.mark.parametrize("x", [-40.0, -5.0, -1.3, 0.0, 0.4, 5.0, 40.0])
def test_gelu_and_its_gradient_match_flax(x):
    with jax.enable_x64(True):
        result, expected = (
            jax.value_and_grad(f)(jnp.float64(x)) for f in (gelu, lambda x: nn.gelu(x, approximate=False))
        )
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_normalize_uses_the_statistics_of_the_images_given_to_init():
    images = np.random.default_rng(0).uniform(0.2, 0.9, (50, 6, 5, 3)).astype(np.float32) ** [1, 2, 3]
    with jax.enable_x64(True):
        normalize, others = Normalize(), jnp.asarray(images[:4]) / 2
        variables = normalize.init(jax.random.key(0), jnp.asarray(images))
        mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
        np.testing.assert_allclose(normalize.apply(variables, others), (images[:4] / 2 - mean) / std, rtol=1e-6)


def test_statistics_of_many_images_are_accurate():
    """45,000 images have 46 million pixels per channel, more than float32 can count in steps of one."""
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1)) / np.float32(255)
    images = jnp.broadcast_to(image, (20_000, 32, 32, 1))
    variables = jax.jit(Normalize().init)(jax.random.key(0), images)
    assert float(variables["batch_stats"]["mean"].squeeze()) == pytest.approx(image.mean(), rel=1e-4)
    assert float(variables["batch_stats"]["variance"].squeeze()) == pytest.approx(image.var(), rel=1e-4)


def test_constant_channel_is_normalized_to_zero():
    images = jnp.full((2, 4, 4, 1), 0.5)
    variables = Normalize().init(jax.random.key(0), images)
    np.testing.assert_array_equal(Normalize().apply(variables, images), 0)


class Dense(nn.Module):
    """A model with one dense layer."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2, name="output")(images.reshape(images.shape[0], -1))


def test_normalized_model_has_the_parameters_of_the_plain_model():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4, 4, 3)), jnp.float32)
    plain, normalized = (m.init(jax.random.key(0), images, train=False) for m in (Dense(), Normalized(Dense())))
    jax.tree.map(np.testing.assert_array_equal, normalized["params"], plain["params"])
    assert set(normalized["batch_stats"]) == {"normalize"}
    standardized = (images - images.mean((0, 1, 2), keepdims=True)) / images.std((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(
        Normalized(Dense()).apply(normalized, images, train=False),
        Dense().apply(plain, standardized, train=False),
        atol=1e-5,
    )


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
