"""Reads arrays from a `.npz` that may be malicious or damaged.

`numpy.load` allocates the size that an entry claims. Here the claimed size is compared with the stored one before
anything is allocated, the size of all arrays together is bounded, and no array of Python objects is read.
"""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cifar_flax.errors import BadInput, in_one_line

MAX_READ_BYTES = 2**20  # at once; only a zip's list of entries could need more
SUFFIX = ".npy"


@contextmanager
def open_npz(path: Path, field: str) -> Iterator[zipfile.ZipFile]:
    """Yields a `.npz` for `entries` and `read_arrays`.

    Raises:
        BadInput: the file cannot be opened, or the block raised something else than BadInput and MemoryError. The
            message names the field and the file.
    """
    try:
        if not path.is_file():  # a pipe would block
            raise ValueError("not a regular file")
        with warnings.catch_warnings(), _File(path) as file, zipfile.ZipFile(file) as stored:
            warnings.simplefilter("error")  # NumPy warns where it has to guess
            # such a header is read correctly, only slower
            warnings.filterwarnings("ignore", message=".*created on Python 2", category=UserWarning)
            yield stored
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise almost anything for a damaged file
        raise BadInput(f"{field}: {path} is not a readable .npz of plain arrays ({in_one_line(error)})") from error


def entries(stored: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in a `.npz`."""
    return [name.removesuffix(SUFFIX) for name in stored.namelist() if name.endswith(SUFFIX)]


def read_arrays(stored: zipfile.ZipFile, names: Sequence[str], max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays with these names.

    Raises:
        ValueError: an entry cannot be used, or the arrays have more than `max_bytes` together. A damaged zip or header
            can raise almost anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    remaining = max_bytes
    for name in names:
        arrays[name] = _read_array(stored, name, remaining, max_bytes)
        remaining -= arrays[name].nbytes
    return arrays


def unpack(stored: zipfile.ZipFile, names: Sequence[str], folder: Path) -> None:
    """Writes the arrays with these names to a folder, as `.npy` files, in pieces of MAX_READ_BYTES.

    Raises:
        OSError: the folder cannot be written, or the arrays have more bytes than are free there.
        ValueError: as in `read_arrays`.
    """
    if num_bytes(stored, names) > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for name in names:
        outline(stored, name)
        with stored.open(name + SUFFIX) as source, (folder / f"{name}{SUFFIX}").open("wb") as target:
            shutil.copyfileobj(source, target, MAX_READ_BYTES)


def num_bytes(stored: zipfile.ZipFile, names: Sequence[str]) -> int:
    """Of the arrays with these names, as the zip claims."""
    return sum(stored.getinfo(name + SUFFIX).file_size for name in names)


def fingerprint(stored: zipfile.ZipFile, names: Sequence[str]) -> str:
    """A hash of the names, sizes and CRCs that the zip has of these arrays. `unpack` verifies that they are true."""
    entries = [stored.getinfo(name + SUFFIX) for name in sorted(names)]
    described = [[info.filename, info.file_size, info.CRC] for info in entries]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


class _File(io.FileIO):
    """A file that raises ValueError if more than MAX_READ_BYTES are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        size = MAX_READ_BYTES + 1 if size is None or size < 0 else min(size, MAX_READ_BYTES + 1)
        content = super().read(size) or b""
        if len(content) > MAX_READ_BYTES:
            raise ValueError("the list of entries is too long")
        return content


def _read_array(stored: zipfile.ZipFile, entry: str, remaining: int, max_bytes: int) -> np.ndarray:
    """Reads an entry after checking that its claimed size is true and at most `remaining` of `max_bytes`."""
    size = outline(stored, entry).nbytes
    if size > remaining:
        raise ValueError(f"{entry} has {size} bytes, more than the {remaining} that remain of {max_bytes}")
    with stored.open(entry + SUFFIX) as file:
        return np.lib.format.read_array(file)


def outline(stored: zipfile.ZipFile, entry: str) -> np.ndarray:
    """An array of zeros that takes no memory, with the shape and dtype of an entry.

    Raises:
        ValueError: the entry is not a plain array of the size that it claims.
    """
    info = stored.getinfo(entry + SUFFIX)
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
    return np.broadcast_to(np.zeros((), dtype), shape)
