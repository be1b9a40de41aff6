"""Reads sets of test images in `.npy` files as their authors publish them. The files are memory-mapped.

CIFAR-10.1 (Recht et al., 2018, github.com/modestyachts/CIFAR-10.1) is a pair of files for each version, such as
`cifar10.1_v6_data.npy` and `cifar10.1_v6_labels.npy`. CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, 2019,
doi.org/10.5281/zenodo.2535967) are a folder each, with a file for each corruption, such as `fog.npy`, in which the
severities 1 to 5 of all images follow each other, and `labels.npy`.
"""

import contextlib
import itertools
import re
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_flax.data.corruptions import BENCHMARK, EXTRA, SEVERITIES
from cifar_flax.data.dataset import MAX_CLASSES, Split
from cifar_flax.data.paths import listed
from cifar_flax.data.pictures import is_visible
from cifar_flax.errors import BadInput, in_one_line, printable

PAIR = re.compile(r"(.+)_(data|labels)\.npy")
LABELS = "labels.npy"
MAX_LISTED = 1000  # entries of a folder to look at


class NpySet(NamedTuple):
    """The files of a set.

    Attributes:
        path: the file or folder that a user can name.
        labels: the file of the labels.
        images: the file of the images of each corruption; without corruptions, the file under the name "".
    """

    path: Path
    labels: Path
    images: dict[str, Path]


def find(path: Path) -> NpySet | None:
    """The set that a file belongs to, or the one in a folder or in its subfolders; None: there is none.

    The file of one corruption stands for that corruption alone, and `labels.npy` for all of its folder.

    Raises:
        BadInput: there are several.
    """
    with contextlib.suppress(OSError):  # what cannot be listed is reported by `locate`
        if path.is_file() and path.suffix == ".npy":
            pair = PAIR.fullmatch(path.name)
            if path.name == LABELS:
                return _corrupted(path.parent)
            return _pair(path.parent, pair[1]) if pair else NpySet(path, path.with_name(LABELS), {path.stem: path})
        if path.is_dir():
            below = [entry for entry in itertools.islice(path.iterdir(), MAX_LISTED) if is_visible(entry.name)]
            return _only(path, _sets_in(path)) or _only(path, [found for folder in below for found in _sets_in(folder)])
    return None


def is_complete(found: NpySet) -> bool:
    """Whether there are images and labels, so that the files are hardly left over from something else."""
    return bool(found.images) and all(path.is_file() for path in (found.labels, *found.images.values()))


def _only(path: Path, found: list[NpySet]) -> NpySet | None:
    if len(found) > 1 and any(map(is_complete, found)):
        named = (each.labels if each.path == path else each.path for each in found)
        names = listed(sorted(str(each.relative_to(path)) for each in named))
        raise BadInput(printable(f"--on: {path} holds {len(found)} sets of images; name one of them: {names}"))
    return found[0] if found else None


def _sets_in(folder: Path) -> list[NpySet]:
    names: list[str] = []
    with contextlib.suppress(OSError):  # another folder may hold the set
        if folder.is_dir():
            names = [entry.name for entry in itertools.islice(folder.iterdir(), MAX_LISTED) if is_visible(entry.name)]
    pairs = sorted({pair[1] for pair in map(PAIR.fullmatch, names) if pair})
    known = {LABELS, *(f"{corruption}.npy" for corruption in (*BENCHMARK, *EXTRA))}
    found = [_pair(folder, stem) for stem in pairs]
    return [*found, _corrupted(folder)] if known.intersection(names) else found


def _pair(folder: Path, stem: str) -> NpySet:
    images = folder / f"{stem}_data.npy"
    return NpySet(images, folder / f"{stem}_labels.npy", {"": images})


def _corrupted(folder: Path) -> NpySet:
    try:
        paths = [path for path in folder.iterdir() if path.suffix == ".npy" and is_visible(path.name)]
    except OSError as error:
        raise BadInput(printable(f"--on: {folder} cannot be listed ({error.strerror}); name a file in it")) from error
    files = [path for path in paths if not PAIR.fullmatch(path.name)]
    return NpySet(folder, folder / LABELS, {path.stem: path for path in files if path.name != LABELS})


def read(found: NpySet) -> dict[tuple[str, int], Split]:
    """The images by corruption and severity; without corruptions, all of them under ("", 0).

    Raises:
        BadInput: names the file and what is wrong with it.
    """
    if not found.images:
        raise _rejected(found.path, f"has {LABELS}, but no file of a corruption such as fog.npy; download it again")
    labels = _labels(found.labels)
    splits = {}
    for corruption, path in found.images.items():
        images = _images(path)
        if corruption:
            _check_severities(path, images, found.labels, labels)
        elif len(images) != len(labels):
            counts = f"has {len(images)} images, but {found.labels.name} has {len(labels)} labels"
            raise _rejected(path, f"{counts}; download both again")
        count = len(labels) // len(SEVERITIES)
        parts = {severity: slice(index * count, (index + 1) * count) for index, severity in enumerate(SEVERITIES)}
        for severity, rows in parts.items() if corruption else [(0, slice(None))]:
            splits[corruption, severity] = Split(images[rows], labels[rows])
    return splits


def _check_severities(path: Path, images: np.ndarray, labels_path: Path, labels: np.ndarray) -> None:
    """Raises BadInput unless images and labels are five severities of the same test images."""
    count, remainder = divmod(len(labels), len(SEVERITIES))
    if remainder or (labels.reshape(len(SEVERITIES), -1) != labels[:count]).any():
        problem = f"has {len(labels)} labels, which are not those of {len(SEVERITIES)} severities of the same images"
        plain = "if the set has no severities, name its files X_data.npy and X_labels.npy"
        raise _rejected(labels_path, f"{problem}; download it again or, {plain}")
    if len(images) != len(labels):
        wanted = f"{len(labels)} labels, for {len(SEVERITIES)} severities of {count} images"
        raise _rejected(path, f"has {len(images)} images, but {labels_path.name} has {wanted}; download it again")


def _rejected(path: Path, problem: str) -> BadInput:
    return BadInput(printable(f"--on: {path} {problem}"))


def _images(path: Path) -> np.ndarray:
    """[N, H, W, C] uint8."""
    images = _mapped(path)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        found = f"{images.dtype} {list(images.shape)}"
        wanted = "images [N, H, W, C] uint8 with pixels from 0 to 255"
        raise _rejected(path, f"is {found}, not {wanted}; download it again, or move it if it is not of the set")
    return images


def _labels(path: Path) -> np.ndarray:
    """[N] int32."""
    labels = _mapped(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise _rejected(path, f"is {labels.dtype} {list(labels.shape)}, not integer labels [N]; download it again")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        found = f"has labels from {labels.min()} to {labels.max()}"
        raise _rejected(path, f"{found}, not from 0 to at most {MAX_CLASSES - 1}; download it again")
    return labels.astype(np.int32)


def _mapped(path: Path) -> np.ndarray:
    """The array in a `.npy`, without reading its content. Arrays of Python objects, which are pickles, are refused."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            raise ValueError("not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns where it has to guess
            # such a header is read correctly, only slower
            warnings.filterwarnings("ignore", message=".*created on Python 2", category=UserWarning)
            return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except FileNotFoundError as error:
        raise _rejected(path, "is missing; download it again") from error
    except PermissionError as error:
        raise _rejected(path, "may not be read by this user; change its permissions") from error
    except Exception as error:  # NumPy raises almost anything for a damaged header
        raise _rejected(path, f"is not a readable .npy of numbers ({in_one_line(error)}); download it again") from error
