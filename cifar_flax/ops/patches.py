"""Convolution and max-pooling, lowered in three ways, GELU, how kernels start, and normalised inputs.

Of the lowerings, `library` is XLA's own, `patches` is for CPUs, and `winograd` is `patches` with 3x3 convolutions by
`winograd.py`.

XLA's CPU convolutions are slow, most of all inside a loop and in their gradients, and so is the gradient of its
windowed maximum (`select_and_scatter`). `patches` writes a convolution as matrix products over the patches of the
image (im2col: Chellapilla, Puri and Simard, 2006, "High Performance Convolutional Neural Networks for Document
Processing") and a pooling as a maximum over slices. All lowerings compute the same function from the same
parameters; only rounding differs. What was tried and measured is in docs/performance.md.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cifar_flax.ops.windows import first_maximum, windows
from cifar_flax.ops.winograd import winograd_conv

DEEP = 64  # input channels from which on each row of a kernel is a product of its own
LARGE = 1 << 22  # numbers in a dense kernel from which on its products are turned
KERNEL_INIT = nn.initializers.glorot_uniform()  # what Keras' layers start from (Glorot and Bengio, 2010)


class Normalize(nn.Module):
    """Images minus the mean of the training images, over their standard deviation, channel by channel.

    Both are measured on the images that `init` is given, and kept among the `batch_stats`.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, H, W, C] -> the same shape and dtype."""
        mean = self.variable("batch_stats", "mean", _mean_by_channel, images)
        variance = self.variable("batch_stats", "variance", lambda: _mean_by_channel((images - mean.value) ** 2))
        # a channel that never changes stays zero
        return (images - mean.value) / jnp.sqrt(jnp.maximum(variance.value, 1e-6))


def _mean_by_channel(images: Array) -> Array:
    """[B, H, W, C] -> [1, 1, 1, C]."""
    return images.mean((0, 1, 2), keepdims=True)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Numbers times the normal distribution up to them (Hendrycks and Gimpel, 2016, arXiv 1606.08415, section 2).

    The function of `nn.gelu(approximate=False)`. That one's gradient keeps and reads several arrays on CPUs; this one
    is a single formula of `x`.
    """
    return x * _normal_cdf(x)


def _normal_cdf(x: Array) -> Array:
    return (1 + lax.erf(x * 0.5**0.5)) / 2


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-x * x / 2) * (2 * np.pi) ** -0.5
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Lowering(NamedTuple):
    """How a model computes its convolutions and poolings.

    Attributes:
        conv: what `nn.Conv(conv_general_dilated=...)` takes; signature of `jax.lax.conv_general_dilated`.
        max_pool: `(images [B, H, W, C], window (h, w), strides (h, w)) -> [B, H', W', C]`, without padding.
        conv_max_pool: `conv`, and the maximum over each 2x2 of its outputs; signature of `conv`. A bias that is added
            behind it is as good as one in front of the maximum.
        dot_general: what `nn.Dense(dot_general=...)` takes; signature of `jax.lax.dot_general`. Only a dense layer of
            millions of parameters has a use for it.
    """

    conv: Callable[..., Array]
    max_pool: Callable[[Array, tuple[int, int], tuple[int, int]], Array]
    conv_max_pool: Callable[..., Array]
    dot_general: Callable[..., Array]


def columns_dot_general(
    lhs: Array, rhs: Array, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None
) -> Array:
    """Products of a batch [B, K] with a kernel [K, N] too large for a core's cache, as K columns of B.

    XLA hands this form, and with it the gradients', to programs that read the rows of `rhs` one after the other.
    Smaller kernels are faster as they are, and other products are left alone.
    """
    if lhs.ndim == 2 and rhs.size >= LARGE and dimension_numbers == (((1,), (0,)), ((), ())):
        lhs, dimension_numbers = lax.optimization_barrier(lhs.T), (((0,), (0,)), ((), ()))
    return lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


def _kept(array: Array) -> Array:
    """The array, written to memory: XLA would compute it anew in each of the slices and selections that read it."""
    return lax.optimization_barrier(array)


