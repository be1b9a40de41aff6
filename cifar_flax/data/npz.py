"""A `.npz` with `x_train y_train x_test y_test`, as Keras' datasets are stored; `class_names` may be added."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from cifar_flax.data.dataset import Source, Split
from cifar_flax.errors import BadInput


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
    num_classes = int(train.labels.max()) + 1
    names = tuple(map(str, arrays.get("class_names", range(num_classes))))
    if len(names) < num_classes or test.labels.max() >= len(names):
        _refuse(
            path, "y_test" if len(names) >= num_classes else "class_names", "does not go with the labels of y_train"
        )
    return Source(train, test, names)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise BadInput(f"config.dataset: {path} is one array, not a .npz")
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise BadInput(f"config.dataset: {path} is no readable .npz of plain arrays ({error})") from error


def _refuse(path: Path, entry: str, what: str) -> None:
    raise BadInput(f"config.dataset: {path}: {entry} {what}")


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
        or labels.max() > 9_999
    ):
        _refuse(path, entry, f"is {labels.dtype} {list(labels.shape)}, not labels [N] of whole numbers from 0")
    return labels.astype(np.int32)
