"""Convolutions as matrix products over image patches, and max-pooling as a maximum over slices, for CPUs.

XLA's CPU convolutions are slow, above all inside a loop and in their gradients, and so is the gradient of its windowed
maximum (`select_and_scatter`). im2col: Chellapilla, Puri and Simard, 2006, "High Performance Convolutional Neural
Networks for Document Processing".
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from cifar_flax.ops.windows import first_maximum, materialize, windows
from cifar_flax.ops.winograd import winograd_conv

MIN_CHANNELS_FOR_ROWS = 64  # input channels from which each kernel row is computed as a separate product
MIN_SIZE_TO_TRANSPOSE = 1 << 22  # elements of a dense kernel from which lhs is transposed


def columns_dot_general(
    lhs: Array, rhs: Array, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None
) -> Array:
    """`jax.lax.dot_general`, with lhs [B, K] transposed if rhs [K, N] is too large for a core's cache.

    In this form XLA calls routines that read the rows of rhs in order, also for the gradients. Smaller kernels are
    faster without it. All other products are unchanged.
    """
    if lhs.ndim == 2 and rhs.size >= MIN_SIZE_TO_TRANSPOSE and dimension_numbers == (((1,), (0,)), ((), ())):
        lhs, dimension_numbers = materialize(lhs.T), (((0,), (0,)), ((), ()))
    return lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


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
    """Convolves images [B, H, W, C] with a kernel [h, w, C, O] as products of patches and kernel.

    The arguments are those that `nn.Conv` passes to `jax.lax.conv_general_dilated`, which still computes dilated and
    grouped convolutions. With `winograd`, `winograd_conv` computes 3x3 kernels with stride 1, and ignores `precision`.
    With `pooled`, 2x2 max-pooling follows.

    Returns:
        [B, H', W', O], in the dtype of the arguments.
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
        conv = _conv_by_rows if lhs.shape[3] >= MIN_CHANNELS_FOR_ROWS else _conv_by_windows
        outputs = conv(lhs, rhs, window_strides, padding, precision)
    return slices_max_pool(outputs, (2, 2), (2, 2)) if pooled else outputs


winograd_or_patches_conv = partial(patches_conv, winograd=True)


def _product(patches: Array, kernel: Array, precision: Any) -> Array:
    """[..., K] x [..., O] with K * O elements -> [..., O]. As matrices, which saves the gradients a copy."""
    depth, features = patches.shape[-1], kernel.shape[-1]
    product = jnp.dot(patches.reshape(-1, depth), kernel.reshape(depth, features), precision=precision)
    return product.reshape(*patches.shape[:-1], features)


def _conv_by_windows(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any
) -> Array:
    """One product: patches [B, H', W', h w C] x kernel [h w C, O]."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    patches = jnp.concatenate(windows(padded, kernel.shape[:2], strides), axis=-1)
    return _product(patches, kernel, precision)


def _conv_by_rows(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any
) -> Array:
    """One product per kernel row, summed: patches of one image row [H, B, W', w C] x kernel row [w C, O].

    The patches are h times smaller than those of `_conv_by_windows`, and rows of padding are not multiplied. Image
    rows come first in memory, so that the rows that a kernel row is applied to are contiguous and need no copy.
    """
    h, w, _, features = kernel.shape
    height, top, stride = images.shape[1], padding[0][0], strides[0]
    num_rows = (height + sum(padding[0]) - h) // stride + 1
    by_row = materialize(jnp.pad(images, ((0, 0), (0, 0), padding[1], (0, 0))).swapaxes(0, 1))
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
    """Max-pools images [B, H, W, C] without padding.

    If several pixels of a window are equal and largest, non-overlapping windows pass the gradient to the first of
    them, as the library does, and overlapping windows split it. After a ReLU most ties are at zero, where no gradient
    flows.
    """
    if window == strides:
        height, width = (side // w * w for side, w in zip(images.shape[1:3], window, strict=True))
        return _max_of_tiles(images[:, :height, :width], window)
    rows = reduce(jnp.maximum, windows(images, (window[0], 1), (strides[0], 1)))
    return reduce(jnp.maximum, windows(rows, (1, window[1]), (1, strides[1])))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_tiles(images: Array, tile: tuple[int, int]) -> Array:
    """Maximum of each tile [h, w] of images [B, h R, w S, C] -> [B, R, S, C].

    XLA's gradient of a maximum repeats the comparison and counts ties in separate passes. This one stores the argmax.
    """
    return _max_of_tiles_forward(images, tile)[0]


def _tiles(images: Array, tile: tuple[int, int]) -> Array:
    """[B, h R, w S, C] -> [B, R, h, S, w, C], without a copy."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // tile[0], tile[0], width // tile[1], tile[1], channels)


def _max_of_tiles_forward(images: Array, tile: tuple[int, int]) -> tuple[Array, Array]:
    """The maxima, and the index within its tile of the first pixel that has each, row by row: int32 [B, R, S, C]."""
    tiles = _tiles(images, tile)
    pixels = (tiles[:, :, i // tile[1], :, i % tile[1]] for i in range(tile[0] * tile[1]))
    maxima, argmax = first_maximum(pixels)
    return maxima, argmax


def _max_of_tiles_backward(tile: tuple[int, int], argmax: Array, gradient: Array) -> tuple[Array]:
    batch, rows, columns, channels = argmax.shape
    indices = jnp.arange(tile[0] * tile[1]).reshape(1, 1, tile[0], 1, tile[1], 1)
    tiles = jnp.where(argmax[:, :, None, :, None] == indices, gradient[:, :, None, :, None], 0)
    return (tiles.reshape(batch, rows * tile[0], columns * tile[1], channels),)


_max_of_tiles.defvjp(_max_of_tiles_forward, _max_of_tiles_backward)
