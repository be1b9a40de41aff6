"""Drawings of ten shapes, made on the spot: for a first run, for demos and for tests, without a network.

Each image shows one shape on a shaded ground, with a stroke and grain over it, in colours of its own. The training
images repeat a few designs (place, size and turn of the shape) again and again; validation and test images have
designs that no other image has. Knowing the designs by heart does not help there, so a network profits from
augmentation, as it does on photographs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cifar_flax.data.dataset import Source, Split

NUM_TRAIN = 8_000
NUM_VALIDATION = 1_000  # the first of what `load` returns for training
NUM_TEST = 1_000
SIDE = 32  # pixels
SEED = 20_120_930  # its own: the images are the same whatever the seed of a run
DESIGNS = 20  # of each class, among the training images

Floats = NDArray[np.floating]


# Each shape is a function of coordinates (u, v) in which it is about one unit large: negative inside, positive
# outside, and close to the outline about the distance from it.


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


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
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
    """9,000 training images (the first 1,000 are for validation) and 1,000 test images, [N, 32, 32, 3] uint8.

    Every split has equally many images of each class.
    """
    rng = np.random.default_rng(SEED)
    labels = np.concatenate([_balanced_labels(rng, n) for n in (NUM_VALIDATION, NUM_TRAIN, NUM_TEST)])
    images = _draw(rng, labels, _designs(rng, labels))
    drawn = Split(images, labels)
    end = NUM_VALIDATION + NUM_TRAIN
    return Source(train=drawn[:end], test=drawn[end:], class_names=tuple(SHAPES))


def _balanced_labels(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    return rng.permutation(np.arange(count) % len(SHAPES)).astype(np.int32)


def _designs(rng: np.random.Generator, labels: NDArray[np.int32]) -> Floats:
    """[N, 4]: centre x and y from the middle and radius in pixels, turn in radians."""
    low, high = (-4.5, -4.5, 7, 0), (4.5, 4.5, 11, 0.35 * np.pi)
    designs = rng.uniform(low, high, (len(labels), 4)).astype(np.float32)
    for label in range(len(SHAPES)):
        rows = NUM_VALIDATION + np.flatnonzero(labels[NUM_VALIDATION : NUM_VALIDATION + NUM_TRAIN] == label)
        designs[rows] = designs[rows[np.arange(len(rows)) % DESIGNS]]
    return designs


def _draw(rng: np.random.Generator, labels: NDArray[np.int32], designs: Floats) -> NDArray[np.uint8]:
    """[N, 32, 32, 3] uint8: ground, stroke, shape and grain, one over the other."""
    count = len(labels)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - np.float32((SIDE - 1) / 2)
    shape = _cover_of_shapes(labels, designs, x, y)
    stroke = _cover_of_strokes(rng, count, x, y)
    grain = rng.standard_normal((count, SIDE, SIDE), np.float32) * 9

    def per_image(low: float, high: float, *size: int) -> Floats:
        return rng.uniform(low, high, (count, *size)).astype(np.float32)[..., None, None]

    slope_x, slope_y = per_image(-2, 2), per_image(-2, 2)
    common = grain + slope_x * x + slope_y * y
    ground, pencil = per_image(5, 75, 3), per_image(-60, 60, 3)
    hue = rng.normal(1.5, 0.7, (count, 3))  # brighter than the ground, but for a rare channel
    ink = (hue / np.linalg.norm(hue, axis=1, keepdims=True)).astype(np.float32)[..., None, None] * per_image(60, 120, 1)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        pixels = ground[:, channel] + common + stroke * pencil[:, channel] * (1 - shape / 2) + shape * ink[:, channel]
        images[..., channel] = np.clip(pixels, 0, 255)
    return images


def _cover_of_shapes(labels: NDArray[np.int32], designs: Floats, x: Floats, y: Floats) -> Floats:
    """[N, 32, 32] in [0, 1]: how much of each pixel the shape covers."""
    cover = np.empty((len(labels), SIDE, SIDE), np.float32)
    for label, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(labels == label)
        centre_x, centre_y, radius, turn = designs[rows].T[..., None, None]
        cosine, sine = np.cos(turn) / radius, np.sin(turn) / radius
        u = cosine * (x - centre_x) + sine * (y - centre_y)
        v = cosine * (y - centre_y) - sine * (x - centre_x)
        cover[rows] = np.clip(0.5 - shape(u, v) * radius, 0, 1)
    return cover


def _cover_of_strokes(rng: np.random.Generator, count: int, x: Floats, y: Floats) -> Floats:
    """[N, 32, 32] in [0, 1]: one straight line across each image."""
    angle = rng.uniform(0, np.pi, (count, 1, 1)).astype(np.float32)
    place = rng.uniform(-14, 14, (count, 1, 1)).astype(np.float32)
    return np.clip(1.3 - np.abs(np.cos(angle) * x + np.sin(angle) * y - place), 0, 1)
