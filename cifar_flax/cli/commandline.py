"""What all commands share: one-line errors, exit codes, quiet libraries, XLA's options."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging

from cifar_flax.errors import BadInput, Diverged, Interrupted, Unwritable


class Parser(argparse.ArgumentParser):
    """An argument parser that raises BadInput."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    @property
    def flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def silence_libraries() -> None:
    """Silences third-party logging. Must be called before TensorFlow is imported."""
    # TensorFlow prints its note on oneDNN before it reads the log level; here it only reads TFDS and writes events
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    absl.logging.set_verbosity(absl.logging.FATAL)  # TFDS and Orbax, also for errors that they raise as well
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # errors of Orbax's tasks, which it raises as well
    sys.unraisablehook = _report_unraisable


def _report_unraisable(unraisable: Any) -> None:
    """Python's report, except for late reports by TensorStore and Orbax of errors that they have already raised."""
    if not str(unraisable.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
        sys.__unraisablehook__(unraisable)


def choose_xla_options() -> None:
    """Lets XLA's CPU backend write all results of an optimizer update in one pass. Must run before jax finds devices.

    The option is off by default in jaxlib 0.10, and other backends do not read it. Options in XLA_FLAGS are kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options=xla_cpu_use_multi_output_fusion".lstrip()


def exit_code(command: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> int:
    """Runs a command on `argv`, by default sys.argv, and reports how it ended in one line.

    Returns:
        0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted, 141 (SIGPIPE) if the reader of its output
        went away, as in `| head`.
    """
    silence_libraries()
    choose_xla_options()
    try:
        command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"diverged: {error}; try a lower config.learning_rate in another --workdir", file=sys.stderr)
        return 1
    except Unwritable as error:
        print(f"failed: {error}; what was saved before is still there", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"{error}; the state is saved, the same command resumes from here", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("interrupted at once; run the same command again", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's last flush does not fail
        return 141
    return 0
