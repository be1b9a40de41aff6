"""Loads the config of an experiment file."""

import runpy
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.errors import BadInput, in_one_line, nearest


def split_spec(spec: str) -> tuple[str, str]:
    """Splits `file.py:variant` into (file, variant); the variant of `file.py` is ""."""
    file, colon, variant = spec.rpartition(".py:")
    return (f"{file}.py", variant) if colon else (spec, "")


def load_experiment(spec: str) -> ConfigDict:
    """The locked config of `experiments/cnn.py` or `experiments/cnn.py:smoke`.

    Raises:
        BadInput: there is no such file, it raises an error (reported with its line), or it returns no config.
    """
    file, variant = split_spec(spec)
    path = Path(file)
    try:
        exists = path.is_file()
    except OSError as error:  # for example, a name that is too long
        raise BadInput(f"--config: no experiment file ({in_one_line(error)})") from error
    if not exists:
        raise BadInput(f"--config: no experiment file {str(path)!r}{_nearest_file(path)}")
    try:
        config = runpy.run_path(str(path))["get_config"](*([variant] if variant else []))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"--config: {_location(path, error)}: {in_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise BadInput(f"--config: get_config() of {path} returns {type(config).__name__}, not a ConfigDict")
    return config.lock()


def _nearest_file(path: Path) -> str:
    files = [str(other) for other in sorted(path.parent.glob("*.py"))]
    return nearest(str(path), files) if files else "; name a file such as experiments/cnn.py"


def _location(path: Path, error: Exception) -> str:
    """The line of the experiment file that raised the error."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)
