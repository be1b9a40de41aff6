"""Writes files so that they are complete or absent, even after a loss of power."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The errors of file systems that cannot flush a folder: CIFS, vboxsf, some FUSE file systems.
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to. If the block succeeds, the file is flushed to disk and renamed to `path`.

    Only one file per folder and suffix can be written at a time.
    """
    # not derived from the file's name: TensorBoard reads every file whose name contains tfevents
    temporary = path.with_name(f".writing{path.suffix}.tmp")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)  # makes the rename durable


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync(path: Path) -> None:
    """Flushes a file to disk, or the entries of a folder if its file system can do that."""
    if path.is_dir():
        flush_folder(path)
    else:
        _fsync(path)


def flush_folder(path: Path) -> bool:
    """Flushes the entries of a folder to disk. Returns False if its file system cannot do that."""
    try:
        _fsync(path)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        return False
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
