"""Caches images in the user's cache directory: decoded, so that only the first start decodes them, or unpacked.

An entry is a folder of plain `.npy` files and a `meta.json` with their checksums. It is written under a temporary name
and then renamed, so a reader sees a complete entry or none. An entry with a wrong checksum is deleted and rebuilt.
Several users can share a cache: the umask determines who may read an entry, and an unreadable one is kept.
"""

import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cifar_flax.data.dataset import Source, Split
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, in_one_line, warn

FORMAT = 2  # incremented when the key or the content of an entry changes
SPLITS = ("train", "test", "validation")
Content = TypeVar("Content")


def directory() -> Path | None:
    """$CIFAR_FLAX_CACHE, else $XDG_CACHE_HOME/cifar_flax, else ~/.cache/cifar_flax, or None without a home folder.

    Raises:
        BadInput: a variable is set to a value that cannot be a path.
    """
    if configured := os.environ.get("CIFAR_FLAX_CACHE"):
        return read_path(configured, "CIFAR_FLAX_CACHE")
    if base := os.environ.get("XDG_CACHE_HOME"):
        return read_path(base, "XDG_CACHE_HOME") / "cifar_flax"
    try:
        return read_path("~/.cache/cifar_flax", "CIFAR_FLAX_CACHE")
    except BadInput:
        return None


def fingerprint(files: Iterable[Path]) -> str:
    """A hash of the files' contents, in the order of their names. Copies in another folder have the same hash.

    Raises:
        OSError: a file cannot be read.
    """
    digests = []
    for path in sorted(files):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return _combined(digests)


def fingerprint_of(contents: Iterable[bytes]) -> str:
    """A hash of files that were read, in their order."""
    return _combined(hashlib.sha256(content).digest() for content in contents)


def _combined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(str(FORMAT).encode() + b"".join(digests)).hexdigest()[:16]


def load_or_build(name: str, key: str, build: Callable[[], Source]) -> Source:
    """Returns the cached source `name` with the fingerprint `key`, or calls `build` and caches its result.

    A cache that cannot be used is reported on stderr and is not an error.

    Raises:
        BadInput: raised by `build`, or the environment names a cache directory that cannot be a path.
    """
    entry = _entry(name, key)
    cached, writable = _look_up(entry, _read_source)
    if cached:
        return cached
    source = build()
    if entry and writable:
        _keep(entry, lambda folder: _write_source(folder, source))
    return source


def load_or_unpack(name: str, key: str, unpack: Callable[[Path], None]) -> dict[str, np.ndarray] | None:
    """Returns the cached arrays `name` with the fingerprint `key`, memory-mapped, by their names.

    If there are none, `unpack` writes them to a folder, as a `.npy` file each. They are never all in memory.

    Returns:
        None if the cache cannot be used, which is reported on stderr.

    Raises:
        BadInput: the environment names a cache directory that cannot be a path.
    """
    entry = _entry(name, key)
    cached, writable = _look_up(entry, _read)
    if not cached and entry and writable:
        _keep(entry, unpack)
        cached, _ = _look_up(entry, _read)
    return cached[0] if cached else None


def _entry(name: str, key: str) -> Path | None:
    root = directory()
    if root is None:
        _warn_not_cached("there is no home folder for a cache")
    return root / f"{name}-{key}" if root else None


def _look_up(entry: Path | None, read: Callable[[Path], Content]) -> tuple[Content | None, bool]:
    """The content of an entry, if it is intact; and whether it may be written."""
    try:
        return (read(entry), False) if entry else (None, False)
    except PermissionError:
        advice = "ask its owner for permission (chmod -R a+rX), or set CIFAR_FLAX_CACHE to another folder"
        warn(f"the cached data in {entry} may not be read by this user, so it is decoded again; {advice}")
        return None, False
    except _Damaged:
        warn(f"the cached data in {entry} is damaged; rebuilding it")
    except OSError:
        pass  # it does not exist; any other cause is reported when it is written
    return None, True


def _keep(entry: Path, fill: Callable[[Path], Any]) -> None:
    try:
        _write(entry, fill)
    except OSError as error:
        _warn_not_cached(f"{entry.parent}: {error.strerror or in_one_line(error)}")


def _warn_not_cached(reason: str) -> None:
    warn(
        f"not cached, so the next start decodes again: {reason}; set CIFAR_FLAX_CACHE to a folder that you can write to"
    )


class _Damaged(Exception):
    """The entry exists, but is not what was written."""


def _load(path: Path) -> np.ndarray:
    # memory-mapped, because JAX's CPU devices then use the file's pages directly and the images are in memory once
    return np.asarray(np.lib.format.open_memmap(path, mode="r"))


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _read(entry: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays in an entry, by their names, and its meta.json.

    Raises:
        PermissionError: this user may not read the entry or a folder above it.
        OSError: there is no entry.
        _Damaged: a file of the entry is missing or has other content.
    """
    entry.stat()
    try:
        meta = json.loads((entry / "meta.json").read_text())
        arrays = {name: _load(entry / f"{name}.npy") for name in meta["checksums"]}
        if any(_checksum(arrays[name]) != expected for name, expected in meta["checksums"].items()):
            raise ValueError("checksum")
        return arrays, meta
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # NumPy raises almost anything for a damaged header
        raise _Damaged from error


def _read_source(entry: Path) -> Source:
    """The source in an entry. Raises as `_read`."""
    arrays, meta = _read(entry)
    try:
        splits: dict[str, Any] = {
            name: Split(arrays[f"{name}_images"], arrays[f"{name}_labels"]) if f"{name}_images" in arrays else None
            for name in SPLITS
        }
        return Source(**splits, class_names=tuple(meta["class_names"]))
    except (KeyError, TypeError) as error:
        raise _Damaged from error


def _write_source(folder: Path, source: Source) -> dict[str, Any]:
    """Writes the arrays of a source, and returns what meta.json says about them."""
    for name in SPLITS:
        if split := getattr(source, name):
            np.save(folder / f"{name}_images.npy", split.images)
            np.save(folder / f"{name}_labels.npy", split.labels)
    return {"class_names": source.class_names}


def _write(entry: Path, fill: Callable[[Path], dict[str, Any] | None]) -> None:
    """Writes an entry unless another process has written it by now.

    `fill` writes arrays to a folder, and returns what meta.json says about them.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.parent / f".{entry.name}-{secrets.token_hex(8)}"
    temporary.mkdir()  # with the permissions that the umask gives, unlike tempfile.mkdtemp
    try:
        meta = fill(temporary) or {}
        checksums = {path.stem: _checksum(_load(path)) for path in sorted(temporary.glob("*.npy"))}
        (temporary / "meta.json").write_text(json.dumps(meta | {"checksums": checksums}))
        if _is_damaged(entry):
            # renamed first, because the files of another user's entry may not be deletable
            damaged = entry.rename(temporary.with_name(f"{temporary.name}-damaged"))
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            temporary.rename(entry)
        except OSError:
            if not entry.exists():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_damaged(entry: Path) -> bool:
    try:
        _read(entry)
    except _Damaged:
        return True
    except OSError:
        pass
    return False
