"""All lowerings compute the values and gradients of Flax's layers, up to TOLERANCE in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cifar_flax.ops import LOWERINGS
from cifar_flax.ops.patches import (
    MIN_CHANNELS_FOR_ROWS,
    MIN_SIZE_TO_TRANSPOSE,
    columns_dot_general,
    patches_conv,
    slices_max_pool,
    winograd_or_patches_conv,
)
from cifar_flax.ops.winograd import MAX_TILES
from cifar_flax.training.sharding import data_mesh

TOLERANCE = 1e-12  # relative and absolute; sums of at most a few thousand float64 products


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same(function, reference, *arguments):
    """Compares the values of two functions, and the gradients of a randomly weighted sum of their outputs."""
    shape = jax.eval_shape(reference, *arguments).shape
    weights, argnums = random(*shape, seed=1), tuple(range(len(arguments)))

    def value_and_gradients(f):
        return jax.jit(jax.value_and_grad(lambda *a: (weights * f(*a)).sum(), argnums))(*arguments)

    outputs, expected = jax.jit(function)(*arguments), jax.jit(reference)(*arguments)
    np.testing.assert_allclose(outputs, expected, rtol=TOLERANCE, atol=TOLERANCE)
    for a, b in zip(*map(jax.tree.leaves, map(value_and_gradients, (function, reference))), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_as_nn_conv(conv, images, pool=lambda outputs: outputs, **fields):
    """Compares nn.Conv with `conv` to nn.Conv followed by `pool`, on the same parameters."""
    library, lowered = nn.Conv(**fields), nn.Conv(**fields, conv_general_dilated=conv)
    params = jax.jit(library.init)(jax.random.key(0), images)
    flat, tree = jax.tree.flatten(params)

    def apply(layer):
        return lambda images, *leaves: layer.apply(jax.tree.unflatten(tree, leaves), images)

    assert_same(apply(lowered), lambda *arguments: pool(apply(library)(*arguments)), images, *flat)


@pytest.mark.medium
@pytest.mark.parametrize("channels", [3, MIN_CHANNELS_FOR_ROWS])
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((8, 8), (2, 2), (1, 1), "SAME"),  # CNN: pads right and bottom only
        ((8, 8), (3, 3), (2, 2), "SAME"),  # AlexNet, conv1
        ((8, 8), (5, 5), (1, 1), "SAME"),  # conv2
        ((3, 3), (3, 3), (1, 1), "SAME"),  # conv3 to conv5
        ((7, 9), (3, 3), (2, 2), "SAME"),
        ((7, 9), (2, 3), (3, 2), "VALID"),
        ((7, 9), (5, 5), (2, 1), ((2, 1), (0, 3))),
        ((8, 8), (1, 1), (1, 1), "VALID"),
        ((1, 2), (5, 3), (1, 1), "SAME"),  # some kernel rows never overlap the image
    ],
)
def test_patches_conv_matches_nn_conv(size, kernel, strides, padding, channels):
    images = random(2, *size, channels)
    fields = {"features": 4, "kernel_size": kernel, "strides": strides, "padding": padding, "param_dtype": jnp.float64}
    assert_same_as_nn_conv(patches_conv, images, **fields)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("batch", "size", "padding"),
    [
        (2, (8, 8), "SAME"),
        (2, (7, 5), "SAME"),  # the last tiles are half empty
        (3, (7, 9), ((1, 0), (1, 0))),  # airbench94, before a pooling layer
        (2, (3, 3), "VALID"),
        (2, (5, 4), ((0, 2), (3, 1))),
        (2, (1, 1), "SAME"),
        (6, (2, 2 * MAX_TILES), "SAME"),  # each image is a chunk of MAX_TILES tiles
        (7, (2, 2 * MAX_TILES // 3), "SAME"),  # a prime batch size
    ],
)
def test_winograd_conv_matches_nn_conv(batch, size, padding):
    images = random(batch, *size, 3)
    fields = {"features": 4, "kernel_size": (3, 3), "padding": padding, "param_dtype": jnp.float64}
    assert_same_as_nn_conv(winograd_or_patches_conv, images, **fields)


@pytest.mark.medium
def test_winograd_rounding_error_in_float32_is_small():
    """With 256 channels, as in airbench94. The library's own error is about a third of it."""
    images, kernel = random(4, 7, 7, 256), random(3, 3, 256, 32, seed=1) / 48
    exact = patches_conv(images, kernel, (1, 1), "SAME")
    single = (array.astype(jnp.float32) for array in (images, kernel))
    np.testing.assert_allclose(winograd_or_patches_conv(*single, (1, 1), "SAME"), exact, atol=2e-5)


