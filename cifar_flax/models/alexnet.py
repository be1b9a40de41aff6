"""The reference's AlexNet for small images (section 1.7.1), after Krizhevsky, Sutskever and Hinton, 2012.

On 32x32x3 images and ten classes it has 21,591,114 trainable parameters and 1,216 running statistics.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cifar_flax.ops.patches import KERNEL_INIT, LOWERINGS, Normalize


class AlexNet(nn.Module):
    """Five convolutions with three poolings, each followed by BatchNorm; then 4096, 4096, `num_classes`.

    The order in a block is the reference's: convolution, ReLU, max-pool, BatchNorm.

    Attributes:
        num_classes: the width of the output.
        dtype: of the computation; parameters and running statistics stay float32.
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
        """Images [B, H, W, C] in [0, 1] -> logits [B, num_classes] float32.

        `train` needs a `dropout` rng and `mutable=["batch_stats"]`.
        """
        lowered = LOWERINGS[self.lowering]
        max_pool = lowered.max_pool
        conv = partial(nn.Conv, kernel_init=KERNEL_INIT, dtype=self.dtype, conv_general_dilated=lowered.conv)
        dense = partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype, dot_general=lowered.dot_general)
        # Keras' defaults; flax' epsilon is 1e-5. The two-pass variance cannot cancel to a negative number.
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.99,
            epsilon=1e-3,
            use_fast_variance=False,
            dtype=self.dtype,
        )
        x = Normalize(name="normalize")(images) if self.normalize else images
        x = nn.relu(conv(96, (3, 3), (2, 2), name="conv1")(x))
        x = norm(name="norm1")(max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(conv(256, (5, 5), name="conv2")(x))
        x = norm(name="norm2")(max_pool(x, (3, 3), (2, 2)))
        x = nn.relu(conv(384, (3, 3), name="conv3")(x))
        x = nn.relu(conv(384, (3, 3), name="conv4")(x))
        x = nn.relu(conv(256, (3, 3), name="conv5")(x))
        x = norm(name="norm5")(max_pool(x, (3, 3), (2, 2)))
        x = x.reshape(x.shape[0], -1)
        rate = 0.4 if self.dropout is None else self.dropout
        for i in (1, 2):
            x = nn.relu(dense(4096, name=f"fc{i}")(x))
            x = nn.Dropout(rate, deterministic=not train, name=f"dropout{i}")(x)
        x = dense(self.num_classes, name="output")(x)
        return x.astype(jnp.float32)
