"""The types that all sources return: images and labels in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_CLASSES = 10_000  # each class has its own column of parameters


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        images: [N, H, W, C] uint8.
        labels: [N] int32, from 0 to num_classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Source:
    """A labeled dataset with its authors' splits, in their order."""

    train: Split
    test: Split
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """The images that a run trains on, validates on, and is tested on once."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def are_class_names(names: Sequence[str]) -> bool:
    """Whether the strings can name classes: each on one line, none empty, all distinct."""
    valid = all(0 < len(name) <= 100 and name.isprintable() for name in names)
    return 0 < len(names) <= MAX_CLASSES and len(set(names)) == len(names) and valid