@pytest.mark.medium
@pytest.mark.parametrize("fields", [{"kernel_size": (2, 2)}, {"kernel_size": (3, 3), "strides": 2}])
def test_winograd_uses_patches_for_other_kernels_and_strides(fields):
    images = random(2, 8, 8, 3)
    layers = [
        nn.Conv(4, **fields, param_dtype=jnp.float64, conv_general_dilated=conv)
        for conv in (patches_conv, winograd_or_patches_conv)
    ]
    params = jax.jit(layers[0].init)(jax.random.key(0), images)
    np.testing.assert_array_equal(*(jax.jit(layer.apply)(params, images) for layer in layers))


@pytest.mark.medium
@pytest.mark.parametrize("conv", [patches_conv, winograd_or_patches_conv])
@pytest.mark.parametrize(
    "extra", [{"kernel_dilation": 2}, {"input_dilation": 2, "padding": ((1, 1), (1, 1))}, {"feature_group_count": 2}]
)
def test_dilated_and_grouped_convolutions_match_nn_conv(extra, conv):
    images = random(2, 8, 8, 4)
    fields = {"features": 4, "kernel_size": (3, 3), "param_dtype": jnp.float64, **extra}
    library, lowered = nn.Conv(**fields), nn.Conv(**fields, conv_general_dilated=conv)
    params = jax.jit(library.init)(jax.random.key(0), images)
    outputs, expected = (jax.jit(layer.apply)(params, images) for layer in (lowered, library))
    np.testing.assert_allclose(outputs, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("size", "window", "strides"),
    [
        ((8, 8), (2, 2), (2, 2)),
        ((7, 9), (2, 2), (2, 2)),  # crops a row and a column
        ((8, 8), (3, 3), (2, 2)),  # overlapping, as in AlexNet; crops a row and a column
        ((3, 3), (3, 3), (2, 2)),
        ((7, 9), (2, 3), (1, 2)),
    ],
)
def test_slices_max_pool_matches_nn_max_pool(size, window, strides):
    images = random(2, *size, 5)  # without ties, which other tests cover
    assert_same(lambda x: slices_max_pool(x, window, strides), lambda x: nn.max_pool(x, window, strides), images)


@pytest.mark.medium
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
def test_conv_max_pool_matches_nn_conv_and_nn_max_pool(size, fields, lowering):
    fields = {"features": 5, "kernel_size": (3, 3), "param_dtype": jnp.float64, **fields}
    pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    bias_init = nn.initializers.normal()
    assert_same_as_nn_conv(LOWERINGS[lowering].conv_max_pool, random(3, *size, 4), pool, bias_init=bias_init, **fields)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16])
