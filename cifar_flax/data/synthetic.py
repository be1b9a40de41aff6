"""Generates images of ten shapes, for first runs, demos and tests without a network connection.

Each image shows one shape on a shaded background, with a line and noise, in its own colors. The training images
repeat a few designs (position, size and rotation of the shape) many times. Each validation and test image has its own
design, so memorized designs do not help there, and augmentation improves accuracy as it does on photographs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cifar_flax.data.dataset import Source, Split

NUM_TRAIN = 8_000
NUM_VALIDATION = 1_000  # the first of the training images that `load` returns
NUM_TEST = 1_000
IMAGE_SIZE = 32  # height and width, in pixels
SEED = 20_120_930  # independent of a run's seed: the images are always the same
NUM_DESIGNS = 20  # per class, in the training images

Floats = NDArray[np.floating]


# Each shape is a function of coordinates (u, v), in which its size is about one unit. The value is negative inside and
# positive outside, and approximates the distance from the outline near it.


def _disk(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - 0.8


def _ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - 0.62) - 0.2


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - 0.7


def _frame(u: Floats, v: Floats) -> Floats:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.55) - 0.17


def _triangle(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u) * 0.866 - v * 0.5, v) - 0.5


def _star(u: Floats, v: Floats) -> Floats:
    fifth = 2 * np.pi / 5
    from_tip = np.abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2) / (fifth / 2)
    return np.hypot(u, v) * (1 + 1.2 * from_tip) - 1


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(a, b) - 0.24, np.maximum(a, b) - 0.85)


def _bar(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u) - 0.95, np.abs(v) - 0.25)


def _moon(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.hypot(u, v) - 0.85, 0.68 - np.hypot(u - 0.4, v))


def _arrow(u: Floats, v: Floats) -> Floats:
    head = np.maximum(np.abs(v) * 0.866 + (u - 0.35) * 0.5, 0.35 - u) - 0.3
    shaft = np.maximum(np.abs(v) - 0.14, np.abs(u + 0.35) - 0.6)
    return np.minimum(head, shaft)


Shape = Callable[[Floats, Floats], Floats]

SHAPES: dict[str, Shape] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "bar": _bar,
    "moon": _moon,
    "arrow": _arrow,
}


def load() -> Source:
    """Generates 9,000 training images (the first 1,000 are for validation) and 1,000 test images.

    They are [N, 32, 32, 3] uint8. Within a split, all classes have the same number of images.
    """
    rng = np.random.default_rng(SEED)
    labels = np.concatenate([_balanced_labels(rng, n) for n in (NUM_VALIDATION, NUM_TRAIN, NUM_TEST)])
    images = draw(rng, labels, _designs(rng, labels), list(SHAPES.values()))
    combined = Split(images, labels)
    end = NUM_VALIDATION + NUM_TRAIN
    return Source(train=combined[:end], test=combined[end:], class_names=tuple(SHAPES))


def _balanced_labels(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    return rng.permutation(np.arange(count) % len(SHAPES)).astype(np.int32)


def random_designs(rng: np.random.Generator, count: int) -> Floats:
    """[N, 4]: x and y of the shape's center relative to the image's, radius (all in pixels), rotation in radians."""
    low, high = (-4.5, -4.5, 7, 0), (4.5, 4.5, 11, 0.35 * np.pi)
    return rng.uniform(low, high, (count, 4)).astype(np.float32)


def _designs(rng: np.random.Generator, labels: NDArray[np.int32]) -> Floats:
    """[N, 4]: `random_designs`, of which the training images repeat a few."""
    designs = random_designs(rng, len(labels))
    for label in range(len(SHAPES)):
        rows = NUM_VALIDATION + np.flatnonzero(labels[NUM_VALIDATION : NUM_VALIDATION + NUM_TRAIN] == label)
        designs[rows] = designs[rows[np.arange(len(rows)) % NUM_DESIGNS]]
    return designs


def draw(
    rng: np.random.Generator, labels: NDArray[np.int32], designs: Floats, shapes: Sequence[Shape]
) -> NDArray[np.uint8]:
    """[N, 32, 32, 3] uint8: background, line, shape and noise, combined. The labels are indices of `shapes`."""
    count = len(labels)
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32) - np.float32((IMAGE_SIZE - 1) / 2)
    shape = _shape_coverage(labels, designs, shapes, x, y)
    line = _line_coverage(rng, count, x, y)
    noise = rng.standard_normal((count, IMAGE_SIZE, IMAGE_SIZE), np.float32) * 9

    def per_image(low: float, high: float, *size: int) -> Floats:
        return rng.uniform(low, high, (count, *size)).astype(np.float32)[..., None, None]

    slope_x, slope_y = per_image(-2, 2), per_image(-2, 2)
    common = noise + slope_x * x + slope_y * y
    background, line_color = per_image(5, 75, 3), per_image(-60, 60, 3)
    hue = rng.normal(1.5, 0.7, (count, 3))  # with rare exceptions, brighter than the background
    hue = (hue / np.linalg.norm(hue, axis=1, keepdims=True)).astype(np.float32)[..., None, None]
    shape_color = hue * per_image(60, 120, 1)
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for channel in range(3):
        pixels = background[:, channel] + common + line * line_color[:, channel] * (1 - shape / 2)
        pixels = pixels + shape * shape_color[:, channel]
        images[..., channel] = np.clip(pixels, 0, 255)
    return images


def _shape_coverage(
    labels: NDArray[np.int32], designs: Floats, shapes: Sequence[Shape], x: Floats, y: Floats
) -> Floats:
    """[N, 32, 32] in [0, 1]: the fraction of each pixel that the shape covers."""
    coverage = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for label, shape in enumerate(shapes):
        rows = np.flatnonzero(labels == label)
        center_x, center_y, radius, rotation = designs[rows].T[..., None, None]
        cosine, sine = np.cos(rotation) / radius, np.sin(rotation) / radius
        u = cosine * (x - center_x) + sine * (y - center_y)
        v = cosine * (y - center_y) - sine * (x - center_x)
        coverage[rows] = np.clip(0.5 - shape(u, v) * radius, 0, 1)
    return coverage


def _line_coverage(rng: np.random.Generator, count: int, x: Floats, y: Floats) -> Floats:
    """[N, 32, 32] in [0, 1]: the fraction of each pixel that a straight line across the image covers."""
    angle = rng.uniform(0, np.pi, (count, 1, 1)).astype(np.float32)
    offset = rng.uniform(-14, 14, (count, 1, 1)).astype(np.float32)
    return np.clip(1.3 - np.abs(np.cos(angle) * x + np.sin(angle) * y - offset), 0, 1)
