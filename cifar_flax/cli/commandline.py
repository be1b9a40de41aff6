"""What every command does alike: its mistakes in one line, and its exit codes."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import absl.logging

from cifar_flax.errors import BadInput, Diverged, Interrupted, Unwritable


class Parser(argparse.ArgumentParser):
    """One that reports a mistake as every other bad input is reported."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    @property
    def flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def quiet() -> None:
    """Silences the libraries that speak unasked; to be called before TensorFlow is imported."""
    # TensorFlow's remark on oneDNN comes before it heeds the first of these; it only reads TFDS and writes events here
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    absl.logging.set_verbosity(absl.logging.FATAL)  # TFDS' and Orbax' remarks, and errors that they raise as well
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what Orbax' tasks raise is raised to us, too
    sys.unraisablehook = _report


def _report(unraisable: Any) -> None:
    """Reports an error as Python does, but for what TensorStore and Orbax say late of one that has been raised."""
    if not str(unraisable.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
        sys.__unraisablehook__(unraisable)


def choose_xla_options() -> None:
    """Has XLA's CPU backend write all results of an optimizer's update in one pass; before jax finds its devices.

    Not on by default yet in jaxlib 0.10; the options that the user chose stay. Other backends do not read it.
    """
    chosen = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in chosen:
        os.environ["XLA_FLAGS"] = f"{chosen} --xla_backend_extra_options=xla_cpu_use_multi_output_fusion".lstrip()


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted; says which in one line.

    Nobody is left to be told where its output was cut off, as by `| head`: 141, what a shell makes of SIGPIPE.
    """
    quiet()
    choose_xla_options()
    try:
        command()
        sys.stdout.flush()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"diverged: {error}; a lower config.learning_rate, in another --workdir, may help", file=sys.stderr)
        return 1
    except Unwritable as error:
        print(f"failed: {error}; what was saved before is still there", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"{error}; the state is saved, the same command goes on from here", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("interrupted at once; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's last flush must not fail again
        return 141
    return 0
