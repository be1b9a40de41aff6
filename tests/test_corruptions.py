"""The corruptions of `benchmarks.robustness`, against values by hand and against procedures for single images."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from benchmarks import corruptions
from benchmarks.corruptions import CORRUPTIONS, corrupt
from cifar_flax.data.corruptions import BENCHMARK, EXTRA, SEVERITIES, in_order

# With saturate, severities 1 and 2 lose color and the others gain it. The severities of glass_blur alternate.
MONOTONE = sorted(set(CORRUPTIONS) - {"saturate", "glass_blur"})
KEEP_CONSTANTS = ("defocus_blur", "glass_blur", "zoom_blur", "contrast", "pixelate", "gaussian_blur")


def smooth_images(count):
    """Random images [count, 32, 32, 3] uint8 without noise, as photographs are."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), np.uint8)
    bicubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize((32, 32), bicubic)) for image in colors])


def gray(value, count=1):
    return np.full((count, 32, 32, 3), value, np.uint8)


def test_corruptions_are_published_ones_in_their_order():
    assert set(CORRUPTIONS) < {*BENCHMARK, *EXTRA}
    assert list(CORRUPTIONS) == in_order(CORRUPTIONS)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupted_images_are_reproducible_and_keep_their_form(name, monkeypatch):
    images = smooth_images(3)
    monkeypatch.setattr(corruptions, "CHUNK", 2)
    corrupted = corrupt(images, name, 2)
    assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(corrupted, corrupt(images, name, 2))
    assert (corrupted != images).any((1, 2, 3)).all()
    assert (corrupted != corrupt(images, name, 3)).any()


@pytest.mark.parametrize("name", MONOTONE)
def test_a_higher_severity_changes_images_more(name):
    images = smooth_images(8)
    changes = [np.abs(corrupt(images, name, severity) - images.astype(int)).mean() for severity in SEVERITIES]
    assert changes == sorted(changes)
    assert changes[-1] < 80


@pytest.mark.parametrize("name", KEEP_CONSTANTS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_rounding_errors_do_not_change_constant_images(name, severity):
    images = np.concatenate([gray(0), gray(77), gray(254), gray(255)])
    np.testing.assert_array_equal(corrupt(images, name, severity), images)


def test_noise_has_the_deviation_of_the_authors():
    images = gray(128, 200)
    for name, deviation in (
        ("gaussian_noise", 255 * 0.10),
        ("speckle_noise", 128 * 0.2),
        ("shot_noise", 255 * np.sqrt(128 / 255 / 50)),  # 50 photons of white
    ):
        change = corrupt(images, name, 5) - 128.0
        assert change.mean() == pytest.approx(-0.5, abs=0.5), name  # pixels are rounded down
        assert change.std() == pytest.approx(deviation, rel=0.02), name
    assert not corrupt(gray(0), "speckle_noise", 5).any()
    assert not corrupt(gray(0), "shot_noise", 5).any()


def test_impulse_noise_sets_a_share_of_the_values_to_black_or_white():
    values, counts = np.unique(corrupt(gray(128, 200), "impulse_noise", 5), return_counts=True)
    assert values.tolist() == [0, 128, 255]
    np.testing.assert_allclose(counts / counts.sum(), [0.035, 0.93, 0.035], atol=0.001)


def test_colors_change_as_computed_by_hand():
    assert np.unique(corrupt(gray(100), "brightness", 5)).tolist() == [176]  # 100 + 0.3 * 255 = 176.5
    halves = np.concatenate([gray(50)[:, :16], gray(150)[:, :16]], axis=1)
    assert np.unique(corrupt(halves, "contrast", 2)).tolist() == [75, 125]
    red = np.tile(np.array([200, 100, 100], np.uint8), (1, 32, 32, 1))
    assert np.unique(corrupt(red, "saturate", 2)).tolist() == [190, 200]  # saturation 0.5 becomes 0.05
    assert np.unique(corrupt(red, "saturate", 4)).tolist() == [0, 200]  # 1.1 becomes 1


def test_defocus_blur_spreads_a_pixel_over_a_disk():
    image = gray(0)
    image[0, 16, 16] = 255
    blurred = corrupt(image, "defocus_blur", 4)[0, :, :, 0]
    assert np.argwhere(blurred > 10).tolist() == [[15, 16], [16, 15], [16, 16], [16, 17], [17, 16]]
    assert set(blurred[blurred > 10]) == {50, 51}  # 255 / 5; smoothing takes little from the edge


def test_zoom_blur_is_the_mean_of_enlarged_images():
    images = smooth_images(2)
    factors = np.arange(1, 1.16, 0.01)
    for image, blurred in zip(images / 255, corrupt(images, "zoom_blur", 3), strict=True):
        total = image.copy()
        for factor in factors:
            size = int(np.ceil(32 / factor))
            top = (32 - size) // 2
            enlarged = ndimage.zoom(image[top : top + size, top : top + size], (factor, factor, 1), order=1)
            trim = (len(enlarged) - 32) // 2
            total += enlarged[trim : trim + 32, trim : trim + 32]
        np.testing.assert_allclose(blurred, 255 * total / (len(factors) + 1), atol=1.001)


def test_glass_blur_shuffles_pixel_by_pixel():
    """As the authors' script does: from the lower right corner, with an assignment that copies instead of swapping."""

    class Generator:
        def integers(self, *_):
            return drawn

    image = smooth_images(1)
    drawn = np.random.default_rng(1).integers(0, 2, (2, 1, 30, 30))
    expected = image[0].copy()
    for row in range(31, 1, -1):
        for column in range(31, 1, -1):
            other = row - drawn[0, 0, row - 2, column - 2], column - drawn[1, 0, row - 2, column - 2]
            expected[row, column], expected[other] = expected[other], expected[row, column]
    shuffled = corruptions.to_uint8(corruptions.glass_blur(image, 1, Generator()))
    np.testing.assert_allclose(shuffled[0].astype(int), expected, atol=1)  # a Gaussian of 0.05 pixels changes nothing


def test_fog_has_clouds_and_no_light_of_its_own():
    assert not corrupt(gray(0), "fog", 5).any()  # the brightest pixel limits the result
    foggy = corrupt(gray(255, 4), "fog", 2)[..., 0].reshape(4, -1)
    np.testing.assert_array_equal(foggy.min(1), 170)  # 255 / 1.5 where the clouds are 0
    np.testing.assert_array_equal(foggy.max(1), 255)
