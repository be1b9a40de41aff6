"""Reads the paths in flags, fields and variables, and lists file names for messages."""

import os
from collections.abc import Sequence
from pathlib import Path

from cifar_flax.errors import BadInput, in_one_line, printable

MAX_NAMES = 6
MAX_CHARACTERS = 40  # of a name


def read_path(text: str | Path, name: str) -> Path:
    """The absolute path. `~` and `~user` are expanded, and links are kept.

    Args:
        text: as the user typed it.
        name: the flag, field or variable, for the error message.

    Raises:
        BadInput: there is no such user or home folder, no current folder, or the text cannot be a path.
    """
    if not str(text):
        raise BadInput(f"{name}: it is empty; name a file or folder")
    try:
        if b"\0" in os.fsencode(text):  # fails for what cannot be a file name
            raise ValueError("it contains a null character")
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        home = str(text).split("/")[0]
        raise BadInput(f"{name}: {str(text)!r}: there is no home folder for {home!r}; use an absolute path") from error
    except FileNotFoundError as error:
        raise BadInput(
            f"{name}: {str(text)!r} is relative, and the current folder no longer exists; use an absolute path"
        ) from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{name}: {str(text)!r} cannot be used as a path ({in_one_line(error)})") from error


def listed(names: Sequence[str]) -> str:
    """The first names in one printable line, whatever characters they contain."""
    shown = [name[:MAX_CHARACTERS] + "..." * (len(name) > MAX_CHARACTERS) for name in names[:MAX_NAMES]]
    return printable(", ".join(shown + ["..."] * (len(names) > MAX_NAMES))) or "nothing"
