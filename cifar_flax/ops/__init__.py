"""Three ways to compute convolutions and poolings, chosen by `config.lowering`.

`library` is XLA's own. `patches` (im2col) is for CPUs, and `winograd` is `patches` with Winograd's algorithm for 3x3
convolutions. All three compute the same function of the same parameters and differ only in rounding. What was tried
and measured is in docs/performance.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jax import Array, lax

from cifar_flax.ops.patches import columns_dot_general, patches_conv, slices_max_pool, winograd_or_patches_conv


class Lowering(NamedTuple):
    """How a model computes its convolutions, poolings and dense layers.

    Attributes:
        conv: for `nn.Conv(conv_general_dilated=...)`; takes the arguments that `nn.Conv` passes.
        max_pool: `(images [B, H, W, C], window (h, w), strides (h, w)) -> [B, H', W', C]`, without padding.
        conv_max_pool: `conv` followed by 2x2 max-pooling, with the same arguments. Adding the bias after the maximum
            is equivalent.
        dot_general: for `nn.Dense(dot_general=...)`; signature of `jax.lax.dot_general`. It only matters for dense
            layers with millions of parameters.
    """

    conv: Callable[..., Array]
    max_pool: Callable[[Array, tuple[int, int], tuple[int, int]], Array]
    conv_max_pool: Callable[..., Array]
    dot_general: Callable[..., Array]


def _library_max_pool(images: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
    return nn.max_pool(images, window_shape=window, strides=strides)  # jax2onnx takes keywords only


def _library_conv_max_pool(*args: Any, **kwargs: Any) -> Array:
    return nn.max_pool(lax.conv_general_dilated(*args, **kwargs), (2, 2), (2, 2))


LIBRARY = Lowering(lax.conv_general_dilated, _library_max_pool, _library_conv_max_pool, lax.dot_general)
LOWERINGS = {
    "library": LIBRARY,
    "patches": Lowering(patches_conv, slices_max_pool, partial(patches_conv, pooled=True), columns_dot_general),
    "winograd": Lowering(
        winograd_or_patches_conv, slices_max_pool, partial(winograd_or_patches_conv, pooled=True), columns_dot_general
    ),
}
