"""The AlexNet of the reference notebook (section 1.7.1), after Krizhevsky, Sutskever and Hinton, 2012.

On 32x32x3 images and ten classes it has 21,591,114 trainable parameters and 1,216 running statistics.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.models.layers import KERNEL_INIT, BatchNorm, keras_conv
from cifar_flax.ops import LIBRARY, Lowering


class AlexNet(nn.Module):
    """Five convolutions with three max-poolings, each pooling followed by BatchNorm; dense 4096, 4096, `num_classes`.

    The order within a block is the reference's: convolution, ReLU, max-pooling, BatchNorm. Images must be at least 27
    pixels wide and high.
    """

    num_classes: int
    dtype: Any = jnp.float32
    lowering: Lowering = LIBRARY  # how convolutions and poolings are computed, see ops/
    dropout: float = 0.4

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Images [B, H, W, C] float32 -> logits [B, num_classes] float32."""
        lowering = self.lowering.when(train=train)
        max_pool = lowering.max_pool
        conv = keras_conv(lowering, self.dtype)
        dense = partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype, dot_general=lowering.dot_general)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.99,  # this and epsilon are Keras' defaults; Flax's epsilon is 1e-5
            epsilon=1e-3,
            dtype=self.dtype,
            lowering=lowering,
        )
        x = nn.relu(conv(96, (3, 3), (2, 2), name="conv1")(images))
        x = norm(name="norm1")(max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(conv(256, (5, 5), name="conv2")(x))
        x = norm(name="norm2")(max_pool(x, (3, 3), (2, 2)))
        x = nn.relu(conv(384, (3, 3), name="conv3")(x))
        x = nn.relu(conv(384, (3, 3), name="conv4")(x))
        x = nn.relu(conv(256, (3, 3), name="conv5")(x))
        x = norm(name="norm5")(max_pool(x, (3, 3), (2, 2)))
        x = x.reshape(x.shape[0], -1)
        for i in (1, 2):
            x = nn.relu(dense(4096, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        x = dense(self.num_classes, name="output")(x)
        return x.astype(jnp.float32)
