"""The CNN of the reference notebook (section 1.5.1): 528,054 parameters on 32x32x3 images and ten classes."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.models.layers import KERNEL_INIT, keras_conv
from cifar_flax.ops import LIBRARY, Lowering


class CNN(nn.Module):
    """Three blocks of 2x2 convolution (16, 32, 64), ReLU and 2x2 max-pooling; dense 500 and `num_classes`.

    Images must be at least 8 pixels wide and high.
    """

    num_classes: int
    dtype: Any = jnp.float32
    lowering: Lowering = LIBRARY  # how convolutions and poolings are computed, see ops/
    dropout: float | None = None  # of both dropout layers; None: 0.3 and 0.4

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Images [B, H, W, C] float32 -> logits [B, num_classes] float32."""
        lowering = self.lowering.when(train=train)
        conv = keras_conv(lowering, self.dtype)
        dense = partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        rates = (0.3, 0.4) if self.dropout is None else (self.dropout, self.dropout)

        def pooled_conv(x: Array, features: int, name: str) -> Array:
            if train:  # the gradients are faster if the bias is added before the maximum
                return lowering.max_pool(conv(features, (2, 2), name=name)(x), (2, 2), (2, 2))
            return conv(features, (2, 2), conv_general_dilated=lowering.conv_max_pool, name=name)(x)

        x = images
        for i, features in enumerate((16, 32, 64), start=1):
            # ReLU and maximum commute; after the pooling, ReLU processes a quarter of the pixels
            x = nn.relu(pooled_conv(x, features, name=f"conv{i}"))
        x = nn.Dropout(rates[0], deterministic=not train, name="dropout1")(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(500, name="fc1")(x))
        x = nn.Dropout(rates[1], deterministic=not train, name="dropout2")(x)
        x = dense(self.num_classes, name="output")(x)
        return x.astype(jnp.float32)
