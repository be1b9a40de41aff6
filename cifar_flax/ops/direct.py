"""A convolution with its max-pooling as one expression, for evaluation on CPUs.

XLA computes such an expression in one loop over the outputs, so that neither patches nor the four times larger outputs
of the convolution are written. It is for images, which have few channels: the products of many channels are faster as
a matrix product. Its gradient would be slow. What was measured is in docs/performance.md.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from operator import add

import jax.numpy as jnp
from jax import Array

from cifar_flax.ops.windows import windows


def direct_conv_max_pool(images: Array, kernel: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Convolves images [B, H, W, C] with a kernel [h, w, C, O] at stride 1, and max-pools the outputs by 2x2.

    Args:
        images: [B, H, W, C].
        kernel: [h, w, C, O].
        padding: rows (above, below) and columns (left, right) of zeros.

    Returns:
        [B, H', W', O] in the dtype of the images, summed in float32 or wider.
    """
    wide = jnp.promote_types(images.dtype, jnp.float32)
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0))).astype(wide)
    height, width = kernel.shape[:2]
    # from the first to the last place where a pooling window begins, both included
    rows, columns = (
        (side - size + 1) // 2 * 2 - 1 for side, size in zip(padded.shape[1:3], (height, width), strict=True)
    )

    def conv(top: int, left: int) -> Array:
        """The outputs at one place of each pooling window."""
        part = padded[:, top : top + rows + height - 1, left : left + columns + width - 1]
        pixels = windows(part, (height, width), (2, 2))
        weights = kernel.astype(wide).reshape(len(pixels), -1, 1, 1, 1, kernel.shape[3])
        terms = (
            pixel[..., channel, None] * weight[channel]
            for pixel, weight in zip(pixels, weights, strict=True)
            for channel in range(kernel.shape[2])
        )
        return reduce(add, terms)

    outputs = (conv(top, left) for top, left in product(range(2), range(2)))
    return reduce(jnp.maximum, outputs).astype(images.dtype)
