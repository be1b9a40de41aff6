"""Finds pictures in folders, and reads them as the images that a network takes."""

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_flax.data import pixels
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, printable, warn

SUFFIXES: tuple[str, ...] = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUFFIXES += (".apng", ".pbm", ".pfm", ".pgm", ".pnm", ".ppm")
SUFFIXES += (".avif", ".heic", ".heif")  # cannot be read, but are reported instead of skipped
SYSTEM_FILES = ("__MACOSX", "Thumbs.db", "desktop.ini")  # written by file managers; others begin with a dot


class Listing(NamedTuple):
    """The visible files below a folder, in sorted order.

    Attributes:
        pictures: those with a suffix of a picture, and subfolders that cannot be listed, so that reading reports them.
        others: all others.
    """

    pictures: list[str]
    others: list[str]


def list_folder(folder: Path) -> Listing:
    """Lists a folder and its subfolders. Links are followed, but not upward, and no folder is listed twice.

    Hidden files and folders are skipped: they hold previews, and macOS stores attributes of a.jpg in ._a.jpg.
    """
    pictures: list[str] = []
    others: list[str] = []
    visited = {str(path) for path in (*path_to(folder), *path_to(folder.parent))}  # folder may be a link

    def add_unlisted(error: OSError) -> None:
        pictures.append(error.filename)

    for parent, folders, files in os.walk(folder, onerror=add_unlisted, followlinks=True):
        for name in filter(is_visible, files):
            (pictures if is_picture(name) else others).append(f"{parent}{os.sep}{name}")
        paths = [f"{parent}{os.sep}{name}" for name in filter(is_visible, folders)]
        folders.clear()
        for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):  # noqa: PTH114, a link comes second
            if (target := os.path.realpath(path)) not in visited:
                visited.add(target)
                folders.append(os.path.basename(path))  # noqa: PTH119, faster than a Path
    pictures.sort(key=_parts)
    others.sort(key=_parts)
    return Listing(pictures, others)


def path_to(folder: Path) -> tuple[Path, ...]:
    """The folder and all folders above it, without links."""
    resolved = folder.resolve()
    return resolved, *resolved.parents


def _parts(path: str) -> list[str]:
    return path.split(os.sep)  # noqa: PTH206, faster than a Path


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a picture."""
    return name.lower().endswith(SUFFIXES)


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in SYSTEM_FILES


def list_pictures(path: str) -> list[str]:
    """The path itself, or, if it is a folder, the pictures in it and in its subfolders (`list_folder`).

    Raises:
        BadInput: the folder contains no pictures.
    """
    folder = read_path(path, "IMAGE")
    if not os.path.isdir(folder):  # noqa: PTH112, also False for a name that is too long
        return [path]
    pictures = list_folder(folder).pictures
    if not pictures:
        raise BadInput(f"{printable(path)}: the folder contains no pictures; name a picture, or a folder with some")
    below = (os.path.relpath(picture, folder) for picture in pictures)
    return [os.path.join(path, name) for name in below]  # noqa: PTH118, keeps the path as it was typed


def read_image(source: str | Path | bytes, image_shape: tuple[int, int, int], name: str | None = None) -> np.ndarray:
    """A picture of any size, given as its path or as the content of its file, as the network takes it: [H, W, C] uint8.

    It is decoded, resized and cropped as `pixels.read` describes. Messages call it `name`, by default its path.

    Raises:
        BadInput: the file cannot be read as a picture, or the value of white is ambiguous.
    """
    height, width, channels = image_shape
    check_channels(channels)
    file = io.BytesIO(source) if isinstance(source, bytes) else read_path(source, "IMAGE")
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    try:
        with pixels.hidden_warnings():
            picture = pixels.read(file, "L" if channels == 1 else "RGB", (width, height))
    except pixels.Unreadable as error:
        raise BadInput(printable(f"{name}: {error}")) from error
    if picture.remark:
        warn(f"{name}: {picture.remark}")
    return np.asarray(picture.image).reshape(image_shape)


def check_channels(channels: int) -> None:
    """Raises BadInput if pictures cannot be read with this number of channels."""
    if channels not in (1, 3):
        raise BadInput(
            f"--workdir: the run's images have {channels} channels, and only 1 or 3 can be read from pictures"
        )
