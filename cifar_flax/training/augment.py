"""Random changes of training images, on the device: `(key, images, indices, epoch) -> images`.

Every image draws from its own key, folded from the epoch and from its index in the training set: what happens to an
image does not depend on the batch it is in, nor on where a run was interrupted.
"""

from collections.abc import Callable
from functools import partial

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

    Bilinear, edges repeated: `scipy.ndimage.shift(order=1, mode="nearest")` of each image.
    """
    rows, columns = (_moved(images.shape[axis], offsets[:, axis - 1]) for axis in (1, 2))
    rows, columns = jnp.clip(rows, 0, images.shape[1] - 1), jnp.clip(columns, 0, images.shape[2] - 1)
    return _read_at(images, rows, _mirrored(columns, flips))


def translate_and_flip(key: Array, images: Array, indices: Array, epoch: Array, *, reach: int) -> Array:
    """Moves each image by up to `reach` whole pixels in y and in x, edges reflected; mirrors it in every other epoch.

    Alternating flip: an image's own random bit says in which epochs it is mirrored, so that two epochs in a row show
    both of its sides (Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.6).

    Args:
        key: a jax.random key, the root of all draws.
        images: [B, H, W, C] float32, of sides above `reach`.
        indices: [B] int32, each image's place in the training set.
        epoch: int32 scalar.
        reach: largest translation, in pixels.

    Returns:
        [B, H, W, C] float32.
    """
    offset_key, flip_key = jax.random.split(key)
    offset_keys = _keys_of(jax.random.fold_in(offset_key, epoch), indices)
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), -reach, reach + 1))(offset_keys)
    flips = jax.vmap(jax.random.bernoulli)(_keys_of(flip_key, indices)) ^ (epoch % 2 == 1)
    return translate_and_flip_by(images, offsets, flips)


def translate_and_flip_by(images: Array, offsets: Array, flips: Array) -> Array:
    """Moves the content of images [B, H, W, C] by offsets [B, 2] (y, x) int32, then mirrors where flips [B].

    Reflected at the edges without repeating them, as `numpy.pad(mode="reflect")`.
    """
    rows, columns = (_moved(images.shape[axis], offsets[:, axis - 1]) for axis in (1, 2))
    rows, columns = _reflected(rows, images.shape[1]), _reflected(columns, images.shape[2])
    return _read_at(images, rows, _mirrored(columns, flips))


def _moved(size: int, offsets: Array) -> Array:
    """For each pixel of a side the place [B, size] in the input that comes there when its content moves by offsets."""
    return jnp.arange(size, dtype=jnp.float32)[None, :] - offsets[:, None]


def _reflected(places: Array, size: int) -> Array:
    return (size - 1) - jnp.abs((size - 1) - jnp.abs(places))


def _mirrored(places: Array, flips: Array) -> Array:
    return jnp.where(flips[:, None], places[:, ::-1], places)


def _read_at(images: Array, rows: Array, columns: Array) -> Array:
    """Images [B, H, W, C] read at the places rows [B, H] and columns [B, W] within them, bilinear between pixels.

    Two products with matrices of interpolation weights do it without gathers; at whole places they are exact.
    """
    # accelerators may round float32 products to TF32 or bfloat16, which would blur the weights
    product = jax.vmap(lambda r, image, c: jnp.einsum("yi,ijc,xj->yxc", r, image, c, precision=lax.Precision.HIGHEST))
    return product(_interpolation(rows), images, _interpolation(columns))


def _interpolation(places: Array) -> Array:
    """Weights [B, size, size] of input pixel j (last axis) at each of the places [B, size]."""
    pixels = jnp.arange(places.shape[1], dtype=jnp.float32)
    return jnp.maximum(0, 1 - jnp.abs(places[:, :, None] - pixels[None, None, :]))


def _keys_of(key: Array, indices: Array) -> Array:
    """A key for each image of the training set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


AUGMENTATIONS: dict[str, Callable[[int], Augmentation]] = {
    "none": lambda _reach: keep,
    "shift_flip": lambda _reach: shift_and_flip,
    "translate_flip": lambda reach: partial(translate_and_flip, reach=reach),
}
