"""Test-time augmentation: the mean of what a network says of several views of an image."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

Predict = Callable[[Array], Array]  # images [B, H, W, C] -> logits [B, K]


def plain(predict: Predict, images: Array) -> Array:
    """The logits of the images as they are."""
    return predict(images)


def mirror_translate(predict: Predict, images: Array) -> Array:
    """The mean logits of six views: the image and its mirror image count as much as four that are moved by one pixel.

    Those are moved up and left, or down and right, edges reflected, each also mirrored (Jordan, 2024, "94% on CIFAR-10
    in 3.29 Seconds on a Single GPU", section 3.5).
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    places = [images, padded[:, :-2, :-2], padded[:, 2:, 2:]]
    views = jnp.stack([view for place in places for view in (place, place[:, :, ::-1])])
    weights = jnp.array([2, 2, 1, 1, 1, 1]) / 8
    return jnp.einsum("v,vbk->bk", weights, lax.map(predict, views), precision=lax.Precision.HIGHEST)


TTA: dict[str, Callable[[Predict, Array], Array]] = {"none": plain, "mirror_translate": mirror_translate}
