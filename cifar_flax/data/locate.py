"""Finds the file or folder that `config.dataset` names, and chooses its reader by content instead of by name."""

import contextlib
import itertools
import os
import re
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from cifar_flax.data import cifar, folder, npz, parquet, tar, tfds, zip_arrays
from cifar_flax.data.cifar_versions import VERSIONS
from cifar_flax.data.dataset import Options, Source
from cifar_flax.data.paths import listed, read_path
from cifar_flax.errors import BadInput, in_one_line, printable

READABLE = (
    "a folder of pictures (train/CLASS/*.png), a .npz, a .parquet or a folder of them, CIFAR-10 or CIFAR-100 as "
    "published (such as cifar-10-python.tar.gz or cifar-10-batches-py), or a prepared TFDS dataset"
)
TFDS_NAME = re.compile(
    r"([\w-]+:)?[a-z]\w*(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?(/(\w+=[^,]+,?)+)?", re.ASCII | re.IGNORECASE
)
FILE_SUFFIXES = {".npz", ".npy", ".pkl", ".pickle", ".h5", ".hdf5", ".mat", ".parquet", ".arrow", ".png", ".jpg"}
FILE_SUFFIXES |= {".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".zst"}
KERAS_SUFFIX = "-target"  # Keras 3 unpacks the archive of X in the folder X-target
FOLDER_NAMES = {version.folder for version in VERSIONS}
MAX_LISTED = 1000  # entries of a folder to look at
Reader = Callable[[Path, Options], Source]
Located = tuple[Reader, Path]

# The first bytes of common files that cannot be read: what they are, and what to do.
TO_NPZ = "store its arrays in a .npz with numpy.savez"
PICTURE = "a single picture; name the folder that holds train/CLASS"
OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "a single .npy array; store all arrays in one .npz with numpy.savez"),
    (b"\x89HDF", f"an HDF5 file; {TO_NPZ}"),
    (b"MATLAB", f"a MATLAB file; {TO_NPZ}"),
    (b"\0\0\x08", f"an IDX file, as of MNIST; {TO_NPZ}"),
    (b"\x80", f"a pickle, which could run code; name the folder if it is CIFAR-10 or CIFAR-100, otherwise {TO_NPZ}"),
    (b"ARROW1", "an Arrow file; store it as .parquet"),
    (b"\xff\xff\xff\xff", "an Arrow file; store it as .parquet"),  # of the datasets library's save_to_disk
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"PK", "a zip without arrays; unpack it, and name the folder"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file with git lfs pull"),
    (b"<", "a web page or XML; download the file itself"),
    (b"\x89PNG", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"GIF8", PICTURE),
)


def locate(dataset: str) -> Located | str:
    """The reader and the absolute path of a dataset on disk.

    If nothing has this path, but TFDS could have a dataset of this name, a sentence about the path instead.

    Raises:
        BadInput: what has this path is no dataset, or nothing has it and it cannot be a name of TFDS.
    """
    if "://" in dataset:
        raise BadInput(f"config.dataset: {dataset!r} is a URL; download it, and name the file or folder")
    path = read_path(dataset, "config.dataset")
    try:
        located = _look_at(path)
    except OSError as error:
        located = _problem(path, error)
    if not isinstance(located, str):
        return located
    is_run = os.path.exists(path / ".lock")  # noqa: PTH110, also False for a folder that this user may not enter
    exists = os.path.lexists(path) and not is_run  # the run may be this one
    name = f"{dataset}:*.*.*" if exists else dataset  # the other way to name a dataset of TFDS
    is_tfds_name = TFDS_NAME.fullmatch(name) and path.suffix not in FILE_SUFFIXES and path.name not in FOLDER_NAMES
    if is_tfds_name and not exists:
        return located
    hint = f"; for the TFDS dataset of this name, use {name}" if is_tfds_name and "/" not in name else ""
    if not (exists or set(dataset) & {*"/\\~"} or path.suffix in FILE_SUFFIXES):
        hint = "; TFDS names look like cifar10"
    raise BadInput(f"config.dataset: {printable(located)}{hint}")


