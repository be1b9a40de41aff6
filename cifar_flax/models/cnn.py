"""The reference's convolutional network (section 1.5.1): 528,054 parameters on 32x32x3 images and ten classes."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.ops.patches import KERNEL_INIT, LOWERINGS, Normalize


class CNN(nn.Module):
    """Three times 2x2 convolution (16, 32, 64), ReLU and 2x2 max-pool; then 500, `num_classes`.

    Attributes:
        num_classes: the width of the output.
        dtype: of the computation; the parameters stay float32.
        lowering: a key of `layers.LOWERINGS`.
        dropout: the rate of every dropout layer; None: each its own.
        normalize: whether the images are normalised first, as `layers.Normalize` does it.
    """

    num_classes: int
    dtype: Any = jnp.float32
    lowering: str = "library"
    dropout: float | None = None
    normalize: bool = False

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Images [B, H, W, C] in [0, 1] -> logits [B, num_classes] float32. `train` needs a `dropout` rng."""
        lowered = LOWERINGS[self.lowering]
        conv = partial(nn.Conv, kernel_init=KERNEL_INIT, dtype=self.dtype, conv_general_dilated=lowered.conv)
        dense = partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        rates = (0.3, 0.4) if self.dropout is None else (self.dropout, self.dropout)
        x = Normalize(name="normalize")(images) if self.normalize else images
        for i, features in enumerate((16, 32, 64), start=1):
            # ReLU and maximum commute, and after the pooling there is a quarter of the pixels left to do
            x = nn.relu(lowered.max_pool(conv(features, (2, 2), name=f"conv{i}")(x), (2, 2), (2, 2)))
        x = nn.Dropout(rates[0], deterministic=not train, name="dropout1")(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(500, name="fc1")(x))
        x = nn.Dropout(rates[1], deterministic=not train, name="dropout2")(x)
        x = dense(self.num_classes, name="output")(x)
        return x.astype(jnp.float32)
