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


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config of `--config` with its overrides, and the workdir.

    Raises:
        BadInput: an argument cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.main", description=__doc__, allow_abbrev=False, add_help=False)
    config, workdir, _ = flags.parse(parser, argv, default=DEFAULT_CONFIG)
    return config, workdir


def command(argv: Sequence[str]) -> None:
    config, workdir = parse(argv)
    train_and_evaluate(config, workdir)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
