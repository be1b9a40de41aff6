"""`python -m cifar_flax.main --config experiments/cnn.py`: trains, validates, tests and records one run.

Exit codes: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# TensorFlow, which only reads TFDS and writes TensorBoard's events here, is silent unless asked to speak; its remark
# on oneDNN comes before it heeds the first of these
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import absl.logging
from ml_collections import ConfigDict

from cifar_flax.config import CHOICES, load_experiment, nearest, split_spec
from cifar_flax.errors import BadInput, Diverged, Interrupted
from cifar_flax.train import train_and_evaluate

FIRST_RUN = "experiments/cnn_augmented.py:demo"


class Parser(argparse.ArgumentParser):
    """One that reports a mistake as every other bad input is reported."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config with its overrides, and the workdir.

    Raises:
        BadInput: an argument that cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.main", description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", default=FIRST_RUN, metavar="FILE[:VARIANT]", help=f"default: {FIRST_RUN}")
    parser.add_argument("--workdir", help="default: runs/<experiment>, runs/<experiment>_<variant>")
    known, _ = parser.parse_known_args(argv)
    config = load_experiment(known.config)

    fields = parser.add_argument_group("fields of the config", "cifar_flax/config.py says what each of them means")
    for field, value in config.items():
        possible = "|".join(CHOICES.get(field, ())) or config.get_type(field).__name__
        fields.add_argument(
            f"--config.{field}", type=config.get_type(field), default=value, metavar=possible, help=f"default: {value}"
        )
    parser.add_argument("-h", "--help", action="help", help="show this and end")
    arguments, stray = parser.parse_known_args(argv)
    for argument in stray:
        name = argument.split("=")[0]
        flags = ["--config", "--workdir", *(f"--config.{field}" for field in config)]
        raise BadInput(f"{name}: no such flag{nearest(name, flags)}")
    for field in config:
        config[field] = getattr(arguments, f"config.{field}")
    name = "_".join(filter(None, (config.experiment, split_spec(known.config)[1])))
    return config, Path(arguments.workdir or f"runs/{name}")


def main(argv: Sequence[str] | None = None) -> int:
    absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS' and Orbax' remarks
    try:
        config, workdir = parse(sys.argv[1:] if argv is None else argv)
        train_and_evaluate(config, workdir)
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


if __name__ == "__main__":
    sys.exit(main())
