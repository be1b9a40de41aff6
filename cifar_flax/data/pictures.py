"""Reads pictures of any size and bit depth as the images that a network takes."""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, in_one_line, printable, warn

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow decodes some others by running programs
SUFFIXES: tuple[str, ...] = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUFFIXES += (".apng", ".pbm", ".pfm", ".pgm", ".pnm", ".ppm")
SUFFIXES += (".avif", ".heic", ".heif")  # cannot be read, but are reported instead of skipped
MAX_BYTES = 2**29  # of a file
MAX_PIXELS = 60_000_000  # takes up to 0.9 GiB and two seconds; Pillow's own limit is 1.5 times as high
WHITE_IS_ZERO = 0  # a photometric interpretation of TIFF
MAX_DARK = 15  # of 255: the most that a value of 12 bits or fewer, stored in 16, can give


def list_pictures(path: str) -> list[str]:
    """The path itself, or, if it is a folder, the pictures in it and in its subfolders, by suffix, in sorted order.

    Hidden files and folders are skipped: they hold previews, and macOS stores attributes of a.jpg in ._a.jpg. A
    subfolder that cannot be listed counts as a picture, so that `read_image` reports it.

    Raises:
        BadInput: the folder contains no pictures.
    """
    folder = read_path(path, "IMAGE")
    if not os.path.isdir(folder):  # noqa: PTH112, also False for a name that is too long
        return [path]
    pictures: list[Path] = []
    unlisted: list[OSError] = []
    visited = {folder.resolve()}
    for parent, folders, files in os.walk(folder, onerror=unlisted.append, followlinks=True):
        pictures += [Path(parent, name) for name in _visible(files) if Path(name).suffix.lower() in SUFFIXES]
        targets = {name: Path(parent, name).resolve() for name in _visible(folders)}
        folders[:] = [name for name, target in targets.items() if target not in visited]  # a link may lead upward
        visited |= set(targets.values())
    pictures += [Path(error.filename) for error in unlisted]
    if not pictures:
        raise BadInput(f"{printable(path)}: the folder contains no pictures; name a picture, or a folder with some")
    below = (str(picture.relative_to(folder)) for picture in sorted(pictures))
    return [os.path.join(path, name) for name in below]  # noqa: PTH118, keeps the path as it was typed


def _visible(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


def read_image(path: str | Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A picture of any size as the network takes it: [H, W, C] uint8.

    The picture is rotated upright (EXIF), composited on white if it is transparent, resized to just cover H x W, and
    cropped to its center. A picture that already has this size is not changed. An animation is read as its first frame.
    Gray values of more than 8 bits are scaled (`_eight_bit`).

    Raises:
        BadInput: the file is missing, is not a picture, is truncated or is too large to be decoded safely, or the value
            of white is ambiguous.
    """
    height, width, channels = image_shape
    check_channels(channels)
    file, name = read_path(path, "IMAGE"), printable(str(path))
    try:
        image = _flat(_load(file, name), "L" if channels == 1 else "RGB", name)
        # averages when shrinking, so that an image that was enlarged pixel by pixel is restored exactly
        shrinks = image.width >= width and image.height >= height
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    except BadInput:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        raise BadInput(f"{name}: not a readable image ({in_one_line(error)})") from error
    return np.asarray(fitted, np.uint8).reshape(image_shape)


def check_channels(channels: int) -> None:
    """Raises BadInput if pictures cannot be read with this number of channels."""
    if channels not in (1, 3):
        raise BadInput(
            f"--workdir: the run's images have {channels} channels, and only 1 or 3 can be read from pictures"
        )


def _load(path: Path, name: str) -> Image.Image:
    """Decodes a file, which messages call `name`."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # a pipe would block
        raise ValueError(f"not a regular file of at most {MAX_BYTES} bytes")
    with warnings.catch_warnings(), _silent_stderr():
        warnings.simplefilter("ignore")  # Pillow's, about images that it can read
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            is_deep = ";16" in str(image.tile)
            image.load()
    if is_deep and image.mode in ("RGB", "RGBA") and np.max(image.getextrema()[:3]) <= MAX_DARK:
        warn(
            f"{name}: almost black, because its colors use less than a sixteenth of the 16-bit range; if they were "
            "recorded with fewer bits, save it with 8 bits per color"
        )
    return image


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides what libtiff writes to the stderr of the process, which Python cannot catch."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _flat(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Rotates upright, removes transparency and converts to 8 bits, with as few copies as possible."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image, name)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Converts gray values of 16 bits, 32 bits or floats to 8 bits by scaling; Pillow's own conversion clips them.

    - Integers: white is the largest value of 8, 12 or 16 bits, whichever is the first that no value exceeds. Cameras
      and scanners often store their values in 16 bits without scaling them, and would give a black image. The picture
      may also be a dark one of 16 bits, so a warning is printed if 12 bits are assumed.
    - Floats: white is 1 if no value exceeds it, otherwise 255. A maximum between 1 and 16 is ambiguous.

    Raises:
        BadInput: a value is negative, not a number, or above these ranges, or the value of white is ambiguous.
    """
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    whites = (1.0, 255.0) if image.mode == "F" else (255.0, 4_095.0, 65_535.0)
    white = next((white for white in whites if high <= white), None)
    if white is None or not low >= 0 or (image.mode == "F" and 1 < high < 16):
        raise BadInput(
            f"{name}: its values are {low:g} to {high:g}, and it is not clear which is black and which is white; "
            "save it with 8 bits per color"
        )
    if white == 4_095:
        warn(f"{name}: no value exceeds {high:g}, so they are read as 12 bits, with white at 4095")
    scaled = np.multiply(pixels, 255 / white, dtype=np.float32)
    scaled = np.rint(scaled, out=scaled).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:  # Pillow inverts only 8 bits
        scaled = 255 - scaled
    return Image.fromarray(scaled)
