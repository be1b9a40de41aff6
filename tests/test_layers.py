"""Each lowering computes what flax' own layers compute, values and gradients, to TOLERANCE in float64.

And normalised inputs.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cifar_flax.ops.patches import (
    DEEP,
    LARGE,
    LOWERINGS,
    Normalize,
    columns_dot_general,
    gelu,
    patches_conv,
    slices_max_pool,
    winograd_or_patches_conv,
)
from cifar_flax.ops.winograd import TILES
from cifar_flax.training.steps import data_mesh

TOLERANCE = 1e-12  # relative and absolute; sums of at most a few thousand float64 products


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same(ours, theirs, *arguments):
    """Equal values, and equal gradients of a sum with random weights."""
    shape = jax.eval_shape(theirs, *arguments).shape
    weights, every = random(*shape, seed=1), tuple(range(len(arguments)))

    def value_and_gradients(function):
        return jax.jit(jax.value_and_grad(lambda *a: (weights * function(*a)).sum(), every))(*arguments)

    np.testing.assert_allclose(jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments), rtol=TOLERANCE, atol=TOLERANCE)
    for a, b in zip(*map(jax.tree.leaves, map(value_and_gradients, (ours, theirs))), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def assert_is_nn_conv(conv, images, pool=lambda outputs: outputs, **fields):
    """As a layer of these fields with `pool` behind it, on parameters that flax' own layer begins with."""
    library, ours = nn.Conv(**fields), nn.Conv(**fields, conv_general_dilated=conv)
    params = jax.jit(library.init)(jax.random.key(0), images)
    flat, tree = jax.tree.flatten(params)

    def apply(layer):
        return lambda images, *leaves: layer.apply(jax.tree.unflatten(tree, leaves), images)

    assert_same(apply(ours), lambda *arguments: pool(apply(library)(*arguments)), images, *flat)


@pytest.mark.parametrize("channels", [3, DEEP])
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
        ((1, 2), (5, 3), (1, 1), "SAME"),  # kernel rows that meet no image row
    ],
)
def test_patches_are_nn_conv(size, kernel, strides, padding, channels):
    images = random(2, *size, channels)
    fields = {"features": 4, "kernel_size": kernel, "strides": strides, "padding": padding, "param_dtype": jnp.float64}
    assert_is_nn_conv(patches_conv, images, **fields)