def patches_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    *,
    winograd: bool = False,
    pooled: bool = False,
) -> Array:
    """Convolves images [B, H, W, C] with a kernel [h, w, C, O] as products of patches with the kernel.

    With `winograd` 3x3 kernels of stride 1 are `winograd_conv`'s. Dilated and grouped convolutions are left to the
    library.

    Returns:
        [B, H', W', O], in the dtype of the arguments; if `pooled`, the maximum over each 2x2 of it.
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or feature_group_count != 1:
        outputs = lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )
    else:
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
        if winograd and rhs.shape[:2] == (3, 3) and tuple(window_strides) == (1, 1):
            (above, below), (left, right) = padding
            return winograd_conv(lhs, rhs, ((above, below), (left, right)), pooled)
        by_patches = _conv_by_rows if lhs.shape[3] >= DEEP else _conv_by_windows
        outputs = by_patches(lhs, rhs, window_strides, padding, precision)
    return slices_max_pool(outputs, (2, 2), (2, 2)) if pooled else outputs


winograd_or_patches_conv = partial(patches_conv, winograd=True)


def _product(patches: Array, kernel: Array, precision: Any) -> Array:
    """Patches [..., K] x kernel [..., O] of K * O numbers -> [..., O]; as matrices: that saves the gradients copies."""
    depth, features = patches.shape[-1], kernel.shape[-1]
    product = jnp.dot(patches.reshape(-1, depth), kernel.reshape(depth, features), precision=precision)
    return product.reshape(*patches.shape[:-1], features)


def _conv_by_windows(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any
) -> Array:
    """One product: patches [B, H', W', h w C] x kernel [h w C, O]."""
    padded = _kept(jnp.pad(images, ((0, 0), *padding, (0, 0))))
    patches = jnp.concatenate(windows(padded, kernel.shape[:2], strides), axis=-1)
    return _product(patches, kernel, precision)


def _conv_by_rows(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any
) -> Array:
    """The sum over the kernel's rows of products: patches of one image row [H, B, W', w C] x kernel row [w C, O].

    The patches are h times smaller, and rows of padding are not multiplied. Image rows come first in memory, so that
    those a kernel row meets lie side by side and are not copied.
    """
    h, w, _, features = kernel.shape
    height, top, stride = images.shape[1], padding[0][0], strides[0]
    num_rows = (height + sum(padding[0]) - h) // stride + 1
    by_row = _kept(jnp.pad(images, ((0, 0), (0, 0), padding[1], (0, 0))).swapaxes(0, 1))
    patches = jnp.concatenate(windows(by_row, (1, w), (1, strides[1])), axis=-1)
    output = jnp.zeros((num_rows, *patches.shape[1:3], features), patches.dtype)
    for i in range(h):
        # the output rows whose i-th input row lies within the image
        first, end = max(0, -((i - top) // stride)), min(num_rows, (height - 1 + top - i) // stride + 1)
        if first < end:
            rows = patches[first * stride + i - top :: stride][: end - first]
            product = _product(rows, kernel[i], precision)
            output += jnp.pad(product, ((first, num_rows - end), (0, 0), (0, 0), (0, 0)))
    return output.swapaxes(0, 1)


def slices_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    """Maximum over windows of images [B, H, W, C].

    Where several pixels of a window are exactly equal and largest, windows side by side give the gradient to the
    first of them, as the library does; overlapping ones share it. Behind a ReLU the usual tie is at zero and
    carries no gradient either way.
    """
    if window == strides:
        height, width = (side // w * w for side, w in zip(images.shape[1:3], window, strict=True))
        return _max_of_tiles(images[:, :height, :width], window)
    rows = reduce(jnp.maximum, windows(images, (window[0], 1), (strides[0], 1)))
    return reduce(jnp.maximum, windows(rows, (1, window[1]), (1, strides[1])))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_tiles(images: Array, tile: tuple[int, int]) -> Array:
    """Maximum of each tile [h, w] of images [B, h R, w S, C] -> [B, R, S, C].

    XLA's gradient of a maximum compares again and counts the ties in passes of their own; this one keeps the place.
    """
    return _max_of_tiles_forward(images, tile)[0]


def _tiles(images: Array, tile: tuple[int, int]) -> Array:
    """[B, h R, w S, C] -> [B, R, h, S, w, C], without a copy."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // tile[0], tile[0], width // tile[1], tile[1], channels)


def _max_of_tiles_forward(images: Array, tile: tuple[int, int]) -> tuple[Array, Array]:
    """The maxima, and where in its tile the first of each lies, counted row by row: int32 [B, R, S, C]."""
    tiles = _tiles(images, tile)
    every = (tiles[:, :, place // tile[1], :, place % tile[1]] for place in range(tile[0] * tile[1]))
    maxima, places = first_maximum(every)
    return maxima, _kept(places)


def _max_of_tiles_backward(tile: tuple[int, int], places: Array, gradient: Array) -> tuple[Array]:
    batch, rows, columns, channels = places.shape
    every = jnp.arange(tile[0] * tile[1]).reshape(1, 1, tile[0], 1, tile[1], 1)
    tiles = jnp.where(places[:, :, None, :, None] == every, gradient[:, :, None, :, None], 0)
    return (tiles.reshape(batch, rows * tile[0], columns * tile[1], channels),)


_max_of_tiles.defvjp(_max_of_tiles_forward, _max_of_tiles_backward)


def _library_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    return nn.max_pool(images, window, strides)


def _library_conv_max_pool(*arguments: Any, **fields: Any) -> Array:
    return nn.max_pool(lax.conv_general_dilated(*arguments, **fields), (2, 2), (2, 2))


LOWERINGS = {
    "library": Lowering(lax.conv_general_dilated, _library_max_pool, _library_conv_max_pool, lax.dot_general),
    "patches": Lowering(patches_conv, slices_max_pool, partial(patches_conv, pooled=True), columns_dot_general),
    "winograd": Lowering(
        winograd_or_patches_conv, slices_max_pool, partial(winograd_or_patches_conv, pooled=True), columns_dot_general
    ),
}
