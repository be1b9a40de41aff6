"""Augmentations: their pixels against scipy and NumPy, and the distribution of the random draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from cifar_flax.training.augment import (
    AUGMENTATIONS,
    draw_shifts_and_flips,
    shift_and_flip,
    shift_and_flip_by,
    translate_and_flip,
    translate_and_flip_by,
)

SIDE = 32
KEY = jax.random.key(0)


def random_images(count, height=SIDE, width=SIDE, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, height, width, channels)).astype(np.float32)


def draws(count, epoch=0, key=KEY):
    offsets, flips = draw_shifts_and_flips(key, jnp.arange(count), jnp.int32(epoch), (SIDE, SIDE))
    return np.asarray(offsets), np.asarray(flips)


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (28, 20, 1)])
def test_shift_and_flip_matches_scipy(height, width, channels):
    images = random_images(64, height, width, channels)
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-3.2, 3.2, (64, 2)).astype(np.float32)
    offsets[:4] = [[0, 0], [3, -2], [-3.2, 3.2], [0.5, -0.5]]
    flips = rng.uniform(size=64) < 0.5
    augmented = jax.jit(shift_and_flip_by)(images, offsets, flips)
    for image, offset, flip, result in zip(images, offsets, flips, augmented, strict=True):
        shifted = scipy.ndimage.shift(image.astype(np.float64), (*offset, 0), order=1, mode="nearest")
        expected = shifted[:, ::-1] if flip else shifted
        np.testing.assert_allclose(result / 255, expected / 255, rtol=1e-5, atol=1e-5)


@pytest.mark.medium
def test_shifts_are_uniform_within_a_tenth_of_the_side():
    offsets, _ = draws(20_000)
    for axis in (0, 1):
        assert np.abs(offsets[:, axis]).max() <= np.float32(3.2)
        # by chance the p-value is seldom below 1e-3; with a max_translation of 3.1 or 3.3 pixels it is below 1e-12
        assert scipy.stats.kstest(offsets[:, axis], scipy.stats.uniform(-3.2, 6.4).cdf).pvalue > 1e-6
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.03


@pytest.mark.medium
def test_shifts_of_each_axis_depend_on_its_side():
    offsets, _ = draw_shifts_and_flips(KEY, jnp.arange(5_000), jnp.int32(0), (20, 40))
    np.testing.assert_allclose(np.abs(offsets).max(0), [2, 4], rtol=0.01)


def test_half_of_the_images_are_flipped_independently_of_the_shift():
    offsets, flips = draws(20_000)
    assert abs(flips.mean() - 0.5) < 0.015
    assert all(abs(np.corrcoef(flips, offset)[0, 1]) < 0.03 for offset in offsets.T)


@pytest.mark.medium
def test_augmentation_depends_on_the_key_and_the_epoch():
    images, augment = random_images(4), jax.jit(shift_and_flip)

    def augmented(key, epoch):
        return np.asarray(augment(key, images, np.arange(4), np.int32(epoch)))

    np.testing.assert_array_equal(augmented(KEY, 3), augmented(KEY, 3))
    assert not np.array_equal(augmented(KEY, 3), augmented(KEY, 4))
    assert not np.array_equal(augmented(KEY, 3), augmented(jax.random.key(1), 3))


@pytest.mark.medium
def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    images, augment = random_images(6), jax.jit(shift_and_flip)
    indices = np.array([7, 100, 3, 44_999, 0, 21])
    in_batch = augment(KEY, images, indices, np.int32(2))
    alone = augment(KEY, images[3:4], indices[3:4], np.int32(2))
    np.testing.assert_allclose(in_batch[3], alone[0], rtol=1e-6)
    offsets, _ = draws(1_000)
    assert len(np.unique(offsets)) == offsets.size


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (9, 7, 1)])
def test_translation_is_a_crop_of_the_image_with_reflected_edges(height, width, channels):
    images = random_images(49, height, width, channels)
    offsets = np.array([(y, x) for y in range(-3, 4) for x in range(-3, 4)])
    flips = np.arange(49) % 2 == 0
    augmented = jax.jit(translate_and_flip_by)(images, offsets, flips)
    for image, (y, x), flip, result in zip(images, offsets, flips, augmented, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        expected = padded[3 - y : 3 - y + height, 3 - x : 3 - x + width]
        np.testing.assert_array_equal(result, expected[:, ::-1] if flip else expected)


@pytest.mark.medium
def test_translations_are_uniform_and_half_of_the_images_are_mirrored():
    """The image has a bright pixel, which shows the translation, and a dimmer one beside it, which shows mirroring."""
    count, images = 4_000, np.zeros((4_000, 9, 9, 1), np.float32)
    images[:, 4, 4], images[:, 4, 5] = 2, 1
    moved = translated(images, epoch=0)
    rows, counts = np.unique(np.argwhere(moved == 2)[:, 1], return_counts=True)
    assert rows.tolist() == [2, 3, 4, 5, 6]
    assert counts.min() > 0.8 * count / 5
    assert abs(mirrored(moved).mean() - 0.5) < 0.03


@pytest.mark.medium
def test_image_is_mirrored_in_every_other_epoch():
    images = np.zeros((64, 9, 9, 1), np.float32)
    images[:, 4, 4], images[:, 4, 5] = 2, 1
    first, second, third = (mirrored(translated(images, epoch)) for epoch in range(3))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, third)
    assert not np.array_equal(translated(images, 0), translated(images, 2))  # the translations differ


def translated(images, epoch):
    augment = jax.jit(functools.partial(translate_and_flip, max_translation=2))
    return np.asarray(augment(KEY, images, np.arange(len(images)), np.int32(epoch)))


def mirrored(images):
    """Whether the pixel of value 1 is to the left of that of value 2, for each image [N, H, W, 1]."""
    return np.argwhere(images == 1)[:, 2] < np.argwhere(images == 2)[:, 2]


def test_no_augmentation_returns_the_images_unchanged():
    images = jnp.asarray(random_images(2))
    assert AUGMENTATIONS["none"](0)(KEY, images, jnp.arange(2), jnp.int32(0)) is images
