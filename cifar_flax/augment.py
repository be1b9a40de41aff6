"""Random changes of training images, on the device: `(key, images, indices, epoch) -> images`.

Every image draws from its own key, folded from the epoch and from its index in the training set: what happens to an
image does not depend on the batch it is in, nor on where a run was interrupted.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

Augmentation = Callable[[Array, Array, Array, Array], Array]

MAX_SHIFT = 0.1  # of the side, as the reference's ImageDataGenerator(width_shift_range=0.1, height_shift_range=0.1)


def keep(key: Array, images: Array, indices: Array, epoch: Array) -> Array:
    """The images as they are."""
    del key, indices, epoch
    return images


def shift_and_flip(key: Array, images: Array, indices: Array, epoch: Array) -> Array:
    """Shifts each image by up to a tenth of its side in y and in x, then mirrors half of them left to right.

    Args:
        key: a jax.random key, the root of all draws.
        images: [B, H, W, C] float32.
        indices: [B] int32, each image's place in the training set.
        epoch: int32 scalar.

    Returns:
        [B, H, W, C] float32.
    """
    offsets, flips = draw_shifts_and_flips(key, indices, epoch, images.shape[1:3])
    return shift_and_flip_by(images, offsets, flips)


def draw_shifts_and_flips(key: Array, indices: Array, epoch: Array, size: tuple[int, ...]) -> tuple[Array, Array]:
    """Offsets [B, 2] in pixels (y, x), uniform over +-MAX_SHIFT of the side, and flips [B], True for one half."""
    epoch_key = jax.random.fold_in(key, epoch)
    draws = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(epoch_key, index), (3,)))(indices)
    reach = MAX_SHIFT * jnp.array([size], jnp.float32)
    return (2 * draws[:, :2] - 1) * reach, draws[:, 2] < 0.5


def shift_and_flip_by(images: Array, offsets: Array, flips: Array) -> Array:
    """Moves the content of images [B, H, W, C] by offsets [B, 2] (y, x) in pixels, then mirrors where flips [B].

    Bilinear, edges repeated: `scipy.ndimage.shift(order=1, mode="nearest")` of each image. Two products with
    matrices of interpolation weights do it without gathers.
    """
    rows = _interpolation(images.shape[1], offsets[:, 0])
    columns = _interpolation(images.shape[2], offsets[:, 1])
    columns = jnp.where(flips[:, None, None], columns[:, ::-1], columns)
    # accelerators may round float32 products to TF32 or bfloat16, which would blur the weights
    product = jax.vmap(lambda r, image, c: jnp.einsum("yi,ijc,xj->yxc", r, image, c, precision=lax.Precision.HIGHEST))
    return product(rows, images, columns)


def _interpolation(size: int, offsets: Array) -> Array:
    """Weights [B, size, size] of input pixel j (last axis) in output pixel i, for contents moved by offsets [B]."""
    pixels = jnp.arange(size, dtype=jnp.float32)
    sources = jnp.clip(pixels[None, :] - offsets[:, None], 0, size - 1)
    return jnp.maximum(0, 1 - jnp.abs(sources[:, :, None] - pixels[None, None, :]))


AUGMENTATIONS: dict[str, Augmentation] = {"none": keep, "shift_flip": shift_and_flip}
