"""Layers and initializers that several models share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

KERNEL_INIT = nn.initializers.glorot_uniform()  # the default of Keras' layers (Glorot and Bengio, 2010)


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
