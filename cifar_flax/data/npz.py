"""Reads a `.npz` with the array names of Keras (`x_train`) or MedMNIST (`train_images`), or with `images labels`."""

import itertools
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from cifar_flax.data import cache, zip_arrays
from cifar_flax.data.dataset import CHANNELS, MAX_CLASSES, Options, Source, Split, are_class_names
from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput, printable

MAX_BYTES = 8 * 2**30  # of all arrays together, in memory; CIFAR-10 has 180 million
UNPACKED_BYTES = 2**30  # arrays with more bytes together are unpacked into the cache and memory-mapped
NAMES = "class_names"
MIN_PIXELS = 64  # an axis at least this long holds flattened pixels, not a few rows or columns


class _Entries(NamedTuple):
    """The names of a split's arrays."""

    images: str
    labels: str


PLAIN = {"train": _Entries("images", "labels")}
KERAS = {"train": _Entries("x_train", "y_train"), "test": _Entries("x_test", "y_test")}
MEDMNIST = {
    "train": _Entries("train_images", "train_labels"),
    "test": _Entries("test_images", "test_labels"),
    "validation": _Entries("val_images", "val_labels"),
}


def load(path: Path, options: Options) -> Source:
    """Reads images [N, H, W, C] or [N, H, W] uint8 and integer labels [N] or [N, 1] from 0.

    The validation split (`val_images val_labels`) and the class names (`class_names`) are optional. A file with test
    images alone is a source without training images, and `images labels` are one without test images.

    Raises:
        BadInput: names the file, the entry and what is wrong with it.
    """
    options.refuse("image_size", "label", source="a .npz")
    splits_of, arrays = _read(path)
    splits = {name: _split(path, entries, arrays) for name, entries in splits_of.items()}
    first = next(iter(splits))  # the training images, if there are some
    first_entries, first_shape = splits_of[first], splits[first].images.shape[1:]
    names = _names(path, arrays, first_entries.labels, int(splits[first].labels.max()) + 1)
    for name, entries in splits_of.items():
        shape, highest = splits[name].images.shape[1:], splits[name].labels.max()
        if shape != first_shape:
            problem = f"has images of shape {shape}, but those of {first_entries.images} have {first_shape}"
            _reject(path, entries.images, problem)
        if highest >= len(names):
            _reject(path, entries.labels, f"has the label {highest}, which {first_entries.labels} does not have")
    return Source(splits.get("train"), splits.get("test"), names, splits.get("validation"))


def _read(path: Path) -> tuple[dict[str, _Entries], dict[str, np.ndarray]]:
    """The names of the splits' arrays, and the arrays with these names."""
    with zip_arrays.open_npz(path, "config.dataset") as stored:
        splits = _splits(path, stored.namelist())
        wanted = [*itertools.chain(*splits.values())] + [NAMES] * (NAMES in zip_arrays.entries(stored))
        unpacked = _unpack(path, stored, splits, wanted)
        return splits, unpacked or zip_arrays.read_arrays(stored, wanted, MAX_BYTES)


def _unpack(
    path: Path, stored: zipfile.ZipFile, splits: dict[str, _Entries], wanted: list[str]
) -> dict[str, np.ndarray] | None:
    """The arrays with these names, memory-mapped from the cache; None if they are small, or there is no cache."""
    if zip_arrays.num_bytes(stored, wanted) <= UNPACKED_BYTES:
        return None
    for images, labels in splits.values():
        _images(path, images, zip_arrays.outline(stored, images), zip_arrays.outline(stored, labels).shape)
    key = zip_arrays.fingerprint(stored, wanted)
    return cache.load_or_unpack(path.stem, key, partial(zip_arrays.unpack, stored, wanted))


def _splits(path: Path, stored: list[str]) -> dict[str, _Entries]:
    """The names of the arrays to read: those of Keras, of MedMNIST or plain ones, whichever the file has most of."""
    available = {name.removesuffix(".npy") for name in stored if name.endswith(".npy")}
    known = max(
        (KERAS, MEDMNIST, PLAIN), key=lambda splits: len(available.intersection(itertools.chain(*splits.values())))
    )
    present = {name for name, entries in known.items() if available & {*entries}}
    required = {"test"} if "test" in present else {"train", "test"}
    splits = {name: entries for name, entries in known.items() if name in present | required}
    for name in itertools.chain(*splits.values()):
        if name not in available:
            has = listed([entry.removesuffix(".npy") for entry in stored])
            wanted = "x_train, y_train, x_test, y_test or train_images, train_labels, test_images, test_labels"
            wanted += " or images, labels"
            _reject(path, name, f"is missing; the file has {has}, and a dataset needs {wanted}")
    return splits


