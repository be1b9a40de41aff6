"""What all commands share: one-line errors, exit codes, quiet libraries."""

import argparse
import contextlib
import gc
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import absl.logging

from cifar_flax.cli.streams import flush_stdout, repair_streams
from cifar_flax.errors import BadInput, Diverged, Failed, Interrupted, Unwritable, in_one_line, is_out_of_memory, warn
from cifar_flax.ops.xla_options import choose_options

# how a command can end that is not a bug of the program
OUTCOMES = (BadInput, Diverged, Failed, Unwritable, Interrupted, KeyboardInterrupt)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises BadInput."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    @property
    def flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def silence_libraries() -> None:
    """Silences third-party logging. Must be called before TensorFlow is imported."""
    silence_tensorflow()
    try:
        Path.home()
    except RuntimeError:  # no home folder; Keras would create a folder named ~ here
        os.environ.setdefault("KERAS_HOME", tempfile.gettempdir())
    absl.logging.set_verbosity(absl.logging.FATAL)  # TFDS and Orbax, also for errors that they raise as well
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # errors of Orbax's tasks, which it raises as well
    sys.unraisablehook = _report_unraisable


def silence_tensorflow() -> None:
    """Silences TensorFlow, unless it is imported already or the user has set these variables."""
    # it prints its note on oneDNN before it reads the log level; here it only reads TFDS and writes events
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def collect_garbage_rarely() -> None:
    """Lets Python look for cyclic garbage less often than by default.

    Nearly all objects stay while libraries are imported and programs traced, and each search goes through them again.
    The arrays of a run are in no cycles, so their memory does not wait for a search.
    """
    gc.set_threshold(10_000)


def _report_unraisable(unraisable: Any) -> None:
    """Python's report, except for late reports by TensorStore and Orbax of errors that they have already raised."""
    if not str(unraisable.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
        sys.__unraisablehook__(unraisable)


def exit_code(command: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> int:
    """Runs a command on `argv`, by default sys.argv, and reports how it ended in one line.

    Returns:
        0 done, 1 diverged or failed, 2 bad input, 128 + the signal's number for an interrupted run (130 and 143 for
        SIGINT and SIGTERM), 141 (SIGPIPE) if the reader of its output went away, as in `| head`.
    """
    repair_streams()
    silence_libraries()
    collect_garbage_rarely()
    try:
        return _exit_code(command, sys.argv[1:] if argv is None else argv)
    finally:
        with contextlib.suppress(Unwritable, BrokenPipeError):
            flush_stdout()


def _exit_code(command: Callable[[Sequence[str]], object], argv: Sequence[str]) -> int:
    try:
        choose_options()
        command(argv)
        flush_stdout()
    except BrokenPipeError:
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if is_bug(error):
            raise
        code, line = describe(error)
        warn(line)
        return code
    return 0


def is_bug(error: BaseException) -> bool:
    """Whether a command that ends with this error shall print a traceback."""
    return not isinstance(error, OUTCOMES) and not is_out_of_memory(error)


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code of a command that ends with this error, and the line that it prints."""
    match error:
        case BadInput():
            return 2, f"error: {error}"
        case Diverged():
            return 1, f"diverged: {error}; try a lower config.learning_rate in another --workdir"
        case Failed() | Unwritable():
            return 1, f"failed: {error}; what was saved before is still there"
        case Interrupted():
            return 128 + error.signal_number, f"{error}; the state is saved, the same command resumes from here"
        case KeyboardInterrupt():
            return 130, "interrupted at once; run the same command again"
        case Exception() if is_out_of_memory(error):
            return 1, f"failed: out of memory ({in_one_line(error)})"
        case Exception():
            return 1, f"failed: {in_one_line(error)}"
    raise error
