"""The types that all sources return: images and labels in memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cifar_flax.errors import BadInput

MAX_CLASSES = 10_000  # each class has its own column of parameters
CHANNELS = (1, 3, 4)  # of usual images: gray, RGB, RGBA


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


def concatenated(first: Split, second: Split) -> Split:
    return Split(np.concatenate([first.images, second.images]), np.concatenate([first.labels, second.labels]))


@dataclass(frozen=True)
class Source:
    """A labeled dataset with its authors' splits, in their order.

    Attributes:
        train: the training images; None if a run can only be evaluated on the set.
        test: None if the authors give no test split.
        class_names: one for each label.
        validation: None if the authors give no validation split.
    """

    train: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    validation: Split | None = None


@dataclass(frozen=True)
class Options:
    """The fields of the config that change how a source is read.

    Attributes:
        image_size: height and width in pixels that pictures are resized to; None: they all have the same size.
        label: which of a source's labels to use; None: its main ones.
    """

    image_size: int | None = None
    label: str | None = None

    def refuse(self, *fields: str, source: str) -> None:
        """Raises BadInput if one of the fields is set, although `source` has no use for it."""
        for field in fields:
            if (value := getattr(self, field)) is not None:
                reason = f"{_REASONS[field]} {source}"
                raise BadInput(f"config.{field}: {value!r} is not valid; leave it unset, because {reason}")


_REASONS = {"image_size": "images are not resized in", "label": "there is only one kind of labels in"}


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
    def num_bytes(self) -> int:
        """Of all images."""
        return sum(split.images.nbytes for split in (self.train, self.validation, self.test))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def sha256(self) -> dict[str, str]:
        """SHA-256 checksums of the images and the labels, which identify the dataset wherever it is.

        Training and validation images count as one array, so the size of the validation split does not matter.
        """
        parts = {"train": (self.validation, self.train), "test": (self.test,)}
        return {
            f"{name}_{field}": _sha256([getattr(split, field) for split in splits])
            for name, splits in parts.items()
            for field in ("images", "labels")
        }


def _sha256(arrays: Sequence[np.ndarray]) -> str:
    """The checksum of the arrays' concatenation, with its shape and dtype."""
    shape = [sum(len(array) for array in arrays), *arrays[0].shape[1:]]
    checksum = hashlib.sha256(f"{arrays[0].dtype}{shape}".encode())
    for array in arrays:
        checksum.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return checksum.hexdigest()


def are_class_names(names: Sequence[str]) -> bool:
    """Whether the strings can name classes: each on one line, none empty, all distinct."""
    valid = all(0 < len(name) <= 100 and name.isprintable() for name in names)
    return 0 < len(names) <= MAX_CLASSES and len(set(names)) == len(names) and valid