@pytest.mark.parametrize(
    ("batch", "size", "padding"),
    [
        (2, (8, 8), "SAME"),
        (2, (7, 5), "SAME"),  # half a tile at the end
        (3, (7, 9), ((1, 0), (1, 0))),  # airbench94, in front of a pooling
        (2, (3, 3), "VALID"),
        (2, (5, 4), ((0, 2), (3, 1))),
        (2, (1, 1), "SAME"),
        (6, (2, 2 * TILES), "SAME"),  # each image a piece, of more tiles than a piece should have
        (7, (2, 2 * TILES // 3), "SAME"),  # a batch that only one and seven divide
    ],
)
def test_winograds_tiles_are_nn_conv(batch, size, padding):
    images = random(batch, *size, 3)
    fields = {"features": 4, "kernel_size": (3, 3), "padding": padding, "param_dtype": jnp.float64}
    assert_is_nn_conv(winograd_or_patches_conv, images, **fields)


def test_winograds_rounding_in_float32_is_that_of_a_sum():
    """256 channels deep, as airbench94's; the library's own error is about a third of it."""
    images, kernel = random(4, 7, 7, 256), random(3, 3, 256, 32, seed=1) / 48
    exact = patches_conv(images, kernel, (1, 1), "SAME")
    single = (array.astype(jnp.float32) for array in (images, kernel))
    np.testing.assert_allclose(winograd_or_patches_conv(*single, (1, 1), "SAME"), exact, atol=2e-5)


@pytest.mark.parametrize("fields", [{"kernel_size": (2, 2)}, {"kernel_size": (3, 3), "strides": 2}])
def test_other_kernels_and_strides_are_left_to_the_patches(fields):
    images = random(2, 8, 8, 3)
    layers = [
        nn.Conv(4, **fields, param_dtype=jnp.float64, conv_general_dilated=conv)
        for conv in (patches_conv, winograd_or_patches_conv)
    ]
    params = layers[0].init(jax.random.key(0), images)
    np.testing.assert_array_equal(*(layer.apply(params, images) for layer in layers))


@pytest.mark.parametrize("conv", [patches_conv, winograd_or_patches_conv])
@pytest.mark.parametrize(
    "extra", [{"kernel_dilation": 2}, {"input_dilation": 2, "padding": ((1, 1), (1, 1))}, {"feature_group_count": 2}]
)
def test_what_is_left_to_the_library_still_works(extra, conv):
    images = random(2, 8, 8, 4)
    fields = {"features": 4, "kernel_size": (3, 3), "param_dtype": jnp.float64, **extra}
    params = nn.Conv(**fields).init(jax.random.key(0), images)
    mine = nn.Conv(**fields, conv_general_dilated=conv).apply(params, images)
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


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("size", "fields"),
    [
        ((7, 9), {"padding": ((1, 0), (1, 0))}),  # airbench94
        ((7, 9), {}),  # the pooling drops a row and a column
        ((9, 8), {"strides": 2}),
        ((8, 8), {"kernel_dilation": 2}),
    ],
)
def test_conv_max_pool_is_nn_conv_and_nn_max_pool(size, fields, lowering):
    fields = {"features": 5, "kernel_size": (3, 3), "param_dtype": jnp.float64, **fields}
    pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    bias_init = nn.initializers.normal()
    assert_is_nn_conv(LOWERINGS[lowering].conv_max_pool, random(3, *size, 4), pool, bias_init=bias_init, **fields)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_of_equal_largest_outputs_of_a_convolution_the_first_gets_the_gradient(lowering):
    """An identity kernel lets the numbers through."""
    images = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[None, :, :, None]
    identity = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    pooled = partial(LOWERINGS[lowering].conv_max_pool, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    gradient = jax.grad(lambda x: pooled(x, identity, (1, 1), "SAME").sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


def test_gelu_is_flax_own():
    x = jnp.concatenate([random(1000), jnp.asarray([-40.0, -5, 0, 5, 40])])
    assert_same(gelu, partial(nn.gelu, approximate=False), x)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_of_equal_largest_pixels_the_first_gets_the_gradient(lowering):
    images = jnp.asarray([[1.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]])[None, :, :, None]  # one row is cropped
    gradient = jax.grad(lambda x: LOWERINGS[lowering].max_pool(x, (2, 2), (2, 2)).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_equal_largest_pixels_of_overlapping_windows_share_the_gradient():
    images = jnp.asarray([[3.0, 3.0], [1.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: slices_max_pool(x, (2, 2), (1, 1)).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0] > 0, [[True, True], [False, True]])
    assert gradient.sum() == 1


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_ties_behind_a_relu_carry_no_gradient(lowering):
    images = jnp.asarray([[-1.0, -2.0], [-3.0, -0.5]])[None, :, :, None]
    gradient = jax.grad(lambda x: LOWERINGS[lowering].max_pool(nn.relu(x), (2, 2), (2, 2)).sum())(images)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("size", [(2048, 2048), (8, 8)])
def test_columns_are_a_product(size):
    """A kernel large enough to be turned, and a small one."""
    assert (size[0] * size[1] >= LARGE) == (size[0] == 2048)
    with jax.enable_x64(False):
        batch, kernel = random(3, size[0]).astype(jnp.float32), random(*size).astype(jnp.float32)
        dense = nn.Dense(size[1], use_bias=False, dot_general=columns_dot_general)
        weights = random(3, size[1], seed=1).astype(jnp.float32)

        def product(batch, kernel):
            return dense.apply({"params": {"kernel": kernel}}, batch)

        output, gradients = jax.vjp(product, batch, kernel)
        expected = (batch @ kernel, weights @ kernel.T, batch.T @ weights)
        for mine, theirs in zip((output, *gradients(weights)), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("conv", "channels"), [(patches_conv, 3), (patches_conv, DEEP), (winograd_or_patches_conv, 3)])
def test_convolutions_of_a_batch_on_several_devices(conv, channels):
    images, kernel = random(4, 6, 6, channels), random(3, 3, channels, 4, seed=1)
    split = jax.device_put(images, NamedSharding(data_mesh(jax.devices()[:4]), PartitionSpec("data")))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradients(images, kernel):
        return (conv(images, kernel, (1, 1), "SAME") ** 2).sum()

    for many, one in zip(gradients(split, kernel), gradients(images, kernel), strict=True):
        np.testing.assert_allclose(many, one, rtol=TOLERANCE, atol=TOLERANCE)


def test_images_are_normalised_by_those_that_init_was_given():
    seen = np.random.default_rng(0).uniform(0.2, 0.9, (50, 6, 5, 3)).astype(np.float32) ** [1, 2, 3]
    normalize, others = Normalize(), jnp.asarray(seen[:4]) / 2
    variables = normalize.init(jax.random.key(0), jnp.asarray(seen))
    mean, std = seen.mean((0, 1, 2)), seen.std((0, 1, 2))
    np.testing.assert_allclose(normalize.apply(variables, others), (seen[:4] / 2 - mean) / std, rtol=1e-6)


def test_many_images_are_normalised_as_exactly_as_few():
    """45,000 images have 46 million pixels of each colour, more than float32 can count one by one."""
    with jax.enable_x64(False):
        image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1)) / np.float32(255)
        images = jnp.broadcast_to(image, (20_000, 32, 32, 1))
        variables = jax.jit(Normalize().init)(jax.random.key(0), images)
        assert float(variables["batch_stats"]["mean"].squeeze()) == pytest.approx(image.mean(), rel=1e-4)
        assert float(variables["batch_stats"]["variance"].squeeze()) == pytest.approx(image.var(), rel=1e-4)


def test_a_colour_that_never_changes_becomes_zero():
    images = jnp.full((2, 4, 4, 1), 0.5)
    variables = Normalize().init(jax.random.key(0), images)
    np.testing.assert_array_equal(Normalize().apply(variables, images), 0)
