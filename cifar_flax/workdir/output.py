"""Writes the output file of a command to the path that the user named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.workdir.atomic import atomic_write


@contextmanager
def output_file(path: Path, flag: str) -> Iterator[Path]:
    """Yields a temporary path to write to. If the block succeeds, the file at `path` is replaced, otherwise it is kept.

    Raises:
        BadInput: `path` is a folder, a device or anything else that is not a file, or it cannot be written. The message
            names `flag`.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{flag}: {path} is {'a folder' if path.is_dir() else 'not a file'}; name a file")
        target = path.resolve()  # keeps a symbolic link
    except (OSError, RuntimeError) as error:  # RuntimeError: a symbolic link to itself
        raise BadInput(f"{flag}: {path} cannot be written ({in_one_line(error)}); name another file") from error
    try:
        with atomic_write(target) as temporary:
            yield temporary
    except OSError as error:
        raise BadInput(f"{flag}: {path} cannot be written ({error.strerror}); name a file in another folder") from error
