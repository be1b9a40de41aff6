"""A `.npz` with `x_train y_train x_test y_test`, as Keras' datasets are stored; `class_names` may be added.

`numpy.load` allocates what an entry claims. Here the claims are compared with each other before anything is allocated,
what an array may take is bounded, and no array of Python objects is read.
"""

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np

from cifar_flax.data.dataset import MOST_CLASSES, Source, Split, are_class_names
from cifar_flax.errors import BadInput, in_one_line

LARGEST = 8 * 2**30  # bytes of all arrays together, which are kept in memory; CIFAR-10 has 180 million
DIRECTORY = 2**20  # bytes that are read at once; only the list of a zip's entries could ask for more
ENTRIES = ("x_train", "y_train", "x_test", "y_test", "class_names")


def load(path: Path) -> Source:
    """Images [N, H, W, C] or [N, H, W] uint8 and labels [N] or [N, 1] of whole numbers from 0.

    Raises:
        BadInput: names the file, the entry and what is wrong with it.
    """
    if not path.exists():
        raise BadInput(f"config.dataset: there is no {path}")
    arrays = _read(path)
    train, test = (Split(_images(path, f"x_{s}", arrays), _labels(path, f"y_{s}", arrays)) for s in ("train", "test"))
    for name, split in (("train", train), ("test", test)):
        if len(split.images) != len(split.labels):
            _refuse(path, f"x_{name}", f"has {len(split.images)} images, and y_{name} {len(split.labels)} labels")
    if train.images.shape[1:] != test.images.shape[1:]:
        _refuse(path, "x_test", f"has images {test.images.shape[1:]}, and x_train {train.images.shape[1:]}")
    names = _names(path, arrays, int(train.labels.max()) + 1)
    if test.labels.max() >= len(names):
        _refuse(path, "y_test", "does not go with the labels of y_train")
    return Source(train, test, names)


class _File(io.FileIO):
    """A file of which no piece is read that is larger than it should be."""

    def read(self, size: int | None = -1, /) -> bytes:
        asked = DIRECTORY + 1 if size is None or size < 0 else min(size, DIRECTORY + 1)
        content = super().read(asked) or b""
        if len(content) > DIRECTORY:
            raise ValueError("its list of entries is too long")
        return content


def _read(path: Path) -> dict[str, np.ndarray]:
    """The entries that are there."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        with warnings.catch_warnings(), _File(path) as file, zipfile.ZipFile(file) as stored:
            warnings.simplefilter("error")  # numpy's, of what it had to guess
            arrays: dict[str, np.ndarray] = {}
            for entry in ENTRIES:
                if f"{entry}.npy" in stored.namelist():
                    arrays[entry] = _array(stored, entry, LARGEST - sum(array.nbytes for array in arrays.values()))
            return arrays
    except Exception as error:  # of a damaged file, zipfile and numpy raise almost anything
        raise BadInput(f"config.dataset: {path} is no readable .npz of plain arrays ({in_one_line(error)})") from error


def _array(stored: zipfile.ZipFile, entry: str, room: int) -> np.ndarray:
    """The array of an entry, once what it claims is known to be true and to fit into `room` bytes.

    Raises:
        ValueError, and almost anything that a damaged zip or header leads to.
    """
    info = stored.getinfo(f"{entry}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry} is compressed in another way than numpy compresses")
    with stored.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{entry} is no plain array")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        follow = info.file_size - file.tell()
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise ValueError(f"{entry} is no array of numbers or texts")
    if min(shape, default=0) < 0 or size != follow:
        raise ValueError(f"{entry} claims {dtype} {list(shape)}, {size} bytes, and has {follow}")
    if size > room:
        raise ValueError(f"{entry} has {size} bytes, more than the {room} that remain of {LARGEST}")
    with stored.open(info) as file:
        return np.lib.format.read_array(file)


def _refuse(path: Path, entry: str, what: str) -> NoReturn:
    raise BadInput(f"config.dataset: {path}: {entry} {what}")


def _names(path: Path, arrays: dict[str, np.ndarray], num_classes: int) -> tuple[str, ...]:
    """The classes' names; their numbers where there are none."""
    stored = arrays.get("class_names", np.arange(num_classes).astype(str))
    if stored.ndim != 1 or stored.dtype.kind != "U" or len(stored) > MOST_CLASSES:
        _refuse(path, "class_names", f"is {stored.dtype} {list(stored.shape)}, not texts [K]")
    try:
        names = tuple(stored.tolist())
    except (ValueError, SystemError):  # no such characters
        names = ()
    if len(names) < num_classes or not are_class_names(names):
        _refuse(path, "class_names", f"does not name the {num_classes} classes of y_train, each by another text")
    return names


def _images(path: Path, entry: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if entry not in arrays:
        _refuse(path, entry, f"is missing; there are {', '.join(arrays) or 'no entries'}")
    images = arrays[entry]
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        _refuse(path, entry, f"is {arrays[entry].dtype} {list(arrays[entry].shape)}, not images [N, H, W, C] uint8")
    return images


def _labels(path: Path, entry: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if entry not in arrays:
        _refuse(path, entry, f"is missing; there are {', '.join(arrays) or 'no entries'}")
    labels = arrays[entry]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or labels.size == 0
        or labels.min() < 0
        or labels.max() >= MOST_CLASSES
    ):
        _refuse(path, entry, f"is {labels.dtype} {list(labels.shape)}, not labels [N] of whole numbers from 0")
    return labels.astype(np.int32)
