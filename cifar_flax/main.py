"""`python -m cifar_flax.main --config cnn`: trains, validates, tests and records one run.

The records, checkpoints and figures are written to --workdir, by default runs/<experiment>. The same command resumes an
interrupted run. Exit codes: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.train import train_and_evaluate

DEFAULT_CONFIG = "cnn_augmented:demo"


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path, bool]:
    """The config of `--config` with its overrides, the workdir, and whether `--profile` is given.

    Raises:
        BadInput: an argument cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.main", description=__doc__, allow_abbrev=False, add_help=False)
    profile_help = "first record a profile of a few training steps, in the workdir"
    parser.add_argument("--profile", action="store_true", help=profile_help)
    config, workdir, arguments = flags.parse(parser, argv, default=DEFAULT_CONFIG)
    return config, workdir, arguments.profile


def command(argv: Sequence[str]) -> None:
    config, workdir, profile = parse(argv)
    train_and_evaluate(config, workdir, profile=profile)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
