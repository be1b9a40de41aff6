"""Five classes of pictures that the synthetic images do not have, drawn in their style: `train/CLASS/0.png` and so on.

They stand for the few pictures of one's own that a network is fine-tuned on. Nothing is downloaded.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from cifar_flax.data.dataset import Split
from cifar_flax.data.synthetic import Floats, Shape, draw, random_designs

NUM_IMAGES = {"train": 10, "test": 200}  # per class


def _heart(u: Floats, v: Floats) -> Floats:
    lobes = np.hypot(np.abs(u) - 0.36, v + 0.25) - 0.44
    tip = np.maximum(np.abs(u) * 0.78 + v * 0.62 - 0.43, -0.15 - v)
    return np.minimum(lobes, tip)


def _hexagon(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u) * 0.866 + np.abs(v) * 0.5, np.abs(v)) - 0.72


def _spiral(u: Floats, v: Floats) -> Floats:
    radius, turn = np.hypot(u, v), np.arctan2(v, u) / (2 * np.pi)
    arm = np.abs((radius / 0.5 - turn) % 1 - 0.5) * 0.5 - 0.12
    return np.maximum(arm, radius - 0.95)


def _tee(u: Floats, v: Floats) -> Floats:
    bar = np.maximum(np.abs(u) - 0.8, np.abs(v + 0.55) - 0.22)
    stem = np.maximum(np.abs(u) - 0.22, np.abs(v - 0.1) - 0.75)
    return np.minimum(bar, stem)


def _zigzag(u: Floats, v: Floats) -> Floats:
    wave = np.abs((u / 0.9 + 0.25) % 1 - 0.5) * 1.6 - 0.4
    return np.maximum((np.abs(v - wave) - 0.28) * 0.5, np.abs(u) - 0.95)


SHAPES: dict[str, Shape] = {
    "heart": _heart,
    "hexagon": _hexagon,
    "spiral": _spiral,
    "tee": _tee,
    "zigzag": _zigzag,
}


def pictures(count: int, seed: list[int]) -> Split:
    """Draws `count` images [32, 32, 3] of each class, sorted by class. Each has its own design."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SHAPES), dtype=np.int32), count)
    return Split(draw(rng, labels, random_designs(rng, len(labels)), list(SHAPES.values())), labels)


def write(folder: Path, seed: int) -> None:
    """Writes the pictures of a seed as PNG files: NUM_IMAGES of each class."""
    names = list(SHAPES)
    for number, (split, count) in enumerate(NUM_IMAGES.items()):
        images, labels = (array for array in vars(pictures(count, [seed, number])).values())
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / names[label] / f"{index % count:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