def _reject(path: Path, entry: str, problem: str) -> NoReturn:
    raise BadInput(printable(f"config.dataset: {path}: {entry} {problem}"))


def _names(path: Path, arrays: dict[str, np.ndarray], labels: str, num_classes: int) -> tuple[str, ...]:
    """The class names. Without an entry for them, the class numbers."""
    stored = arrays.get(NAMES, np.arange(num_classes).astype(str))
    if stored.ndim != 1 or stored.dtype.kind != "U" or len(stored) > MAX_CLASSES:
        _reject(path, NAMES, f"is {stored.dtype} {list(stored.shape)}, not strings [K]")
    try:
        names = tuple(stored.tolist())
    except (ValueError, SystemError):  # not valid characters
        names = ()
    if len(names) < num_classes or not are_class_names(names):
        _reject(path, NAMES, f"does not name the {num_classes} classes of {labels} with distinct one-line strings")
    return names


def _split(path: Path, entries: _Entries, arrays: dict[str, np.ndarray]) -> Split:
    images = _images(path, entries.images, arrays[entries.images], arrays[entries.labels].shape)
    labels = _labels(path, entries.labels, arrays[entries.labels])
    if len(images) != len(labels):
        _reject(path, entries.images, f"has {len(images)} images, but {entries.labels} has {len(labels)} labels")
    return Split(images, labels)


def _images(path: Path, entry: str, stored: np.ndarray, labels_shape: tuple[int, ...]) -> np.ndarray:
    """[N, H, W, C] uint8 from [N, H, W, C] or [N, H, W]."""
    described = f"{stored.dtype} {list(stored.shape)}"
    if stored.dtype != np.uint8 or stored.size == 0:
        _reject(path, entry, f"is {described}, not images [N, H, W, C] uint8 with pixels from 0 to 255")
    if problem := _wrong_axes(stored.shape, labels_shape):
        _reject(path, entry, f"is {described}, not images [N, H, W, C] uint8; {problem}")
    return stored[..., None] if stored.ndim == 3 else stored


def _wrong_axes(shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> str | None:
    """What an array's axes look like and how to fix them, or None if they can be [N, H, W, C] or [N, H, W]."""
    images_are_last = shape[-1:] == labels_shape[:1] != shape[:1] and shape[-1] not in CHANNELS
    match shape:
        case (first, _, third, _) if images_are_last:
            channels_first = first in CHANNELS and third not in CHANNELS
            axes, order = ("[C, H, W, N]", (3, 1, 2, 0)) if channels_first else ("[H, W, C, N]", (3, 0, 1, 2))
            return f"it looks like {axes}: reorder it with transpose{order}"
        case (_, _, _) if images_are_last:
            return "it looks like [H, W, N]: reorder it with transpose(2, 0, 1)"
        case (_, second, _, last) if second in CHANNELS and last > max(CHANNELS):
            return "it looks like [N, C, H, W]: reorder it with transpose(0, 2, 3, 1)"
        case (_, second, last) if last in CHANNELS and second >= MIN_PIXELS:
            return "it looks like [N, H * W, C]: reshape it to [N, H, W, C]"
        case (_, second, last) if second in CHANNELS and last >= MIN_PIXELS:
            return "it looks like [N, C, H * W]: reshape it to [N, C, H, W], then reorder it with transpose(0, 2, 3, 1)"
        case (_, _):
            return (
                "it looks like a row of pixels for each image: reshape it to [N, H, W, C], for example rows of "
                "CIFAR-10's batches with reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)"
            )
    return None if len(shape) in (3, 4) else f"it has {len(shape)} axes"


def _labels(path: Path, entry: str, stored: np.ndarray) -> np.ndarray:
    labels = stored[:, 0] if stored.ndim == 2 and stored.shape[1] == 1 else stored
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or labels.size == 0
        or labels.min() < 0
        or labels.max() >= MAX_CLASSES
    ):
        values = (
            f"; they are from {stored.min()} to {stored.max()}" if stored.dtype.kind in "iuf" and stored.size else ""
        )
        _reject(path, entry, f"is {stored.dtype} {list(stored.shape)}, not integer labels [N] from 0{values}")
    return labels.astype(np.int32)
