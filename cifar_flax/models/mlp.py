"""The reference's feedforward network (section 1.4.1): 3,590,642 parameters on 32x32x3 images and ten classes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.ops.patches import KERNEL_INIT, Normalize


class MLP(nn.Module):
    """Flatten, 1000, 512, `num_classes`; ReLU and dropout 0.2 after each hidden layer.

    Attributes:
        num_classes: the width of the output.
        dtype: of the computation; the parameters stay float32.
        lowering: a key of `layers.LOWERINGS`, which this network has no use for.
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
        rates = (0.2, 0.2) if self.dropout is None else (self.dropout, self.dropout)
        x = Normalize(name="normalize")(images) if self.normalize else images
        x = x.reshape(images.shape[0], -1)
        x = nn.relu(nn.Dense(1000, kernel_init=KERNEL_INIT, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(rates[0], deterministic=not train, name="dropout1")(x)
        x = nn.relu(nn.Dense(512, kernel_init=KERNEL_INIT, dtype=self.dtype, name="fc2")(x))
        x = nn.Dropout(rates[1], deterministic=not train, name="dropout2")(x)
        x = nn.Dense(self.num_classes, kernel_init=KERNEL_INIT, dtype=self.dtype, name="output")(x)
        return x.astype(jnp.float32)
