"""The MLP of the reference notebook (section 1.4.1): 3,590,642 parameters on 32x32x3 images and ten classes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.models.layers import KERNEL_INIT


class MLP(nn.Module):
    """Flatten; dense 1000 and 512, each with ReLU and dropout; dense `num_classes`."""

    num_classes: int
    dtype: Any = jnp.float32
    dropout: float = 0.2

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Images [B, H, W, C] float32 -> logits [B, num_classes] float32."""
        x = images.reshape(images.shape[0], -1)
        for i, features in enumerate((1000, 512), start=1):
            x = nn.relu(nn.Dense(features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        x = nn.Dense(self.num_classes, kernel_init=KERNEL_INIT, dtype=self.dtype, name="output")(x)
        return x.astype(jnp.float32)