def _problem(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path} does not exist"
    if isinstance(error, PermissionError):
        return f"{error.filename or path} may not be read by this user ({error.strerror})"
    return f"{path} cannot be read ({error.strerror or in_one_line(error)})"


def _look_at(path: Path) -> Located | str:
    """The dataset at a path, or what is there instead. Raises OSError if nothing is, or if it cannot be read."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return _look_at_file(path)
    if stat.S_ISDIR(mode):
        return _look_at_folder(path)
    return f"{path} is neither a file nor a folder"  # reading a pipe would block, and a device may never end


def _look_at_file(path: Path) -> Located | str:
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(b"PK") and _has_arrays(path):
        return npz.load, path
    if tar.is_tar(start):
        return cifar.load, path
    if start.startswith(b"PAR1"):
        return parquet.load, path
    unknown = f"a file of an unknown kind (it begins with {start[:8]!r})" if start else "empty"
    kind = next((kind for prefix, kind in OTHER_KINDS if start.startswith(prefix)), unknown)
    return f"{path} is not a dataset: it is {kind}"


def _has_arrays(path: Path) -> bool:
    """Whether a zip has entries of arrays, or is empty or damaged, which the reader of .npz reports."""
    with contextlib.suppress(BadInput), zip_arrays.open_npz(path, "config.dataset") as stored:
        return bool(zip_arrays.entries(stored)) or not stored.namelist()
    return True


def _look_at_folder(path: Path) -> Located | str:
    if located := _dataset_in(path):
        return located
    entries = sorted(itertools.islice(path.iterdir(), MAX_LISTED))
    datasets = _datasets_among(entries)
    if len(datasets) > 1:
        names = listed([str(located.relative_to(path)) for _, located in datasets])
        raise BadInput(printable(f"config.dataset: {path} holds {len(datasets)} datasets; name one of them: {names}"))
    if datasets:
        return datasets[0]
    if problem := next(filter(None, map(cifar.incomplete, (path, *entries))), None):
        raise BadInput(printable(f"config.dataset: {problem}; download it again"))
    if pictures := folder.find(path):
        return folder.load, pictures
    files = [entry for entry in entries if entry.suffix in (".npz", ".parquet")]
    advice = f"name the file: {files[0]}" if files else f"config.dataset can be {READABLE}"
    return f"the folder {path} holds {listed([entry.name for entry in entries])}, and is not a dataset; {advice}"


def _dataset_in(path: Path) -> Located | None:
    """The dataset that a folder is. What could also be one, such as folders of pictures without `train`, is none."""
    if cifar.find(path):
        return cifar.load, path
    if prepared := tfds.find(path):
        return tfds.load_folder, prepared
    if parquet.find(path):
        return parquet.load, path
    with contextlib.suppress(BadInput):
        if (path / "train").is_dir() and (pictures := folder.find(path)):
            return folder.load, pictures
    return None


def _datasets_among(entries: list[Path]) -> list[Located]:
    """The datasets among the entries of a folder. A version of CIFAR counts once, as a folder or as an archive."""
    targets = [entry / entry.name.removesuffix(KERAS_SUFFIX) for entry in entries if entry.name.endswith(KERAS_SUFFIX)]
    datasets: dict[str, Located] = {}
    for entry in sorted(entries + targets, key=Path.is_file):
        with contextlib.suppress(OSError):  # it may not be read
            if located := _dataset_in(entry) if entry.is_dir() else cifar.find(entry) and (cifar.load, entry):
                version = cifar.find(entry) if located[0] is cifar.load else None
                datasets.setdefault(version.folder if version else str(entry), located)
    return list(datasets.values())


def is_path(dataset: str) -> bool:
    """Whether `config.dataset` names a file or folder, which need not exist, and not a dataset of TFDS."""
    if dataset == "synthetic" or "://" in dataset:
        return False
    try:
        return not isinstance(locate(dataset), str)
    except BadInput:
        return True
