"""Decodes pictures with Pillow, in this process or in one that only imports this file.

The file imports nothing of the package, so that a process of `decoding` starts in 50 ms. It decodes the pictures that
it receives on stdin, and ends when stdin is closed.
"""

import contextlib
import io
import marshal
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow decodes some others by running programs
MAX_BYTES = 2**29  # of a file
MAX_PIXELS = 60_000_000  # takes up to 0.9 GiB and two seconds; Pillow's own limit is 1.5 times as high
MAX_DARK = 15  # of 255: the most that a value of 12 bits or fewer, stored in 16, can give
PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 262, 0  # a tag of TIFF and one of its values

READY = "ready"  # the first message of a process

Size = tuple[int, int]  # width and height

_stderr_lock = threading.Lock()


class Unreadable(Exception):
    """A picture that cannot be decoded safely, or whose white is ambiguous. The message does not name the picture."""


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        image: upright, without transparency, with 8 bits per color.
        is_gray: whether the file stores gray values only.
        remark: a warning, or "".
    """

    image: Image.Image
    is_gray: bool
    remark: str


class Chunk(NamedTuple):
    """Decoded pictures of one size.

    Attributes:
        pixels: [N, H, W, 3] uint8, with zeros for a picture that is unreadable or of another size.
        is_gray: whether all files store gray values only.
        unreadable: the index of each picture that cannot be decoded, and the reason.
        other_sizes: the index, width and height of each picture of another size.
        remarks: the index of each picture that needs a warning, and the warning.
    """

    pixels: bytes
    is_gray: bool
    unreadable: list[tuple[int, str]]
    other_sizes: list[tuple[int, int, int]]
    remarks: list[tuple[int, str]]


def decode(pictures: Sequence[bytes], are_paths: bool, size: Size, resize: bool) -> Chunk:
    """Decodes pictures, given as encoded paths or as the contents of files, to images of width and height `size`.

    With `resize`, pictures of another size are resized and cropped to it.
    """
    images, is_gray = [bytes(3 * size[0] * size[1])] * len(pictures), True
    chunk = Chunk(b"", True, [], [], [])
    with hidden_warnings():
        for index, stored in enumerate(pictures):
            try:
                source = os.fsdecode(stored) if are_paths else io.BytesIO(stored)
                picture = read(source, "RGB", size if resize else None)
            except Unreadable as error:
                chunk.unreadable.append((index, str(error)))
                continue
            is_gray = is_gray and picture.is_gray
            if picture.remark:
                chunk.remarks.append((index, picture.remark))
            if picture.image.size == size:
                images[index] = picture.image.tobytes()
            else:
                chunk.other_sizes.append((index, *picture.image.size))
    return chunk._replace(pixels=b"".join(images), is_gray=is_gray)


def serve() -> None:
    """Answers requests, which are the arguments of `decode`, until stdin is closed.

    Messages are marshaled: other encodings need modules that take longer to import. The first one announces that the
    process has started.
    """
    message: Any = READY
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            sys.stdout.buffer.write(marshal.dumps(message))
            sys.stdout.buffer.flush()
            message = tuple(decode(*marshal.load(sys.stdin.buffer)))


@contextlib.contextmanager
def hidden_warnings() -> Iterator[None]:
    """Hides Pillow's warnings, about pictures that it can read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(source: str | os.PathLike | io.BytesIO, mode: str, size: Size | None = None) -> Picture:
    """Decodes a file, given as its path or its content.

    The picture is rotated upright (EXIF), composited on white if it is transparent, converted to `mode` (L or RGB),
    resized to just cover `size` (width, height), and cropped to its center. A picture that already has this size is not
    changed. An animation is read as its first frame. Gray values of more than 8 bits are scaled (`_eight_bit`).

    Raises:
        Unreadable: the file is missing, is not a picture, is truncated or is too large to be decoded safely, or the
            value of white is ambiguous.
    """
    try:
        if not isinstance(source, io.BytesIO):
            check_file(source)
        stored, remark = _load(source)
        is_gray = stored.mode in ("1", "L", "LA", "La", "F") or stored.mode.startswith("I")
        image, assumption = _flat(stored, mode)
        return Picture(_fit(image, size) if size else image, is_gray, remark or assumption)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"not a readable image (it is none of {', '.join(FORMATS)}, or is damaged)") from error
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Unreadable(f"not a readable image ({reason})") from error


