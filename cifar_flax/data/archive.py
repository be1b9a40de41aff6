"""CIFAR-10 as its authors publish it: `cifar-10-python.tar.gz`, or the folder `cifar-10-batches-py` out of it.

The files are pickles of Python 2. They are read by an unpickler that knows numpy's arrays and nothing else, and an
archive is read in memory, so that neither can run code or write files.
"""

import codecs
import hashlib
import io
import pickle
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cifar_flax.data import cache
from cifar_flax.data.dataset import Source, Split
from cifar_flax.errors import BadInput

FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
META = "batches.meta"
LARGEST = 64 * 2**20  # bytes of one file; the official ones have 31 million

# of the files in the archive from cs.toronto.edu/~kriz/cifar.html
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


def is_archive(path: Path) -> bool:
    """Whether a path is meant for this source."""
    return path.name.endswith((".tar.gz", ".tgz")) or path.name == FOLDER or (path / META).is_file()


def load(path: Path) -> Source:
    """The images of an archive or a folder, in the authors' order.

    Raises:
        BadInput: names the file and what is wrong with it.
    """
    if not path.exists():
        raise BadInput(f"config.dataset: there is no {path}")
    return cache.load_or_build(FOLDER, cache.fingerprint(path), lambda: _decode(path))


def _decode(path: Path) -> Source:
    files = _read_folder(path) if path.is_dir() else _read_tar(path)
    differing = [name for name, content in files.items() if hashlib.md5(content).hexdigest() != MD5[name]]
    if differing:
        print(f"{path}: not the official content (md5): {', '.join(differing)}", file=sys.stderr)
    names = _field(path, META, _unpickle(path, META, files[META]), b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise BadInput(f"config.dataset: {path}: {META} does not list the classes' names")
    batches = [_batch(path, name, files[name], len(names)) for name in (*TRAIN, TEST)]
    train = Split(np.concatenate([b.images for b in batches[:-1]]), np.concatenate([b.labels for b in batches[:-1]]))
    return Source(train, batches[-1], tuple(name.decode("utf-8", "replace") for name in names))


def _read_folder(path: Path) -> dict[str, bytes]:
    try:
        for name in MD5:
            if (path / name).stat().st_size > LARGEST:
                raise BadInput(f"config.dataset: {path / name} is larger than {LARGEST} bytes")
        return {name: (path / name).read_bytes() for name in MD5}
    except OSError as error:
        raise BadInput(f"config.dataset: {error.filename} cannot be read ({error.strerror})") from error


def _read_tar(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:  # as a stream: no seeking, no second pass
            for member in archive:
                name = Path(member.name).name
                if not member.isfile() or name not in MD5:
                    continue
                if member.size > LARGEST or name in files:
                    raise BadInput(f"config.dataset: {path}: {member.name} is not the file it should be")
                content = archive.extractfile(member)
                files[name] = content.read(LARGEST) if content else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise BadInput(f"config.dataset: {path} is no readable tar.gz, or a truncated one ({error})") from error
    missing = [name for name in MD5 if name not in files]
    if missing:
        raise BadInput(f"config.dataset: {path} does not hold {', '.join(missing)}")
    return files


_reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # as numpy 2 writes it
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # as Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    """Builds numpy's arrays beside plain containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN[module, name]


def _unpickle(path: Path, name: str, content: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise BadInput(
            f"config.dataset: {path}: {name} is damaged or no pickle of CIFAR-10 ({type(error).__name__}: {error})"
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
    whole = isinstance(labels, list) and all(isinstance(y, int) and 0 <= y < num_classes for y in labels)
    if not whole or len(labels) != len(rows) or not labels:
        raise BadInput(
            f"config.dataset: {path}: 'labels' of {name} are not {len(rows)} numbers from 0 to {num_classes - 1}"
        )
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored channel by channel
    return Split(np.ascontiguousarray(images), np.array(labels, np.int32))
