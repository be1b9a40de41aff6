"""What every source delivers: images and labels in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_CLASSES = 10_000  # each has its own column of parameters


@dataclass(frozen=True)
class Split:
    """Images of one split with their labels.

    Attributes:
        images: [N, H, W, C] uint8.
        labels: [N] int32, in 0 ... num_classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Source:
    """A labelled set as its authors split it, in their order."""

    train: Split
    test: Split
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """What a run trains on, validates on and is tested on once."""

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
    """Whether texts can name classes: each in one line, none empty, no two alike."""
    fitting = all(0 < len(name) <= 100 and name.isprintable() for name in names)
    return 0 < len(names) <= MOST_CLASSES and len(set(names)) == len(names) and fitting
