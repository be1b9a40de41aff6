"""Corrupted images in the manner of CIFAR-10-C, computed with NumPy, SciPy, Pillow and matplotlib.

CIFAR-10-C is the work of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (2019, arXiv 1903.12261). The constants of the five severities and the order of operations are those of
its script (github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py). These images are not CIFAR-10-C: the
random numbers differ, and so do some libraries, which docs/robustness.md lists.

A corruption takes images [N, 32, 32, 3] uint8, a severity from 1 to 5 and a random generator. It returns the corrupted
images in the same shape, as float64 in [0, 1], or beyond it where they are clipped, or as uint8.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

SIZE = 32  # pixels; the severities are meant for this size
CHUNK = 1000  # images that are corrupted at a time, to limit the memory; the random numbers depend on it

# Added before pixels are rounded down, so that the rounding errors of a machine do not decide about whole numbers.
EPSILON = 1e-6


def gaussian_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return images / 255 + rng.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], size=images.shape)


def shot_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    photons = (500, 250, 100, 75, 50)[severity - 1]  # of white
    return rng.poisson(images / 255 * photons) / photons


def impulse_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Values that become 0 or 1, each channel by itself (scikit-image's `random_noise` in the mode `s&p`)."""
    changed = rng.random(images.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    return np.where(changed, rng.random(images.shape) < 0.5, images / 255)


def speckle_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(scale=(0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1], size=images.shape)
    return images / 255 * (1 + noise)


def defocus_blur(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """The mean over a disk whose edge is smoothed with a 3x3 Gaussian."""
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    offsets = np.arange(-2, 3)  # beyond the largest radius and the smoothing, the kernel is 0
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(float)
    smoothing = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(smoothing, smoothing) / smoothing.sum() ** 2, mode="constant")
    return ndimage.correlate(images / 255, kernel[None, :, :, None], mode="mirror")  # OpenCV's BORDER_REFLECT_101


def glass_blur(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Each pixel becomes itself or its neighbor to the left, above, or both.

    The script means to swap the two pixels, but its assignment copies one of them. It begins at the lower right corner,
    so that no pixel is read after it has changed: an iteration can change all pixels at once.
    """
    sigma, iterations = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    blurred = to_uint8(_blur(images / 255, sigma))
    numbers, inside = np.arange(len(images))[:, None, None], np.arange(2, SIZE)
    for _ in range(iterations):
        up, left = rng.integers(0, 2, (2, len(images), SIZE - 2, SIZE - 2))
        blurred[:, 2:, 2:] = blurred[numbers, inside[:, None] - up, inside - left]
    return _blur(blurred / 255, sigma)


def zoom_blur(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """The mean over the image and enlarged versions of it."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    enlargements = [_enlarge(np.eye(SIZE), factor) for factor in factors]
    # All of this is linear in the pixels, so that one product with a matrix [SIZE**2, SIZE**2] does it
    matrix = (np.eye(SIZE**2) + sum(np.kron(rows, rows) for rows in enlargements)) / (len(factors) + 1)
    by_pixel = (images / 255).reshape(len(images), SIZE**2, -1)
    return np.tensordot(by_pixel, matrix, (1, 1)).swapaxes(1, 2).reshape(images.shape)


def _enlarge(rows: np.ndarray, factor: float) -> np.ndarray:
    """The middle of [SIZE, M], enlarged to [SIZE, M] by linear interpolation between the rows."""
    size = int(np.ceil(SIZE / factor))
    top = (SIZE - size) // 2
    enlarged = ndimage.zoom(rows[top : top + size], (factor, 1), order=1)
    trim = (len(enlarged) - SIZE) // 2
    return enlarged[trim : trim + SIZE]


def fog(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    pixels = images / 255
    brightest = pixels.max((1, 2, 3), keepdims=True)
    foggy = pixels + amount * _plasma(len(images), decay, rng)[..., None]
    return foggy * brightest / (brightest + amount)


def _plasma(count: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Clouds [count, SIZE, SIZE], periodic, by the diamond-square algorithm, each with the minimum 0 and maximum 1."""
    clouds = np.zeros((count, SIZE, SIZE))
    step, roughness = SIZE, 100.0

    def middle(*neighbors: np.ndarray) -> np.ndarray:
        drawn = rng.uniform(-roughness, roughness, neighbors[0].shape)
        return sum(neighbors) / 4 + roughness * drawn  # so that the deviation is quadratic in the roughness

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        right = np.roll(corners, -1, 2)
        below, opposite = np.roll(corners, -1, 1), np.roll(right, -1, 1)
        centers = middle(corners, right, below, opposite)
        clouds[:, half::step, half::step] = centers
        clouds[:, ::step, half::step] = middle(centers, np.roll(centers, 1, 1), corners, right)
        clouds[:, half::step, ::step] = middle(centers, np.roll(centers, 1, 2), corners, below)
        step, roughness = half, roughness / decay
    clouds -= clouds.min((1, 2), keepdims=True)
    return clouds / clouds.max((1, 2), keepdims=True)


def brightness(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    hsv = rgb_to_hsv(images / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 0, 1)
    return hsv_to_rgb(hsv)


def contrast(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    pixels = images / 255
    means = pixels.mean((1, 2), keepdims=True)
    return (pixels - means) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + means


def saturate(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    factor, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    hsv = rgb_to_hsv(images / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    return hsv_to_rgb(hsv)


def pixelate(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    size, box = int(SIZE * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]), Image.Resampling.BOX
    return _each(images, lambda image: image.resize((size, size), box).resize((SIZE, SIZE), box))


def jpeg_compression(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        return Image.open(file)

    return _each(images, compress)


def gaussian_blur(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    return _blur(images / 255, (0.4, 0.6, 0.7, 0.8, 1)[severity - 1])


def _blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(pixels, sigma, axes=(1, 2), mode="nearest", truncate=4)  # as scikit-image calls it


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


Corruption = Callable[[np.ndarray, int, np.random.Generator], Any]

# In the order of the paper. The others need ImageMagick (motion_blur, snow), photographs of frost that come with the
# script (frost), or OpenCV (elastic_transform, spatter).
CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, zoom_blur, fog, brightness, contrast,
        pixelate, jpeg_compression, speckle_noise, gaussian_blur, saturate,
    )
}  # fmt: skip


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Values in [0, 1], rounded down to [0, 255]. Others are clipped."""
    return np.floor(255 * np.clip(pixels, 0, 1) + EPSILON).astype(np.uint8)


def corrupt(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    """The images [N, 32, 32, 3] uint8, corrupted, in the same shape and dtype. Equal arguments give equal images."""
    rng = np.random.default_rng([severity, *name.encode()])
    chunks = (images[first : first + CHUNK] for first in range(0, len(images), CHUNK))
    corrupted = (CORRUPTIONS[name](chunk, severity, rng) for chunk in chunks)
    return np.concatenate([chunk if chunk.dtype == np.uint8 else to_uint8(chunk) for chunk in corrupted])
