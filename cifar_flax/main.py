"""`python -m cifar_flax.main --config cnn`: trains, validates, tests and records one run.

The records, checkpoints and figures are written to --workdir, by default runs/<experiment>. The same command resumes an
interrupted run. Exit codes: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.distributed.place import add_flags, find_place
from cifar_flax.distributed.supervisor import supervise
from cifar_flax.distributed.trainer import VARIABLE, train_supervised
from cifar_flax.train import train_and_evaluate

DEFAULT_CONFIG = "cnn_augmented:demo"


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config of `--config` with its overrides, and the workdir.

    Raises:
        BadInput: an argument cannot be used.
    """
    config, workdir, _ = _parse(argv)
    return config, workdir


def _parse(argv: Sequence[str]) -> tuple[ConfigDict, Path, argparse.Namespace]:
    parser = Parser(prog="python -m cifar_flax.main", description=__doc__, allow_abbrev=False, add_help=False)
    profile_help = "first record a profile of a few training steps, in the workdir"
    parser.add_argument("--profile", action="store_true", help=profile_help)
    add_flags(parser)
    return flags.parse(parser, argv, default=DEFAULT_CONFIG)


def command(argv: Sequence[str]) -> None:
    config, workdir, arguments = _parse(argv)
    train = partial(train_and_evaluate, config, workdir, profile=arguments.profile)
    place = find_place(arguments)
    if place is None:
        train()
    elif VARIABLE in os.environ:
        train_supervised(config, train)
    else:
        raise SystemExit(supervise(place, config, argv))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
