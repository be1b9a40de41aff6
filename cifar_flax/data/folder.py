"""Reads a folder of pictures with a subfolder for each class: `train/CLASS/*.png` and `test/CLASS/*.jpg`.

The validation images are in `val/CLASS` or `validation/CLASS`. Without a folder `train`, the class folders are in the
folder itself and hold the training images, as for Keras' `image_dataset_from_directory` or torchvision's `ImageFolder`.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_flax.data import cache, decoding, pixels
from cifar_flax.data.dataset import MAX_CLASSES, Options, Source, Split, are_class_names
from cifar_flax.data.paths import listed
from cifar_flax.data.pictures import is_picture, is_visible, list_folder, path_to
from cifar_flax.data.split import stratified_order
from cifar_flax.errors import BadInput, printable, warn

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF)})(?![a-z])", re.IGNORECASE)
MAX_FOLDERS = 1000  # to look into for a picture
HASHED_TOGETHER = 64  # files
MIN_THREADED_BYTES = 2**16  # per file; with smaller ones, threads wait for each other


class _Listed(NamedTuple):
    """The pictures of a split: their paths, their labels [N] int32, and the other files in the class folders."""

    paths: list[Path]
    labels: np.ndarray
    others: list[str]


def find(folder: Path) -> Path | None:
    """The folder that contains `train` or the class folders: the given one, or one in it; None: no pictures.

    Raises:
        OSError: the folder cannot be listed.
        BadInput: several folders in it have a folder `train`.
    """
    subfolders = [path for path in _subfolders(folder) if _has_pictures(path)]
    if not subfolders:  # pictures without classes, which `load` rejects
        names = [path.name for path in folder.iterdir() if is_visible(path.name)]
        return folder if names and all(map(is_picture, names)) else None
    if any(map(_split_of, subfolders)):
        return folder
    datasets = [path for path in subfolders if "train" in map(_split_of, _subfolders(path))]
    if len(datasets) > 1:
        names = [path.name for path in datasets]
        raise _rejected(f"{folder} holds {len(datasets)} datasets; name one of its folders: {listed(names)}")
    if len(_subfolders(folder)) == 1 and not _stray_pictures(folder) + _stray_pictures(subfolders[0]):
        return subfolders[0]  # the class folders are one level down
    return datasets[0] if datasets else folder


def load(path: Path, options: Options) -> Source:
    """Reads the images, which are gray if all pictures are. The classes are in alphabetical order.

    Validation and test images are in the order of their paths. The classes of the training images are mixed.

    Raises:
        BadInput: names the file or folder and what is wrong with it.
    """
    options.refuse("label", source="a folder of pictures")
    try:
        folders = _split_folders(path)
        class_names = _class_names(folders["train"])
        splits = {split: _list(folder, class_names, split) for split, folder in folders.items()}
    except OSError as error:
        raise _unreadable(path, error) from error
    if others := [file for listing in splits.values() for file in listing.others]:
        warn(f"config.dataset: {len(others)} files are not pictures and are ignored, such as {others[0]}")
    paths, labels, _ = splits["train"]
    order = stratified_order(labels)
    splits["train"] = _Listed([paths[row] for row in order], labels[order], [])
    key = _fingerprint(splits, class_names, options.image_size)
    return cache.load_or_build("pictures", key, lambda: _decode(splits, class_names, options.image_size))


def test_folder(path: Path) -> Path | None:
    """The folder of the test images, if it has class folders, in one that `find` returned.

    Raises:
        BadInput: a folder cannot be read.
    """
    try:
        folders = [folder for folder in _subfolders(path) if _split_of(folder) == "test"]
        return folders[0] if len(folders) == 1 and _subfolders(folders[0]) else None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BadInput:
    return _rejected(f"{error.filename or path} cannot be read ({error.strerror})")


def _rejected(problem: str) -> BadInput:
    return BadInput(printable(f"config.dataset: {problem}"))


def _subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, except links that lead upward."""
    above = path_to(folder)
    folders = sorted(path for path in folder.iterdir() if is_visible(path.name) and path.is_dir())
    return [path for path in folders if not path.is_symlink() or path.resolve() not in above]


def _has_pictures(folder: Path) -> bool:
    """Whether a picture is in a folder or below."""
    for _, folders, files in itertools.islice(os.walk(folder, followlinks=True), MAX_FOLDERS):
        if any(map(is_picture, filter(is_visible, files))):
            return True
        folders[:] = filter(is_visible, folders)
    return False


