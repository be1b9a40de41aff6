"""Files that are there whole or not at all, also after a loss of power."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under; when the block ends well, it is on the disk and takes the place of `path`.

    One file of a kind, in a folder, at a time.
    """
    # not under its own name: TensorBoard reads whatever has tfevents in it
    temporary = path.with_name(f".writing{path.suffix}.tmp")
    try:
        yield temporary
        synchronise(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    synchronise(path.parent)  # the new name, too


def synchronise(path: Path) -> None:
    """Returns when what was written to a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
