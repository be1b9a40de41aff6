"""Convolution and max-pooling, lowered in two ways, and how kernels start.

Of the lowerings, `library` is XLA's own, `patches` is for CPUs.

XLA's CPU convolutions are slow, most of all inside a loop and in their gradients, and so is the gradient of its
windowed maximum (`select_and_scatter`). `patches` writes a convolution as one matrix product over the patches of
the image (im2col: Chellapilla, Puri and Simard, 2006, "High Performance Convolutional Neural Networks for Document
Processing") and a pooling as a maximum over slices. Both lowerings compute the same function from the same
parameters; only rounding differs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

KERNEL_INIT = nn.initializers.glorot_uniform()  # what Keras' layers start from (Glorot and Bengio, 2010)


class Lowering(NamedTuple):
    """How a model computes its convolutions and poolings.

    Attributes:
        conv: what `nn.Conv(conv_general_dilated=...)` takes; signature of `jax.lax.conv_general_dilated`.
        max_pool: `(images [B, H, W, C], window (h, w), strides (h, w)) -> [B, H', W', C]`, without padding.
    """

    conv: Callable[..., Array]
    max_pool: Callable[[Array, tuple[int, int], tuple[int, int]], Array]


def _windows(images: Array, window: Sequence[int], strides: Sequence[int]) -> list[Array]:
    """One [B, H', W', C] slice for each of the window's h * w places, row by row; what no window covers is cropped."""
    _, height, width, _ = images.shape
    rows, columns = (height - window[0]) // strides[0] + 1, (width - window[1]) // strides[1] + 1
    span = (rows - 1) * strides[0] + 1, (columns - 1) * strides[1] + 1
    return [
        lax.slice(
            images,
            (0, i, j, 0),
            (images.shape[0], i + span[0], j + span[1], images.shape[3]),
            (1, strides[0], strides[1], 1),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]


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
) -> Array:
    """Convolves images [B, H, W, C] with a kernel [h, w, C, O] as one product [B H' W', h w C] x [h w C, O].

    Dilated and grouped convolutions are left to the library.

    Returns:
        [B, H', W', O], in the dtype of the arguments.
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or feature_group_count != 1:
        return lax.conv_general_dilated(
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
    window = rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], window, window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    patches = jnp.concatenate(_windows(padded, window, window_strides), axis=-1)
    return jnp.dot(patches, rhs.reshape(-1, rhs.shape[-1]), precision=precision)


def slices_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    """Maximum over windows of images [B, H, W, C], as a maximum over stacked slices.

    Where several pixels of a window are exactly equal and largest, they share the gradient equally; the library
    gives it to one of them. Behind a ReLU the usual tie is at zero and carries no gradient either way.
    """
    if window == strides:  # windows side by side: a reshape holds them without copying
        batch, height, width, channels = images.shape
        (h, w), (rows, columns) = window, (height // window[0], width // window[1])
        cropped = images[:, : rows * h, : columns * w, :]
        return cropped.reshape(batch, rows, h, columns, w, channels).max(axis=(2, 4))
    return jnp.stack(_windows(images, window, strides)).max(axis=0)


def _library_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    return nn.max_pool(images, window, strides)


LOWERINGS = {
    "library": Lowering(lax.conv_general_dilated, _library_max_pool),
    "patches": Lowering(patches_conv, slices_max_pool),
}


def resolve_lowering(name: str, platform: str) -> str:
    """`auto` is `patches` on the CPU and `library` elsewhere; any other name stays itself."""
    if name == "auto":
        return "patches" if platform == "cpu" else "library"
    return name