def _stray_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder that should only contain class folders."""
    pictures = sorted(path for path in folder.iterdir() if is_visible(path.name) and is_picture(path.name))
    return [path for path in pictures if not path.is_dir()]


def _split_of(folder: Path) -> str | None:
    """The split that a folder is named after."""
    return SPLIT_OF.get(folder.name.lower())


def _split_folders(path: Path) -> dict[str, Path]:
    """The folder of each split."""
    folders: dict[str, Path] = {}
    ignored = []
    for folder in _subfolders(path):
        split = _split_of(folder)
        if split is None:
            ignored.append(folder)
        elif split in folders:
            raise _rejected(f"{path} holds both {folders[split].name} and {folder.name}; remove or rename one of them")
        else:
            folders[split] = folder
    ignored = [folder for folder in ignored if _has_pictures(folder)]
    if not folders or (ignored and not any(map(_subfolders, folders.values()))):  # a class may be called train
        _refuse_splits(path, [*folders.values(), *ignored])
        return {"train": path}
    if "train" not in folders:
        names = listed([folder.name for folder in folders.values()])
        raise _rejected(f"{path} holds {names}, but no train; name the folders train/CLASS, test/CLASS and val/CLASS")
    if ignored:
        names = listed([folder.name for folder in ignored])
        warn(f"config.dataset: {path}: these folders are no train, test or val, and are ignored: {names}")
    return folders


def _refuse_splits(path: Path, classes: Sequence[Path]) -> None:
    """Raises BadInput if class folders are called like splits, such as seg_train and seg_test."""
    names = sorted(folder.name for folder in classes if SPLIT_WORD.search(folder.name))
    if len(names) > 1:
        raise _rejected(f"{path} holds {listed(names)}, which look like splits; name them train, test and val")


def _class_folders(folder: Path) -> list[Path]:
    """The folders of the classes in the folder of a split."""
    advice = f"move the pictures of each class to a folder of its own: {folder / 'CLASS'}"
    folders = _subfolders(folder)
    if strays := _stray_pictures(folder):
        raise _rejected(f"{strays[0]} belongs to no class; {advice}")
    if not folders:
        raise _rejected(f"{folder} has no class folders; {advice}")
    return folders


def _class_names(folder: Path) -> tuple[str, ...]:
    """The names of the classes, from the folder of the training images."""
    names = tuple(path.name for path in _class_folders(folder))
    if wrong := [name for name in names if not are_class_names([name])]:
        raise _rejected(f"{folder / wrong[0]} cannot name a class; rename it to at most 100 printable characters")
    if len(names) > MAX_CLASSES:
        raise _rejected(f"{folder} has {len(names)} class folders, more than {MAX_CLASSES}")
    return names


def _list(folder: Path, class_names: Sequence[str], split: str) -> _Listed:
    """Lists the pictures of a split by class. Only the training images need to have all classes."""
    paths: list[Path] = []
    labels: list[int] = []
    others: list[str] = []
    for class_folder in _class_folders(folder):
        if class_folder.name not in class_names:
            known = listed(class_names)
            raise _rejected(f"{class_folder} is not a class of the training images, which are {known}; rename it")
        listing = list_folder(class_folder)
        if split == "train" and not listing.pictures:
            raise _rejected(f"{class_folder} contains no pictures; add some, or remove the folder")
        paths += map(Path, listing.pictures)
        labels += [class_names.index(class_folder.name)] * len(listing.pictures)
        others += listing.others
    if not paths:
        raise _rejected(f"{folder} contains no pictures; add some, or remove the folder")
    return _Listed(paths, np.array(labels, np.int32), others)


def _fingerprint(splits: dict[str, _Listed], class_names: Sequence[str], image_size: int | None) -> str:
    """A hash of everything that determines the arrays, but not of the names and places of the files."""
    described = repr(
        (cache.FORMAT, image_size, class_names, [(split, len(rows.paths)) for split, rows in splits.items()])
    )
    checksum = hashlib.sha256(described.encode())
    paths = _paths(splits)
    chunks = [paths[start : start + HASHED_TOGETHER] for start in range(0, len(paths), HASHED_TOGETHER)]
    threads_help = decoding.mean_bytes(paths) > MIN_THREADED_BYTES
    with ThreadPoolExecutor(decoding.num_cpus() if threads_help else 1) as threads:
        for digests in threads.map(_digests, chunks):
            checksum.update(digests)
    for listing in splits.values():
        checksum.update(listing.labels.tobytes())
    return checksum.hexdigest()[:16]


def _paths(splits: dict[str, _Listed]) -> list[Path]:
    return [path for listing in splits.values() for path in listing.paths]


def _digests(paths: Sequence[Path]) -> bytes:
    return b"".join(map(_digest, paths))


def _digest(path: Path) -> bytes:
    """The checksum of a file; of nothing if it cannot be read, which the decoder reports."""
    try:
        pixels.check_file(path)
        return hashlib.sha256(path.read_bytes()).digest()
    except (OSError, ValueError):
        return bytes(hashlib.sha256().digest_size)


def _decode(splits: dict[str, _Listed], class_names: tuple[str, ...], image_size: int | None) -> Source:
    paths = _paths(splits)
    try:
        images = decoding.decode(paths, [str(path) for path in paths], image_size)
    except decoding.SizesDiffer as error:
        if "test" in splits:
            raise
        advice = "there is no test split, so --config.test_share=0.2 or another fraction is needed as well"
        raise BadInput(f"{error}; {advice}") from error
    read, start = {}, 0
    for split, (_, labels, _) in splits.items():
        read[split] = Split(images[start : start + len(labels)], labels)
        start += len(labels)
    return Source(read["train"], read.get("test"), class_names, read.get("validation"))
