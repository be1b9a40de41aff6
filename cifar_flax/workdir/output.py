"""Writes the output of a command to the path that the user named."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.workdir.atomic import atomic_write, fsync


def output_path(path: Path, flag: str) -> Path:
    """The path of a file to write, without links. Raises BadInput, as `output_file` would later, if it is none."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{flag}: {path} is {'a folder' if path.is_dir() else 'not a file'}; name a file")
        if not path.parent.is_dir():
            raise BadInput(f"{flag}: there is no folder {path.parent}; create it, or name another")
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a symbolic link to itself
        raise BadInput(f"{flag}: {path} cannot be written ({in_one_line(error)}); name another file") from error


@contextmanager
def output_file(path: Path, flag: str) -> Iterator[Path]:
    """Yields a temporary path to write to. If the block succeeds, the file at `path` is replaced, otherwise it is kept.

    Raises:
        BadInput: `path` is a folder, a device or anything else that is not a file, or it cannot be written. The message
            names `flag`.
    """
    target = output_path(path, flag)
    try:
        with atomic_write(target) as temporary:
            yield temporary
    except OSError as error:
        raise BadInput(f"{flag}: {path} cannot be written ({error.strerror}); name a file in another folder") from error


@contextmanager
def output_folder(path: Path, flag: str, names: Collection[str]) -> Iterator[Path]:
    """Yields a temporary folder to write to. If the block succeeds, it replaces the folder at `path`.

    Args:
        path: the folder.
        flag: the flag that named it, for error messages.
        names: of the files that the block writes. A folder with any other file is not replaced.

    Raises:
        BadInput: `path` is a file or a folder with other files, or it cannot be written. The message names `flag`.
    """
    try:
        if path.exists() and not path.is_dir():
            raise BadInput(f"{flag}: {path} is not a folder; name a folder")
        target = path.resolve()  # keeps a symbolic link
        others = sorted({entry.name for entry in target.iterdir()} - {*names}) if target.exists() else []
    except (OSError, RuntimeError) as error:  # RuntimeError: a symbolic link to itself
        raise BadInput(f"{flag}: {path} cannot be written ({in_one_line(error)}); name another folder") from error
    if others:
        raise BadInput(f"{flag}: {path} has other files ({listed(others)}); name a new folder")
    try:
        with _replaced(target) as temporary:
            yield temporary
    except OSError as error:
        raise BadInput(f"{flag}: {path} cannot be written ({error.strerror}); name another folder") from error


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces `folder` if the block succeeds.

    A process that is killed between the two renames leaves the previous folder under another name, and the next one
    restores it.
    """
    temporary = folder.with_name(f".{folder.name}.writing.tmp")
    previous = folder.with_name(f".{folder.name}.previous.tmp")
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    for leftover in (temporary, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            fsync(path)
        if folder.exists():
            folder.rename(previous)
        temporary.rename(folder)
        fsync(folder.parent)
    finally:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        for leftover in (temporary, previous):
            shutil.rmtree(leftover, ignore_errors=True)
