"""Caches decoded images in the user's cache directory, so that only the first start decodes them.

An entry is a folder of plain `.npy` files and a `meta.json` with their checksums. It is written under a temporary name
and then renamed, so a reader sees a complete entry or none. An entry with a wrong checksum is deleted and rebuilt.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_flax.data.dataset import Source, Split

FORMAT = 1  # incremented when the content of an entry changes


def directory() -> Path:
    """$CIFAR_FLAX_CACHE, else $XDG_CACHE_HOME/cifar_flax, else ~/.cache/cifar_flax."""
    configured = os.environ.get("CIFAR_FLAX_CACHE")
    if configured:
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar_flax"


def fingerprint(source: Path) -> str:
    """A hash of names, sizes and modification times of a file or a folder's files. Changes when one is replaced."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    stats = [(str(path.relative_to(source.parent)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([FORMAT, stats]).encode()).hexdigest()[:16]


def load_or_build(name: str, key: str, build: Callable[[], Source]) -> Source:
    """Returns the cached source `name` with the fingerprint `key`, or calls `build` and caches its result."""
    entry = directory() / f"{name.replace('/', '-').replace(':', '-')}-{key}"
    source = _read(entry)
    if source is None:
        source = build()
        try:
            _write(entry, source)
        except OSError as error:
            print(f"not cached, so the next start decodes again: {entry.parent}: {error.strerror}", file=sys.stderr)
    return source


def _arrays(source: Source) -> dict[str, np.ndarray]:
    return {
        "train_images": source.train.images,
        "train_labels": source.train.labels,
        "test_images": source.test.images,
        "test_labels": source.test.labels,
    }


def _load(path: Path) -> np.ndarray:
    # memory-mapped, because JAX's CPU devices then use the file's pages directly and the images are in memory once
    return np.asarray(np.lib.format.open_memmap(path, mode="r"))


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _read(entry: Path) -> Source | None:
    """The source in an entry, or None if the entry is missing or damaged."""
    if not entry.exists():
        return None
    try:
        meta = json.loads((entry / "meta.json").read_text())
        arrays = {name: _load(entry / f"{name}.npy") for name in meta["checksums"]}
        if all(_checksum(arrays[name]) == expected for name, expected in meta["checksums"].items()):
            return Source(
                train=Split(arrays["train_images"], arrays["train_labels"]),
                test=Split(arrays["test_images"], arrays["test_labels"]),
                class_names=tuple(meta["class_names"]),
            )
    except Exception:
        pass  # NumPy raises almost anything for a damaged header; unreadable counts as damaged, too
    print(f"the cached data in {entry} is damaged; rebuilding it", file=sys.stderr)
    return None


def _write(entry: Path, source: Source) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        arrays = _arrays(source)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        meta = {"class_names": source.class_names, "checksums": checksums}
        (temporary / "meta.json").write_text(json.dumps(meta))
        if entry.exists() and _read(entry) is None:  # damaged, unless another process has just rebuilt it
            shutil.rmtree(entry, ignore_errors=True)
        if not entry.exists():
            temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
