"""Shift and flip: scipy's interpolation image by image, and the distribution of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from cifar_flax.augment import AUGMENTATIONS, draw_shifts_and_flips, shift_and_flip, shift_and_flip_by

SIDE = 32
KEY = jax.random.key(0)


def random_images(count, height=SIDE, width=SIDE, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, height, width, channels)).astype(np.float32)


def draws(count, epoch=0, key=KEY):
    offsets, flips = draw_shifts_and_flips(key, jnp.arange(count), jnp.int32(epoch), (SIDE, SIDE))
    return np.asarray(offsets), np.asarray(flips)


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (28, 20, 1)])
def test_each_image_is_what_scipy_gives(height, width, channels):
    images = random_images(64, height, width, channels)
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-3.2, 3.2, (64, 2)).astype(np.float32)
    offsets[:4] = [[0, 0], [3, -2], [-3.2, 3.2], [0.5, -0.5]]
    flips = rng.uniform(size=64) < 0.5
    ours = shift_and_flip_by(jnp.asarray(images), jnp.asarray(offsets), jnp.asarray(flips))
    for image, offset, flip, mine in zip(images, offsets, flips, ours, strict=True):
        shifted = scipy.ndimage.shift(image.astype(np.float64), (*offset, 0), order=1, mode="nearest")
        expected = shifted[:, ::-1] if flip else shifted
        np.testing.assert_allclose(mine / 255, expected / 255, rtol=1e-5, atol=1e-5)


def test_shifts_are_uniform_over_a_tenth_of_the_side():
    offsets, _ = draws(20_000)
    for axis in (0, 1):
        assert np.abs(offsets[:, axis]).max() <= np.float32(3.2)
        # chance alone seldom gives less than 1e-3; a reach of 3.1 or 3.3 pixels gives less than 1e-12
        assert scipy.stats.kstest(offsets[:, axis], scipy.stats.uniform(-3.2, 6.4).cdf).pvalue > 1e-6
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.03


def test_a_side_has_its_own_reach():
    offsets, _ = draw_shifts_and_flips(KEY, jnp.arange(5_000), jnp.int32(0), (20, 40))
    np.testing.assert_allclose(np.abs(offsets).max(0), [2, 4], rtol=0.01)


def test_half_of_the_images_are_flipped_whatever_their_shift():
    offsets, flips = draws(20_000)
    assert abs(flips.mean() - 0.5) < 0.015
    assert all(abs(np.corrcoef(flips, offset)[0, 1]) < 0.03 for offset in offsets.T)


def test_the_same_key_gives_the_same_images_and_another_key_or_epoch_others():
    images = jnp.asarray(random_images(4))

    def augmented(key, epoch):
        return np.asarray(shift_and_flip(key, images, jnp.arange(4), jnp.int32(epoch)))

    np.testing.assert_array_equal(augmented(KEY, 3), augmented(KEY, 3))
    assert not np.array_equal(augmented(KEY, 3), augmented(KEY, 4))
    assert not np.array_equal(augmented(KEY, 3), augmented(jax.random.key(1), 3))


def test_each_image_is_augmented_by_itself():
    images = jnp.asarray(random_images(6))
    indices = jnp.array([7, 100, 3, 44_999, 0, 21])
    together = shift_and_flip(KEY, images, indices, jnp.int32(2))
    alone = shift_and_flip(KEY, images[3:4], indices[3:4], jnp.int32(2))
    np.testing.assert_allclose(together[3], alone[0], rtol=1e-6)
    offsets, _ = draws(1_000)
    assert len(np.unique(offsets)) == offsets.size


def test_no_augmentation_leaves_the_images():
    images = jnp.asarray(random_images(2))
    assert AUGMENTATIONS["none"](KEY, images, jnp.arange(2), jnp.int32(0)) is images