def check_file(path: str | os.PathLike) -> None:
    """Raises ValueError if a path is not that of a file of at most MAX_BYTES, and OSError if there is none."""
    status = os.stat(path)  # noqa: PTH116, faster than a Path
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # a pipe would block
        raise ValueError(f"not a regular file of at most {MAX_BYTES} bytes")


def _load(source: str | os.PathLike | io.BytesIO) -> tuple[Image.Image, str]:
    """The decoded file, and a remark if it is almost black."""
    with Image.open(source, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS}")
        is_deep = any(";16" in str(tile[3]) for tile in image.tile)
        if image.format == "TIFF":
            with _silent_stderr():
                image.load()
        else:
            image.load()
    if is_deep and image.mode in ("RGB", "RGBA") and _highest_color(image) <= MAX_DARK:
        return image, (
            "almost black, because its colors use less than a sixteenth of the 16-bit range; if they were recorded "
            "with fewer bits, save it with 8 bits per color"
        )
    return image, ""


def _highest_color(image: Image.Image) -> int:
    extrema: Any = image.getextrema()
    return max(high for _, high in extrema[:3])


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides what libtiff writes to the stderr of the process, which Python cannot catch."""
    with _stderr_lock:
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


def _flat(image: Image.Image, mode: str) -> tuple[Image.Image, str]:
    """Rotates upright, removes transparency and converts to 8 bits, with as few copies as possible. Adds a remark."""
    ImageOps.exif_transpose(image, in_place=True)
    remark = ""
    if image.mode == "F" or image.mode.startswith("I"):
        image, remark = _eight_bit(image)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode), remark


def _fit(image: Image.Image, size: Size) -> Image.Image:
    if image.size == size:
        return image
    # averages when shrinking, so that an image that was enlarged pixel by pixel is restored exactly
    shrinks = image.width >= size[0] and image.height >= size[1]
    return ImageOps.fit(image, size, Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)


def _eight_bit(image: Image.Image) -> tuple[Image.Image, str]:
    """Converts gray values of 16 bits, 32 bits or floats to 8 bits by scaling; Pillow's own conversion clips them.

    - Integers: white is the largest value of 8, 12 or 16 bits, whichever is the first that no value exceeds. Cameras
      and scanners often store their values in 16 bits without scaling them, and would give a black image. The picture
      may also be a dark one of 16 bits, so a remark is returned if 12 bits are assumed.
    - Floats: white is 1 if no value exceeds it, otherwise 255. A maximum between 1 and 16 is ambiguous.

    Raises:
        Unreadable: a value is negative, not a number, or above these ranges, or the value of white is ambiguous.
    """
    import numpy as np  # takes longer to import than everything else here

    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    whites = (1.0, 255.0) if image.mode == "F" else (255.0, 4_095.0, 65_535.0)
    white = next((white for white in whites if high <= white), None)
    if white is None or not low >= 0 or (image.mode == "F" and 1 < high < 16):
        raise Unreadable(
            f"its values are {low:g} to {high:g}, and it is not clear which is black and which is white; "
            "save it with 8 bits per color"
        )
    remark = f"no value exceeds {high:g}, so they are read as 12 bits, with white at 4095" if white == 4_095 else ""
    scaled = np.multiply(pixels, 255 / white, dtype=np.float32)
    scaled = np.rint(scaled, out=scaled).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:  # Pillow inverts only 8 bits
        scaled = 255 - scaled
    return Image.fromarray(scaled), remark
