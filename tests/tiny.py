"""A network and images that are small enough to train in a test."""

import flax.linen as nn
import numpy as np

from cifar_flax.data import Split
from cifar_flax.ops import LIBRARY, Lowering


class Tiny(nn.Module):
    """A convolution, a pooling, BatchNorm and dropout, to cover all of the state that a training step handles."""

    num_classes: int
    lowering: Lowering = LIBRARY

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(4, (3, 3), conv_general_dilated=self.lowering.conv, name="conv1")(images))
        x = self.lowering.max_pool(x, (2, 2), (2, 2))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm1")(x)
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(self.num_classes, name="output")(x)


def tiny_split(count, seed):
    """Images [count, 8, 8, 3] of three classes that differ in brightness."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 150, (count, 8, 8, 3)) + 50 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)
