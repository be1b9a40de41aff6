"""What every command does alike: its mistakes in one line, and its exit codes."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging

from cifar_flax.errors import BadInput, Diverged, Interrupted


class Parser(argparse.ArgumentParser):
    """One that reports a mistake as every other bad input is reported."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def quiet() -> None:
    """Silences the libraries that speak unasked; to be called before TensorFlow is imported."""
    # TensorFlow's remark on oneDNN comes before it heeds the first of these; it only reads TFDS and writes events here
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS' and Orbax' remarks


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command: 0 done, 1 diverged, 2 bad input, 130 and 143 interrupted; says on stderr which, in one line."""
    quiet()
    try:
        command()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"diverged: {error}; a lower config.learning_rate, in another --workdir, may help", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"{error}; the state is saved, the same command goes on from here", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("interrupted at once; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
