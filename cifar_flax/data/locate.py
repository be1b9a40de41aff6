"""Finds the file or folder that `config.dataset` names, and chooses its reader by content instead of by name."""

import itertools
import re
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from cifar_flax.data import archive, npz, tfds
from cifar_flax.data.dataset import Source
from cifar_flax.data.paths import listed, read_path
from cifar_flax.errors import BadInput, in_one_line, printable

READABLE = "a .npz, CIFAR-10's cifar-10-python.tar.gz or its folder cifar-10-batches-py, or a prepared TFDS dataset"
TFDS_NAME = re.compile(
    r"([\w-]+:)?[a-z]\w*(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?(/(\w+=[^,]+,?)+)?", re.ASCII | re.IGNORECASE
)
FILE_SUFFIXES = (".npz", ".npy", ".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".zst", ".pkl", ".pickle", ".h5", ".mat")
MAX_LISTED = 1000  # files of a folder
Reader = Callable[[Path], Source]

# The first bytes of common files that cannot be read: what they are, and what to do.
OTHER_KINDS = (
    (b"\x93NUMPY", "a single .npy array; store all arrays in one .npz with numpy.savez"),
    (b"\x89HDF", "an HDF5 file; store its arrays in a .npz with numpy.savez"),
    (b"MATLAB", "a MATLAB file; store its arrays in a .npz with numpy.savez"),
    (b"\x80", "a pickle; store its arrays in a .npz with numpy.savez, or name the folder of all batches of CIFAR-10"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file with git lfs pull"),
    (b"<", "a web page or XML; download the file itself"),
    (b"\x89PNG", "a single image"),
    (b"\xff\xd8\xff", "a single image"),
)


def locate(dataset: str) -> tuple[Reader, Path] | str:
    """The reader and the absolute path of a dataset on disk.

    If there is none, but TFDS could have a dataset of this name, a sentence about what is on disk instead.

    Raises:
        BadInput: `dataset` can only be a path, and there is no dataset.
    """
    if "://" in dataset:
        raise BadInput(f"config.dataset: {dataset!r} is a URL; download it, and name the file or folder")
    path = read_path(dataset, "config.dataset")
    try:
        located = _look_at(path)
    except PermissionError as error:
        located = f"{error.filename or path} may not be read by this user ({error.strerror})"
    except OSError as error:
        located = f"{path} cannot be read ({error.strerror or in_one_line(error)})"
    if isinstance(located, str) and not _can_be_tfds_name(dataset):
        hint = "" if set(dataset) & {*"/\\~"} or path.suffix in FILE_SUFFIXES else "; TFDS names look like cifar10"
        raise BadInput(f"config.dataset: {printable(located)}{hint}")
    return located


def _can_be_tfds_name(dataset: str) -> bool:
    path = Path(dataset)
    return bool(TFDS_NAME.fullmatch(dataset)) and path.suffix not in FILE_SUFFIXES and path.name != archive.FOLDER


def _look_at(path: Path) -> tuple[Reader, Path] | str:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} does not exist"
    if stat.S_ISREG(mode):
        return _look_at_file(path)
    if stat.S_ISDIR(mode):
        return _look_at_folder(path)
    return f"{path} is neither a file nor a folder"  # reading a pipe would block, and a device may never end


def _look_at_file(path: Path) -> tuple[Reader, Path] | str:
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(b"PK"):
        return npz.load, path
    if start.startswith(archive.GZIP) or _is_tar(start):
        return archive.load, path
    unknown = f"a file of an unknown kind (it begins with {start[:8]!r})" if start else "empty"
    kind = next((kind for prefix, kind in OTHER_KINDS if start.startswith(prefix)), unknown)
    return f"{path} is not a readable .npz or tar.gz of CIFAR-10: it is {kind}"


def _is_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _look_at_folder(path: Path) -> tuple[Reader, Path] | str:
    if folder_or_archive := archive.find(path):
        return archive.load, folder_or_archive
    if prepared := tfds.find(path):
        return tfds.load_folder, prepared
    names = [entry.name for entry in itertools.islice(path.iterdir(), MAX_LISTED)]
    files = sorted(name for name in names if name.endswith(".npz"))
    advice = f"name the file: {path / files[0]}" if files else f"config.dataset can be {READABLE}"
    return f"the folder {path} holds {listed(sorted(names))}, and is not a dataset; {advice}"


def is_path(dataset: str) -> bool:
    """Whether `config.dataset` names a file or folder, which need not exist, and not a dataset of TFDS."""
    if dataset == "synthetic" or "://" in dataset:
        return False
    try:
        return not isinstance(locate(dataset), str)
    except BadInput:
        return True
