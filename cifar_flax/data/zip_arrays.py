"""Reads arrays from a `.npz` that may be malicious or damaged.

`numpy.load` allocates the size that an entry claims. Here the claimed size is compared with the stored one before
anything is allocated, the size of all arrays together is bounded, and no array of Python objects is read.
"""

import io
import math
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
    if size > remaining:
        raise ValueError(f"{entry} has {size} bytes, more than the {remaining} that remain of {max_bytes}")
    with stored.open(info) as file:
        return np.lib.format.read_array(file)
