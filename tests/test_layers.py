"""The `patches` lowering computes what flax' own layers compute, values and gradients, to TOLERANCE in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.layers import LOWERINGS, patches_conv, resolve_lowering, slices_max_pool

TOLERANCE = 1e-12  # relative and absolute; sums of at most a few thousand float64 products


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same(ours, theirs, *arguments):
    """Equal values, and equal gradients of a sum with random weights."""
    out = theirs(*arguments)
    np.testing.assert_allclose(ours(*arguments), out, rtol=TOLERANCE, atol=TOLERANCE)
    weights = random(*out.shape, seed=1)
    every = tuple(range(len(arguments)))
    mine = jax.grad(lambda *a: (ours(*a) * weights).sum(), every)(*arguments)
    expected = jax.grad(lambda *a: (theirs(*a) * weights).sum(), every)(*arguments)
    for a, b in zip(mine, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((8, 8), (2, 2), (1, 1), "SAME"),  # CNN: pads to the right and below only
        ((8, 8), (3, 3), (2, 2), "SAME"),  # AlexNet, conv1
        ((8, 8), (5, 5), (1, 1), "SAME"),  # conv2
        ((3, 3), (3, 3), (1, 1), "SAME"),  # conv3 to conv5
        ((7, 9), (3, 3), (2, 2), "SAME"),
        ((7, 9), (2, 3), (3, 2), "VALID"),
        ((7, 9), (5, 5), (2, 1), ((2, 1), (0, 3))),
        ((8, 8), (1, 1), (1, 1), "VALID"),
    ],
)
def test_patches_are_nn_conv(size, kernel, strides, padding):
    images = random(2, *size, 3)
    fields = {"features": 4, "kernel_size": kernel, "strides": strides, "padding": padding, "param_dtype": jnp.float64}
    library, patches = nn.Conv(**fields), nn.Conv(**fields, conv_general_dilated=patches_conv)
    params = library.init(jax.random.key(0), images)
    flat, tree = jax.tree.flatten(params)

    def apply(layer):
        return lambda images, *leaves: layer.apply(jax.tree.unflatten(tree, leaves), images)

    assert_same(apply(patches), apply(library), images, *flat)


@pytest.mark.parametrize(
    "extra", [{"kernel_dilation": 2}, {"input_dilation": 2, "padding": ((1, 1), (1, 1))}, {"feature_group_count": 2}]
)
def test_what_patches_leave_to_the_library_still_works(extra):
    images = random(2, 8, 8, 4)
    fields = {"features": 4, "kernel_size": (3, 3), "param_dtype": jnp.float64, **extra}
    params = nn.Conv(**fields).init(jax.random.key(0), images)
    mine = nn.Conv(**fields, conv_general_dilated=patches_conv).apply(params, images)
    np.testing.assert_allclose(mine, nn.Conv(**fields).apply(params, images), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("size", "window", "strides"),
    [
        ((8, 8), (2, 2), (2, 2)),
        ((7, 9), (2, 2), (2, 2)),  # crops a row and a column
        ((8, 8), (3, 3), (2, 2)),  # overlapping, as AlexNet's; crops a row and a column
        ((3, 3), (3, 3), (2, 2)),
        ((7, 9), (2, 3), (1, 2)),
    ],
)
def test_slices_are_nn_max_pool(size, window, strides):
    images = random(2, *size, 5)  # no two numbers are equal: see the next test
    assert_same(lambda x: slices_max_pool(x, window, strides), lambda x: nn.max_pool(x, window, strides), images)


@pytest.mark.parametrize("strides", [(2, 2), (1, 1)])
def test_equal_largest_pixels_share_the_gradient(strides):
    images = jnp.asarray([[3.0, 3.0], [1.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: slices_max_pool(x, (2, 2), strides).sum())(images)
    np.testing.assert_allclose(gradient[0, :, :, 0], [[1 / 3, 1 / 3], [0, 1 / 3]], rtol=TOLERANCE)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_ties_behind_a_relu_carry_no_gradient(lowering):
    images = jnp.asarray([[-1.0, -2.0], [-3.0, -0.5]])[None, :, :, None]
    gradient = jax.grad(lambda x: LOWERINGS[lowering].max_pool(nn.relu(x), (2, 2), (2, 2)).sum())(images)
    np.testing.assert_array_equal(gradient, 0)


def test_auto_is_patches_on_cpus_only():
    assert [resolve_lowering("auto", platform) for platform in ("cpu", "gpu", "tpu")] == [
        "patches",
        "library",
        "library",
    ]
    assert resolve_lowering("library", "cpu") == "library"
