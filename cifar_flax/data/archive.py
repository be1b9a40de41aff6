"""Reads CIFAR-10 as published by its authors: `cifar-10-python.tar.gz`, or its folder `cifar-10-batches-py`.

The files are Python 2 pickles. They are read by an interpreter that builds arrays and containers and calls nothing, and
an archive is read in memory, so neither can run code or write files. The memory that each can take is bounded.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from cifar_flax.data import cache, pickles
from cifar_flax.data.dataset import Source, Split, are_class_names
from cifar_flax.errors import BadInput, in_one_line, warn

FOLDER = "cifar-10-batches-py"
FOLDERS = ("", FOLDER, f"{FOLDER}-target/{FOLDER}")  # the folder itself; as unpacked by torchvision; by Keras 3
ARCHIVES = ("cifar-10-python.tar.gz", f"{FOLDER}.tar.gz", f"{FOLDER}-target_archive")  # the authors' name; Keras 2; 3
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
META = "batches.meta"
GZIP = b"\x1f\x8b"  # the first bytes
MAX_FILE_BYTES = 64 * 2**20  # of one file; the official ones have 31 million
MAX_TAR_BYTES = 2**28  # of a complete tar, read or skipped; the official one has 186 million
MAX_MEMBERS = 100  # of a tar; the official one has nine
FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)
EMPTY_TYPES = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)

# of the archive from cs.toronto.edu/~kriz/cifar.html and of its files
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


def find(folder: Path) -> Path | None:
    """CIFAR-10 in a folder: all files of it, else the archive, else some of the files.

    The files can be in the folder itself, or where torchvision and Keras put them.
    """
    folders = [folder / name for name in FOLDERS]
    complete = [path for path in folders if all((path / name).is_file() for name in MD5)]
    archives = [folder / name for name in ARCHIVES if (folder / name).is_file()]
    incomplete = [path for path in folders if (path / META).is_file() or (path.name == FOLDER and path.is_dir())]
    return next(iter(complete + archives + incomplete), None)


def load(path: Path) -> Source:
    """Reads the images of an archive, compressed or not, or of a folder, in the authors' order.

    Raises:
        BadInput: names the file and what is wrong with it.
    """
    files = [path / name for name in MD5] if path.is_dir() else [path]
    try:
        for file in files:
            max_bytes = MAX_FILE_BYTES if path.is_dir() else MAX_TAR_BYTES
            if file.stat().st_size > max_bytes or not file.is_file():  # a pipe would block, and a device may never end
                raise BadInput(f"config.dataset: {file} is not a regular file of at most {max_bytes} bytes")
        key = cache.fingerprint(files)
    except OSError as error:
        raise BadInput(f"config.dataset: {error.filename or path} cannot be read ({error.strerror})") from error
    return cache.load_or_build(FOLDER, key, lambda: _decode(path))


def _decode(path: Path) -> Source:
    files = _read_folder(path) if path.is_dir() else _read_tar(path)
    differing = [name for name, content in files.items() if hashlib.md5(content).hexdigest() != MD5[name]]
    if path.is_file() and _is_other_archive(path):
        differing.append("the archive itself")
    if differing:
        warn(f"{path}: not the official content (md5): {', '.join(differing)}")
    names = _field(path, META, _unpickle(path, META, files[META]), b"label_names")
    are_bytes = isinstance(names, list) and all(isinstance(name, bytes) for name in names)
    class_names = tuple(name.decode("utf-8", "replace") for name in names) if are_bytes else ()
    if not are_class_names(class_names):
        raise BadInput(f"config.dataset: {path}: {META} does not list the class names, one string for each class")
    batches = [_batch(path, name, files[name], len(names)) for name in (*TRAIN, TEST)]
    train = Split(np.concatenate([b.images for b in batches[:-1]]), np.concatenate([b.labels for b in batches[:-1]]))
    return Source(train, batches[-1], class_names)


def _is_other_archive(path: Path) -> bool:
    """Whether a tar.gz is not the official one. A tar that was decompressed has no official checksum."""
    try:
        with path.open("rb") as file:
            return _is_gzip(path) and hashlib.file_digest(file, "md5").hexdigest() != ARCHIVE_MD5
    except OSError as error:
        raise BadInput(f"config.dataset: {path} cannot be read ({error.strerror})") from error


def _read_folder(path: Path) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in MD5}
    except OSError as error:
        raise BadInput(f"config.dataset: {error.filename} cannot be read ({error.strerror})") from error


def _read_tar(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with _open(path) as stream:
            for member, name, content in _members(stream):
                if name in files:
                    raise tarfile.TarError(f"it contains {name} twice, the second time as {member!r}")
                files[name] = content
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise BadInput(
            f"config.dataset: {path} is not a readable tar.gz or tar, or is truncated ({in_one_line(error)})"
        ) from error
    missing = [name for name in MD5 if name not in files]
    if missing:
        raise BadInput(f"config.dataset: {path} does not contain {', '.join(missing)}")
    return files


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if _is_gzip(path) else path.open("rb")


def _members(stream: gzip.GzipFile | BufferedReader) -> Iterator[tuple[str, str, bytes]]:
    """Yields path, name and content of the CIFAR-10 files in a tar, and skips everything else.

    `tarfile` follows extended headers and skips as many bytes as a header claims, so a few headers can keep it busy
    indefinitely. Here only plain headers count, and the numbers of bytes and of headers are bounded.

    Raises:
        tarfile.TarError, OSError, EOFError, zlib.error: the tar is damaged or too large.
    """
    remaining = MAX_TAR_BYTES
    for _ in range(MAX_MEMBERS):
        header = stream.read(tarfile.BLOCKSIZE)
        if not header.strip(b"\0"):
            _skip(stream, remaining)  # up to gzip's checksum, which is at the end
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        size, name = 0 if member.type in EMPTY_TYPES else member.size, Path(member.name).name
        wanted = name in MD5 and member.type in FILE_TYPES
        padding = -size % tarfile.BLOCKSIZE
        remaining -= tarfile.BLOCKSIZE + size + padding
        if size < 0 or remaining < 0 or (wanted and size > MAX_FILE_BYTES):
            raise tarfile.TarError(f"{member.name!r} claims {size} bytes")
        if wanted:
            yield member.name, name, stream.read(size)  # if it is cut short, the pickle is damaged
        _skip(stream, padding if wanted else size + padding)
    raise tarfile.TarError(f"more than {MAX_MEMBERS} members")


def _skip(stream: gzip.GzipFile | BufferedReader, size: int) -> None:
    while size > 0 and (chunk := stream.read(min(size, 2**20))):
        size -= len(chunk)


def _unpickle(path: Path, name: str, content: bytes) -> Any:
    try:
        return pickles.loads(content)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise BadInput(
            f"config.dataset: {path}: {name} is damaged or not a CIFAR-10 pickle ({in_one_line(error)})"
        ) from error


def _field(path: Path, name: str, stored: Any, key: bytes) -> Any:
    if not isinstance(stored, dict) or key not in stored:
        raise BadInput(f"config.dataset: {path}: {name} has no entry {key.decode()!r}")
    return stored[key]


def _batch(path: Path, name: str, content: bytes, num_classes: int) -> Split:
    stored = _unpickle(path, name, content)
    rows, labels = _field(path, name, stored, b"data"), _field(path, name, stored, b"labels")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
        raise BadInput(f"config.dataset: {path}: 'data' of {name} is not [N, 3072] uint8")
    valid = isinstance(labels, list) and all(type(y) is int and 0 <= y < num_classes for y in labels)
    if not valid or len(labels) != len(rows) or not labels:
        raise BadInput(
            f"config.dataset: {path}: 'labels' of {name} are not {len(rows)} integers from 0 to {num_classes - 1}"
        )
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored as [N, C, H, W]
    return Split(np.ascontiguousarray(images), np.array(labels, np.int32))