@pytest.mark.parametrize(
    ("size", "fields"),
    [
        ((8, 8), {}),
        ((7, 9), {}),  # the pooling drops a row and a column
        ((7, 9), {"kernel_size": (3, 2), "padding": ((1, 0), (2, 1))}),
        ((7, 8), {"kernel_size": (1, 1)}),
        ((2, 2), {"kernel_size": (1, 2)}),
        ((9, 8), {"strides": 2}),
        ((8, 8), {"kernel_dilation": 2}),
    ],
)
def test_conv_max_pool_of_evaluation_matches_nn_conv_and_nn_max_pool(size, fields, channels):
    fields = {"features": 5, "kernel_size": (2, 2), "param_dtype": jnp.float64, **fields}
    images, evaluation = random(3, *size, channels), LOWERINGS["patches"].when(train=False)
    library, lowered = nn.Conv(**fields), nn.Conv(**fields, conv_general_dilated=evaluation.conv_max_pool)
    params = jax.jit(library.init)(jax.random.key(0), images)
    expected = jax.jit(lambda *arguments: nn.max_pool(library.apply(*arguments), (2, 2), (2, 2)))(params, images)
    np.testing.assert_allclose(jax.jit(lowered.apply)(params, images), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.medium
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_conv_max_pool_gives_the_gradient_to_the_first_of_equal_maxima(lowering):
    """The kernel is an identity."""
    images = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[None, :, :, None]
    identity = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    pooled = partial(LOWERINGS[lowering].conv_max_pool, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    gradient = jax.grad(lambda x: pooled(x, identity, (1, 1), "SAME").sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_max_pool_gives_the_gradient_to_the_first_of_equal_maxima(lowering):
    images = jnp.asarray([[1.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]])[None, :, :, None]  # one row is cropped
    gradient = jax.grad(lambda x: LOWERINGS[lowering].max_pool(x, (2, 2), (2, 2)).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_overlapping_max_pool_splits_the_gradient_between_equal_maxima():
    images = jnp.asarray([[3.0, 3.0], [1.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: slices_max_pool(x, (2, 2), (1, 1)).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0] > 0, [[True, True], [False, True]])
    assert gradient.sum() == 1


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_max_pool_after_relu_has_no_gradient_at_zero(lowering):
    images = jnp.asarray([[-1.0, -2.0], [-3.0, -0.5]])[None, :, :, None]
    gradient = jax.grad(lambda x: LOWERINGS[lowering].max_pool(nn.relu(x), (2, 2), (2, 2)).sum())(images)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("size", [(2048, 2048), (8, 8)])
def test_columns_dot_general_matches_a_matrix_product(size):
    """With a kernel that is large enough to be transposed, and with a small one."""
    assert (size[0] * size[1] >= MIN_SIZE_TO_TRANSPOSE) == (size[0] == 2048)
    with jax.enable_x64(False):
        batch, kernel = random(3, size[0]).astype(jnp.float32), random(*size).astype(jnp.float32)
        dense = nn.Dense(size[1], use_bias=False, dot_general=columns_dot_general)
        weights = random(3, size[1], seed=1).astype(jnp.float32)

        def product(batch, kernel):
            return dense.apply({"params": {"kernel": kernel}}, batch)

        output, gradients = jax.vjp(product, batch, kernel)
        expected = (batch @ kernel, weights @ kernel.T, batch.T @ weights)
        for result, expected_result in zip((output, *gradients(weights)), expected, strict=True):
            np.testing.assert_allclose(result, expected_result, rtol=1e-5, atol=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("conv", "channels"), [(patches_conv, 3), (patches_conv, MIN_CHANNELS_FOR_ROWS), (winograd_or_patches_conv, 3)]
)
def test_convolution_gradients_of_a_sharded_batch_match_one_device(conv, channels):
    images, kernel = random(4, 6, 6, channels), random(3, 3, channels, 4, seed=1)
    sharded = jax.device_put(images, NamedSharding(data_mesh(jax.devices()[:4]), PartitionSpec("data")))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradients(images, kernel):
        return (conv(images, kernel, (1, 1), "SAME") ** 2).sum()

    for many, one in zip(gradients(sharded, kernel), gradients(images, kernel), strict=True):
        np.testing.assert_allclose(many, one, rtol=TOLERANCE, atol=TOLERANCE)
