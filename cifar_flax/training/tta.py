"""Test-time augmentation: averaged logits over several views of an image."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

Predict = Callable[[Array], Array]  # images [B, H, W, C] -> logits [B, K]


def no_tta(predict: Predict, images: Array) -> Array:
    """The logits of the images themselves."""
    return predict(images)


def mirror_translate(predict: Predict, images: Array) -> Array:
    """The weighted mean of the logits of six views: the image and its mirror image (1/4 each), four translations (1/8).

    The translations move the image by one pixel up and left, or down and right, with reflected edges, and are also
    mirrored (Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.5).
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    translations = [images, padded[:, :-2, :-2], padded[:, 2:, 2:]]
    views = jnp.stack([view for image in translations for view in (image, image[:, :, ::-1])])
    weights = jnp.array([2, 2, 1, 1, 1, 1]) / 8
    return jnp.einsum("v,vbk->bk", weights, lax.map(predict, views), precision=lax.Precision.HIGHEST)


TTA: dict[str, Callable[[Predict, Array], Array]] = {"none": no_tta, "mirror_translate": mirror_translate}
