"""Remarks on data that can be trained on but looks wrong, printed on stderr."""

import itertools
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from cifar_flax.data.dataset import CHANNELS, Dataset, Split
from cifar_flax.data.paths import listed

MAX_REPEATED = 0.1  # fraction of the test images that may also be training images


def remarks(dataset: Dataset) -> list[str]:
    """One sentence for each aspect of a dataset that looks wrong. Takes about 0.1 s for CIFAR-10."""
    return [
        f"config.dataset: {remark}"
        for remark in (
            _channels(dataset),
            _pixels("training", dataset.train),
            _pixels("test", dataset.test),
            _equal_images(dataset.train),
            *_classes(dataset),
            _sorted_by_class(dataset),
            _repeated_images(dataset),
        )
        if remark
    ]


def _channels(dataset: Dataset) -> str | None:
    channels = dataset.image_shape[2]
    if channels in CHANNELS:
        return None
    return f"the images have {channels} channels; check that their axes are [N, H, W, C]"


def _pixels(name: str, split: Split) -> str | None:
    """Remarks on images that were scaled to [0, 1] before their pixels became integers."""
    if split.images.max() > 1:
        return None
    return f"no pixel of the {name} images is above 1; they should be from 0 to 255, not scaled to [0, 1]"


def _equal_images(train: Split) -> str | None:
    """Stops at the first image that differs, so it is fast for usual data."""
    if len(train) > 1 and all(np.array_equal(image, train.images[0]) for image in train.images):
        return f"all {len(train)} training images are the same"
    if all(image.min() == image.max() for image in train.images):
        return f"each of the {len(train)} training images has a single color"
    return None


def _classes(dataset: Dataset) -> Iterable[str]:
    names = dataset.class_names
    if len(names) == 1:
        yield f"there is only one class, {names[0]}, so there is nothing to learn"
    for split_name, split in (("training", dataset.train), ("test", dataset.test)):
        missing = _names(dataset, _counts(dataset, split) == 0)
        if missing:
            yield f"{len(missing)} of the {len(names)} classes have no {split_name} images: {listed(missing)}"


def _sorted_by_class(dataset: Dataset) -> str | None:
    """Remarks on a validation split that lacks more classes than it would by chance."""
    train, validation = _counts(dataset, dataset.train), _counts(dataset, dataset.validation)
    expected = train[train > 0] / len(dataset.train) * len(dataset.validation)
    by_chance = np.exp(-expected).sum()  # the expected number of missing classes; their variance is at most the same
    missing = _names(dataset, (train > 0) & (validation == 0))
    if len(missing) <= by_chance + 5 * np.sqrt(by_chance):
        return None
    return (
        f"{len(missing)} of the {len(expected)} classes of the training images have no validation images: "
        f"{listed(missing)}; the first config.num_validation training images are the validation split, so shuffle a "
        "training set that is sorted by class"
    )


def _repeated_images(dataset: Dataset) -> str | None:
    """Remarks on test images that are training images, compared by checksum."""
    tested = list(_checksums(dataset.test))
    known = set(tested).intersection(itertools.chain(_checksums(dataset.train), _checksums(dataset.validation)))
    repeated = sum(checksum in known for checksum in tested)
    if repeated <= MAX_REPEATED * len(dataset.test):
        return None
    return (
        f"{repeated} of the {len(dataset.test)} test images are also training or validation images, "
        "so the test accuracy will be too high"
    )


def _counts(dataset: Dataset, split: Split) -> np.ndarray:
    """[K] int: the number of images of each class."""
    return np.bincount(split.labels, minlength=dataset.num_classes)


def _names(dataset: Dataset, chosen: np.ndarray) -> list[str]:
    return [name for name, is_chosen in zip(dataset.class_names, chosen, strict=True) if is_chosen]


def _checksums(split: Split) -> Iterator[int]:
    return (zlib.crc32(np.ascontiguousarray(image).data) for image in split.images)
