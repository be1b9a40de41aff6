"""airbench94, the network of Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498).

On 32x32x3 images and ten classes it has 1,971,640 parameters. The 288 of the whitening kernel are fixed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from cifar_flax.models.layers import BatchNorm, gelu
from cifar_flax.ops import LIBRARY, Lowering

NUM_WHITENING_IMAGES = 5_000  # training images whose patches are whitened (section 3.2)
WHITENING_EPSILON = 5e-4  # added to the eigenvalues of the patches' covariance (section 3.2)
FAN_IN_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's: up to 1 / sqrt(fan in)


def whitening_kernel(images: Array) -> Array:
    """The kernel of a 2x2 convolution whose outputs on these images are uncorrelated with about unit variance.

    It holds the eigenvectors of the covariance of all patches, each divided by the square root of its eigenvalue, and
    their negatives (section 3.2).

    Args:
        images: [B, H, W, C] float32, standardized.

    Returns:
        [2, 2, C, 8 C] float32.
    """
    height, width, channels = images.shape[1:]
    offsets = [(i, j) for i in range(2) for j in range(2)]
    windows = [images[:, i : height - 1 + i, j : width - 1 + j] for i, j in offsets]
    patches = jnp.concatenate(windows, axis=-1).reshape(-1, 4 * channels)
    with jax.default_matmul_precision("highest"):
        eigenvalues, eigenvectors = jnp.linalg.eigh(jnp.cov(patches, rowvar=False))
    whitening = eigenvectors / jnp.sqrt(jnp.maximum(eigenvalues, 0) + WHITENING_EPSILON)[None, :]
    return jnp.concatenate([whitening, -whitening], axis=1).reshape(2, 2, channels, 8 * channels)


class Whiten(nn.Module):
    """2x2 convolution without padding, [B, H, W, C] -> [B, H - 1, W - 1, 8 C].

    The kernel is computed from the images that `init` is given and kept in `batch_stats`. Only the bias is trained.

    Attributes:
        dtype: of the computation.
        conv: signature of `jax.lax.conv_general_dilated`.
    """

    dtype: Any
    conv: Callable[..., Array] = lax.conv_general_dilated

    @nn.compact
    def __call__(self, images: Array) -> Array:
        kernel = self.variable("batch_stats", "kernel", lambda: whitening_kernel(images[:NUM_WHITENING_IMAGES])).value
        bias = self.param("bias", nn.initializers.zeros, kernel.shape[-1:])
        images, kernel, bias = (array.astype(self.dtype) for array in (images, kernel, bias))
        numbers = ("NHWC", "HWIO", "NHWC")
        return self.conv(images, kernel, (1, 1), "VALID", dimension_numbers=numbers) + bias[None, None, None]


def dirac_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A kernel [h, w, I, O] whose first I outputs copy its inputs (section 3.3); the rest is PyTorch's default."""
    height, width, inputs, outputs = shape
    kernel = FAN_IN_UNIFORM(key, shape, dtype)
    same = min(inputs, outputs)
    identity = jnp.zeros((height, width, inputs, same), dtype)
    identity = identity.at[height // 2, width // 2, jnp.arange(same), jnp.arange(same)].set(1)
    return kernel.at[..., :same].set(identity)


def unit_deviation_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """PyTorch's default, divided by its standard deviation."""
    kernel = FAN_IN_UNIFORM(key, shape, dtype)
    return kernel / kernel.std(ddof=1)


class Airbench(nn.Module):
    """Whitening; three groups of two 3x3 convolutions (64, 256, 256); max-pooling and a dense layer. GELU throughout.

    Images must be at least 25 pixels wide and high.
    """

    num_classes: int
    dtype: Any = jnp.float32
    lowering: Lowering = LIBRARY

    cpu_lowering = "winograd"  # almost all of the time goes into 3x3 convolutions
    head_init: ClassVar[Callable[..., Array]] = staticmethod(FAN_IN_UNIFORM)
    head_divisor = 9  # of the logits

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Images [B, H, W, C] float32 -> logits [B, num_classes] float32."""
        conv = partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=dirac_init, dtype=self.dtype)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.6,
            epsilon=1e-12,
            use_scale=False,
            dtype=self.dtype,
            lowering=self.lowering,
        )
        x = gelu(Whiten(self.dtype, self.lowering.conv, name="whiten")(images))
        for group, width in enumerate((64, 256, 256)):
            first, second = 2 * group + 1, 2 * group + 2
            # the pooling drops the last row and column of an odd map, so they are not computed
            even = [(1, 1 - side % 2) for side in x.shape[1:3]]
            x = conv(width, padding=even, conv_general_dilated=self.lowering.conv_max_pool, name=f"conv{first}")(x)
            x = gelu(norm(name=f"norm{first}")(x))
            x = conv(width, conv_general_dilated=self.lowering.conv, name=f"conv{second}")(x)
            x = gelu(norm(name=f"norm{second}")(x))
        x = self.lowering.max_pool(x, (3, 3), (3, 3))
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.num_classes, use_bias=False, kernel_init=self.head_init, dtype=self.dtype, name="output")(x)
        return x.astype(jnp.float32) / self.head_divisor


class AirbenchMuon(Airbench):
    """The same network with another head, for training with Muon.

    Source: Jordan, 2024, github.com/KellerJordan/cifar10-airbench, airbench94_muon.py.
    """

    head_init = staticmethod(unit_deviation_init)
    head_divisor = 256  # the number of inputs of the head on 32x32 images
