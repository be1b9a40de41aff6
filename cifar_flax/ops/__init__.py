"""Three ways to compute convolutions and poolings, chosen by `config.lowering`.

`library` is XLA's own. `patches` (im2col) is for CPUs, and `winograd` is `patches` with Winograd's algorithm for 3x3
convolutions. All three compute the same function of the same parameters and differ only in rounding. What was tried
and measured is in docs/performance.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from cifar_flax.ops.direct import direct_conv_max_pool
from cifar_flax.ops.patches import columns_dot_general, patches_conv, slices_max_pool, winograd_or_patches_conv
from cifar_flax.ops.pixel_sums import plain_sum, stepwise_spread, stepwise_sum

MIN_CHANNELS_FOR_XLA = 16  # input channels from which evaluation uses XLA's own convolution
MAX_CHANNELS_OF_IMAGES = 4  # input channels up to which it uses `direct_conv_max_pool`


class Lowering(NamedTuple):
    """How a model computes its convolutions, poolings and dense layers.

    Attributes:
        conv: for `nn.Conv(conv_general_dilated=...)`; takes the arguments that `nn.Conv` passes.
        max_pool: `(images [B, H, W, C], window (h, w), strides (h, w)) -> [B, H', W', C]`, without padding.
        conv_max_pool: `conv` followed by 2x2 max-pooling, with the same arguments. Adding the bias after the maximum
            is equivalent.
        dot_general: for `nn.Dense(dot_general=...)`; signature of `jax.lax.dot_general`. It only matters for dense
            layers with millions of parameters.
        pixel_sum: `(maps [B, H, W, C]) -> [C] float32`, for BatchNorm.
        spread: `(vector [C], shape (B, H, W, C)) -> maps`, with the gradient of `jnp.broadcast_to`.
        evaluation: the lowering for evaluation, which has no gradients; None: the same.
    """

    conv: Callable[..., Array]
    max_pool: Callable[[Array, tuple[int, int], tuple[int, int]], Array]
    conv_max_pool: Callable[..., Array]
    dot_general: Callable[..., Array]
    pixel_sum: Callable[[Array], Array]
    spread: Callable[[Array, tuple[int, ...]], Array]
    evaluation: "Lowering | None" = None

    def when(self, *, train: bool) -> "Lowering":
        """The lowering for training, or the one for evaluation."""
        return self if train else self.evaluation or self


def _library_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    return nn.max_pool(images, window_shape=window, strides=strides)  # jax2onnx takes keywords only


def _library_conv_max_pool(*args: Any, **kwargs: Any) -> Array:
    return nn.max_pool(lax.conv_general_dilated(*args, **kwargs), (2, 2), (2, 2))


LIBRARY = Lowering(
    lax.conv_general_dilated,
    _library_max_pool,
    _library_conv_max_pool,
    lax.dot_general,
    plain_sum,
    jnp.broadcast_to,
)


def _forward_conv(images: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
    """As `patches_conv`. Without gradients, XLA's own convolution is slow for images only, which have few channels."""
    conv: Callable[..., Array] = patches_conv if kernel.shape[2] < MIN_CHANNELS_FOR_XLA else lax.conv_general_dilated
    return conv(images, kernel, *args, **kwargs)


def _forward_conv_max_pool(
    images: Array, kernel: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **kwargs: Any
) -> Array:
    """As `patches_conv` with `pooled`, for evaluation."""
    steps = [*strides, *(kwargs.get("lhs_dilation") or ()), *(kwargs.get("rhs_dilation") or ())]
    is_plain = all(step == 1 for step in steps) and kernel.shape[2] == images.shape[3]
    if not is_plain or images.shape[3] > MAX_CHANNELS_OF_IMAGES:
        return slices_max_pool(_forward_conv(images, kernel, strides, padding, **kwargs), (2, 2), (2, 2))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return direct_conv_max_pool(images, kernel, padding)


PATCHES = Lowering(
    patches_conv,
    slices_max_pool,
    partial(patches_conv, pooled=True),
    columns_dot_general,
    stepwise_sum,
    stepwise_spread,
)
PATCHES = PATCHES._replace(
    evaluation=PATCHES._replace(conv=_forward_conv, conv_max_pool=_forward_conv_max_pool, dot_general=lax.dot_general)
)
WINOGRAD = PATCHES._replace(conv=winograd_or_patches_conv, conv_max_pool=partial(winograd_or_patches_conv, pooled=True))
LOWERINGS = {"library": LIBRARY, "patches": PATCHES, "winograd": WINOGRAD}
