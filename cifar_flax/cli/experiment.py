"""Loads the config of an experiment: an experiment of the package, by its name, or any file."""

import difflib
import inspect
import re
import runpy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from cifar_flax.config import base_config
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, in_one_line, nearest, printable

PACKAGE = Path(__file__).parents[1]


def experiments(kind: str = ".") -> dict[str, Path]:
    """The experiments that come with the package: name -> file. The kind `spaces`: the search spaces over them."""
    installed = PACKAGE / "experiments"  # see pyproject.toml; in a checkout they are beside the package
    folder = installed if installed.is_dir() else PACKAGE.parent / "experiments"
    return {path.stem: path for path in sorted((folder / kind).glob("*.py"))}


def split_spec(spec: str) -> tuple[str, str]:
    """Splits `cnn:smoke` or `file.py:smoke` into (name or file, variant). The variant is "" if there is none.

    A file without the ending .py may have a colon in its name.
    """
    file, colon, variant = spec.rpartition(".py:")
    if colon:
        return f"{file}.py", variant
    if is_file(spec):
        return spec, ""
    name, _, variant = spec.partition(":")
    return name, variant


def load_experiment(spec: str) -> ConfigDict:
    """The locked config of `cnn`, `cnn:smoke`, `experiments/cnn.py` or `experiments/cnn.py:smoke`.

    A file in the current folder takes precedence over an experiment of the same name.

    Raises:
        BadInput: there is no such experiment, its file raises an error (reported with its line), or it returns no
            config.
    """
    name, variant = split_spec(spec)
    path = find_file(name)
    with errors_in(path, "--config", "an experiment file only defines get_config()"):
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise BadInput(f"--config: {path} has no function get_config(); add one that returns a config")
        config = get_config(*_arguments(get_config, variant, path))
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        raise BadInput(f"--config: get_config() of {path} returns {type(config).__name__}, not a ConfigDict")
    return config.lock()


@contextmanager
def errors_in(path: Path, flag: str, purpose: str) -> Iterator[None]:
    """Reports what the user's Python file raises in the block in one line, with the line of the file.

    Args:
        path: the file.
        flag: the flag that named it.
        purpose: what such a file is for, in case that it ends the process.

    Raises:
        BadInput: the block raised an exception.
    """
    try:
        yield
    except BadInput:
        raise
    except SystemExit as error:
        raise BadInput(f"{flag}: {_location(path, error)}: the file calls sys.exit(); {purpose}") from error
    except Exception as error:
        raise BadInput(f"{flag}: {_location(path, error)}: {_reason(error)}") from error


def find_file(name: str) -> Path:
    """The file that `--config` names, without the variant.

    Raises:
        BadInput: there is no such file and no such experiment.
    """
    if not name:
        raise BadInput("--config: it is empty; name an experiment, such as cnn, or an experiment file")
    known = experiments()
    if name in known and not is_file(name):
        return known[name]
    path = read_path(name, "--config")
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError as error:  # for example, a name that is too long
        raise BadInput(printable(f"--config: {path} cannot be read ({error.strerror}); name another file")) from error
    kind = "a folder, not an experiment file" if is_folder else "neither an experiment nor an experiment file"
    raise BadInput(f"--config: {name!r} is {kind}{_similar(name, list(known))}")


def is_file(text: str) -> bool:
    """Whether it names a file. False if it cannot be a path."""
    try:
        return Path(text).is_file()
    except OSError:  # for example, the name is too long
        return False


def _similar(name: str, known: list[str]) -> str:
    """The end of a message: the most similar experiment or file. `experiments/cnn.py` is similar to `cnn`."""
    stem = Path(name).stem.lower()
    if stem in known:
        return nearest(stem, known)
    files = [file for file in map(str, Path(name).parent.glob("*.py")) if is_file(file)]
    close = difflib.get_close_matches(name, [*known, *files])
    return nearest(name, close) if close else nearest(stem, known)


def _arguments(get_config: Callable[..., Any], variant: str, path: Path) -> list[str]:
    """The arguments of get_config(), which may have no parameter, or one for the variant."""
    arguments = [variant] if variant else []
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        advice = f"takes no variant; leave out {':' + variant!r}" if variant else "needs a variant; add ':<variant>'"
        raise BadInput(f"--config: get_config() of {path} {advice} ({in_one_line(error)})") from error
    return arguments


def _reason(error: Exception) -> str:
    """The error in one line. The one of a locked config would list all fields before it names the most similar."""
    unknown = re.search(r'Key "(\w+)" does not exist', str(error)) if isinstance(error, AttributeError) else None
    return f"no such field {unknown[1]!r}{nearest(unknown[1], list(base_config()))}" if unknown else in_one_line(error)


def _location(path: Path, error: BaseException) -> str:
    """The line of the file that raised the error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):  # else in a module that it imports
        lines = [error.lineno]
    return f"{path}, line {lines[-1]}" if lines and lines[-1] else str(path)
