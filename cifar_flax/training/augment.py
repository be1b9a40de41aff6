"""Random augmentation of training images, on the device: `(key, images, indices, epoch) -> images`.

The random numbers of an image depend only on the run's key, the epoch and its index in the training set: not on its
batch, nor on where a run was interrupted.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

Augmentation = Callable[[Array, Array, Array, Array], Array]

MAX_SHIFT = 0.1  # of the side; the reference's ImageDataGenerator(width_shift_range=0.1, height_shift_range=0.1)


def identity(key: Array, images: Array, indices: Array, epoch: Array) -> Array:
    """No augmentation."""
    del key, indices, epoch
    return images


def shift_and_flip(key: Array, images: Array, indices: Array, epoch: Array) -> Array:
    """Shifts each image by up to a tenth of its side in y and in x, then mirrors it with probability 1/2.

    Args:
        key: the run's augmentation key.
        images: [B, H, W, C] float32.
        indices: [B] int32, the index of each image in the training set.
        epoch: int32 scalar.

    Returns:
        [B, H, W, C] float32.
    """
    offsets, flips = draw_shifts_and_flips(key, indices, epoch, images.shape[1:3])
    return shift_and_flip_by(images, offsets, flips)


def draw_shifts_and_flips(key: Array, indices: Array, epoch: Array, size: tuple[int, ...]) -> tuple[Array, Array]:
    """Offsets [B, 2] in pixels (y, x), uniform in +-MAX_SHIFT of the side, and flips [B], True with probability 1/2."""
    epoch_key = jax.random.fold_in(key, epoch)
    draws = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(epoch_key, index), (3,)))(indices)
    max_offsets = MAX_SHIFT * jnp.array([size], jnp.float32)
    return (2 * draws[:, :2] - 1) * max_offsets, draws[:, 2] < 0.5


def shift_and_flip_by(images: Array, offsets: Array, flips: Array) -> Array:
    """Shifts images [B, H, W, C] by offsets [B, 2] (y, x) in pixels, then mirrors those with flips [B].

    Bilinear, with repeated edges: `scipy.ndimage.shift(order=1, mode="nearest")` of each image.
    """
    rows, columns = (_source(images.shape[axis], offsets[:, axis - 1]) for axis in (1, 2))
    rows, columns = jnp.clip(rows, 0, images.shape[1] - 1), jnp.clip(columns, 0, images.shape[2] - 1)
    return _sample(images, rows, _mirrored(columns, flips))


def translate_and_flip(key: Array, images: Array, indices: Array, epoch: Array, *, max_translation: int) -> Array:
    """Translates each image by up to `max_translation` whole pixels in y and in x, and mirrors it in every other epoch.

    Alternating flip: a random bit of each image decides whether it is mirrored in even or in odd epochs, so that any
    two consecutive epochs show both sides (Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section
    3.6).

    Args:
        key: the run's augmentation key.
        images: [B, H, W, C] float32, with sides larger than `max_translation`.
        indices: [B] int32, the index of each image in the training set.
        epoch: int32 scalar.
        max_translation: largest translation, in pixels.

    Returns:
        [B, H, W, C] float32.
    """
    offset_key, flip_key = jax.random.split(key)
    offset_keys = _image_keys(jax.random.fold_in(offset_key, epoch), indices)
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), -max_translation, max_translation + 1))(offset_keys)
    flips = jax.vmap(jax.random.bernoulli)(_image_keys(flip_key, indices)) ^ (epoch % 2 == 1)
    return translate_and_flip_by(images, offsets, flips)


def translate_and_flip_by(images: Array, offsets: Array, flips: Array) -> Array:
    """Translates images [B, H, W, C] by offsets [B, 2] (y, x) int32, then mirrors those with flips [B].

    Edges are reflected without repeating them, as in `numpy.pad(mode="reflect")`.
    """
    rows, columns = (_source(images.shape[axis], offsets[:, axis - 1]) for axis in (1, 2))
    rows, columns = _reflected(rows, images.shape[1]), _reflected(columns, images.shape[2])
    return _sample(images, rows, _mirrored(columns, flips))


def _source(size: int, offsets: Array) -> Array:
    """The input coordinates [B, size] that offsets [B] move to each pixel of a side."""
    return jnp.arange(size, dtype=jnp.float32)[None, :] - offsets[:, None]


def _reflected(coordinates: Array, size: int) -> Array:
    return (size - 1) - jnp.abs((size - 1) - jnp.abs(coordinates))


def _mirrored(coordinates: Array, flips: Array) -> Array:
    return jnp.where(flips[:, None], coordinates[:, ::-1], coordinates)


def _sample(images: Array, rows: Array, columns: Array) -> Array:
    """Samples images [B, H, W, C] at rows [B, H] and columns [B, W], bilinear between pixels.

    Two products with interpolation matrices do this without gathers. At whole coordinates they are exact.
    """
    # accelerators may round float32 products to TF32 or bfloat16, which would blur the images
    product = jax.vmap(lambda r, image, c: jnp.einsum("yi,ijc,xj->yxc", r, image, c, precision=lax.Precision.HIGHEST))
    return product(_interpolation(rows), images, _interpolation(columns))


def _interpolation(coordinates: Array) -> Array:
    """Weights [B, size, size] of input pixel j (last axis) at coordinates [B, size]."""
    pixels = jnp.arange(coordinates.shape[1], dtype=jnp.float32)
    return jnp.maximum(0, 1 - jnp.abs(coordinates[:, :, None] - pixels[None, None, :]))


def _image_keys(key: Array, indices: Array) -> Array:
    """One key per image of the training set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


AUGMENTATIONS: dict[str, Callable[[int], Augmentation]] = {
    "none": lambda _max_translation: identity,
    "shift_flip": lambda _max_translation: shift_and_flip,
    "translate_flip": lambda max_translation: partial(translate_and_flip, max_translation=max_translation),
}
