"""Layers and initializers that several models share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cifar_flax.ops import LIBRARY, Lowering

KERNEL_INIT = nn.initializers.glorot_uniform()  # the default of Keras' layers (Glorot and Bengio, 2010)


class Conv(nn.Conv):
    """`nn.Conv` that adds its bias, and sums its gradient, as a lowering does."""

    use_bias: bool = False  # of `nn.Conv`; this class has its own
    spread: Callable[[Array, tuple[int, ...]], Array] = jnp.broadcast_to

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[B, H, W, C] -> [B, H', W', O]."""
        outputs = super().__call__(inputs)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return outputs + self.spread(bias.astype(outputs.dtype), outputs.shape)


def keras_conv(lowering: Lowering, dtype: Any) -> Callable[..., Conv]:
    """`Conv` with Keras' initializer, computed as the lowering does."""
    return partial(
        Conv, kernel_init=KERNEL_INIT, dtype=dtype, conv_general_dilated=lowering.conv, spread=lowering.spread
    )


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy, 2015) as `nn.BatchNorm` with `use_fast_variance=False`.

    Its sums are those of a lowering. `batch_stats` has the running `mean` and `var`, both [C] float32.

    Attributes:
        use_running_average: normalize by the running statistics, and leave them as they are.
        momentum: of the running statistics.
        epsilon: added to the variance.
        use_scale: whether there is a trained factor besides the trained bias.
        dtype: of the result; statistics are float32.
        lowering: how the sums are computed.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    use_scale: bool = True
    dtype: Any = jnp.float32
    lowering: Lowering = LIBRARY

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        """[B, H, W, C] -> the same shape."""
        channels = maps.shape[-1:]
        running = (
            self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32),
        )
        scale = self.param("scale", nn.initializers.ones, channels) if self.use_scale else 1
        bias = self.param("bias", nn.initializers.zeros, channels)

        def spread(vector: Array) -> Array:
            return self.lowering.spread(vector, maps.shape)

        if self.use_running_average:
            mean, variance = (statistic.value for statistic in running)
            centered = maps - spread(mean)
        else:
            count = maps.size // channels[0]
            mean = self.lowering.pixel_sum(maps) / count
            centered = maps - spread(mean)  # two passes; in one pass, the variance may become negative
            variance = self.lowering.pixel_sum(centered**2) / count
            if not self.is_initializing():
                for statistic, new in zip(running, (mean, variance), strict=True):
                    statistic.value = self.momentum * statistic.value + (1 - self.momentum) * new
        factor = lax.rsqrt(variance + self.epsilon) * scale
        return (centered * spread(factor) + spread(bias)).astype(self.dtype)


class Normalize(nn.Module):
    """Standardizes images with the per-channel mean and standard deviation of the training images.

    Both are measured on the images that `init` is given, and kept in `batch_stats`.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, H, W, C] -> the same shape and dtype."""
        mean = self.variable("batch_stats", "mean", _mean_by_channel, images)
        variance = self.variable("batch_stats", "variance", lambda: _mean_by_channel((images - mean.value) ** 2))
        # a constant channel stays zero
        return (images - mean.value) / jnp.sqrt(jnp.maximum(variance.value, 1e-6))


def _mean_by_channel(images: Array) -> Array:
    """[B, H, W, C] -> [1, 1, 1, C]."""
    return images.mean((0, 1, 2), keepdims=True)


class Normalized(nn.Module):
    """A model that receives standardized images. Its variables keep their names; `normalize` is added.

    Attributes:
        model: called with (images, train=...).
    """

    model: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.model)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        return self.model(Normalize(name="normalize")(images), train=train)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """`x * Phi(x)`, the exact GELU (Hendrycks and Gimpel, 2016, arXiv 1606.08415, section 2).

    The same function as `nn.gelu(approximate=False)`, whose gradient stores and reads several arrays on CPUs. This
    gradient is a single formula of `x`.
    """
    return x * _normal_cdf(x)


def _normal_cdf(x: Array) -> Array:
    return (1 + lax.erf(x * 0.5**0.5)) / 2


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-x * x / 2) * (2 * np.pi) ** -0.5
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
