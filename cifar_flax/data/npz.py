"""Reads a `.npz` with `x_train y_train x_test y_test`, as in Keras' datasets, and optionally `class_names`.

`numpy.load` allocates the size that an entry claims. Here the claimed sizes are checked against each other before
anything is allocated, the size of the arrays is bounded, and no array of Python objects is read.
"""

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np

from cifar_flax.data.dataset import MAX_CLASSES, Source, Split, are_class_names
from cifar_flax.errors import BadInput, in_one_line

MAX_BYTES = 8 * 2**30  # of all arrays together, which are kept in memory; CIFAR-10 has 180 million
MAX_READ_BYTES = 2**20  # at once; only a zip's list of entries could need more
ENTRIES = ("x_train", "y_train", "x_test", "y_test", "class_names")


def load(path: Path) -> Source:
    """Reads images [N, H, W, C] or [N, H, W] uint8 and integer labels [N] or [N, 1] from 0.

    Raises:
        BadInput: names the file, the entry and what is wrong with it.
    """
    if not path.exists():
        raise BadInput(f"config.dataset: {path} does not exist")
    arrays = _read(path)
    train, test = (Split(_images(path, f"x_{s}", arrays), _labels(path, f"y_{s}", arrays)) for s in ("train", "test"))
    for name, split in (("train", train), ("test", test)):
        if len(split.images) != len(split.labels):
            _reject(path, f"x_{name}", f"has {len(split.images)} images, but y_{name} has {len(split.labels)} labels")
    if train.images.shape[1:] != test.images.shape[1:]:
        _reject(path, "x_test", f"has images of shape {test.images.shape[1:]}, but x_train {train.images.shape[1:]}")
    names = _names(path, arrays, int(train.labels.max()) + 1)
    if test.labels.max() >= len(names):
        _reject(path, "y_test", f"has the label {test.labels.max()}, which y_train does not have")
    return Source(train, test, names)


class _File(io.FileIO):
    """A file that raises ValueError if more than MAX_READ_BYTES are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        size = MAX_READ_BYTES + 1 if size is None or size < 0 else min(size, MAX_READ_BYTES + 1)
        content = super().read(size) or b""
        if len(content) > MAX_READ_BYTES:
            raise ValueError("the list of entries is too long")
        return content


def _read(path: Path) -> dict[str, np.ndarray]:
    """The entries of the file that are named in ENTRIES."""
    try:
        if not path.is_file():  # a pipe would block
            raise ValueError("not a regular file")
        with warnings.catch_warnings(), _File(path) as file, zipfile.ZipFile(file) as stored:
            warnings.simplefilter("error")  # NumPy warns where it has to guess
            arrays: dict[str, np.ndarray] = {}
            for entry in ENTRIES:
                if f"{entry}.npy" in stored.namelist():
                    arrays[entry] = _array(stored, entry, MAX_BYTES - sum(array.nbytes for array in arrays.values()))
            return arrays
    except Exception as error:  # zipfile and NumPy raise almost anything for a damaged file
        raise BadInput(
            f"config.dataset: {path} is not a readable .npz of plain arrays ({in_one_line(error)})"
        ) from error


def _array(stored: zipfile.ZipFile, entry: str, max_bytes: int) -> np.ndarray:
    """Reads an entry after checking that its claimed size is true and at most `max_bytes`.

    Raises:
        ValueError: the entry cannot be used. A damaged zip or header can raise almost anything else.
    """
    info = stored.getinfo(f"{entry}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry} is compressed with a method that NumPy does not use")
    with stored.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{entry} is not a plain array")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        stored_bytes = info.file_size - file.tell()
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise ValueError(f"{entry} is not an array of numbers or strings")
    if min(shape, default=0) < 0 or size != stored_bytes:
        raise ValueError(f"{entry} claims {dtype} {list(shape)}, {size} bytes, but has {stored_bytes}")
    if size > max_bytes:
        raise ValueError(f"{entry} has {size} bytes, more than the {max_bytes} that remain of {MAX_BYTES}")
    with stored.open(info) as file:
        return np.lib.format.read_array(file)


def _reject(path: Path, entry: str, problem: str) -> NoReturn:
    raise BadInput(f"config.dataset: {path}: {entry} {problem}")


def _names(path: Path, arrays: dict[str, np.ndarray], num_classes: int) -> tuple[str, ...]:
    """The class names. Without an entry for them, the class numbers."""
    stored = arrays.get("class_names", np.arange(num_classes).astype(str))
    if stored.ndim != 1 or stored.dtype.kind != "U" or len(stored) > MAX_CLASSES:
        _reject(path, "class_names", f"is {stored.dtype} {list(stored.shape)}, not strings [K]")
    try:
        names = tuple(stored.tolist())
    except (ValueError, SystemError):  # not valid characters
        names = ()
    if len(names) < num_classes or not are_class_names(names):
        _reject(
            path, "class_names", f"does not name the {num_classes} classes of y_train with distinct one-line strings"
        )
    return names


def _images(path: Path, entry: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if entry not in arrays:
        _reject(path, entry, f"is missing; the file has {', '.join(arrays) or 'no entries'}")
    images = arrays[entry]
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        _reject(path, entry, f"is {arrays[entry].dtype} {list(arrays[entry].shape)}, not images [N, H, W, C] uint8")
    return images


def _labels(path: Path, entry: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if entry not in arrays:
        _reject(path, entry, f"is missing; the file has {', '.join(arrays) or 'no entries'}")
    labels = arrays[entry]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or labels.size == 0
        or labels.min() < 0
        or labels.max() >= MAX_CLASSES
    ):
        _reject(path, entry, f"is {labels.dtype} {list(labels.shape)}, not integer labels [N] from 0")
    return labels.astype(np.int32)
