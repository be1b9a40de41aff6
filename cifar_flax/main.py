"""`python -m cifar_flax.main --config experiments/cnn.py`: trains, validates, tests and records one run.

Exit codes: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.commandline import Parser, exit_code
from cifar_flax.config import CHOICES, load_experiment, nearest, split_spec
from cifar_flax.errors import BadInput
from cifar_flax.train import train_and_evaluate

FIRST_RUN = "experiments/cnn_augmented.py:demo"


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
        raise BadInput(f"{name!r}: no such flag{nearest(name, flags)}")
    for field in config:
        config[field] = getattr(arguments, f"config.{field}")
    name = "_".join(filter(None, (config.experiment, split_spec(known.config)[1])))
    return config, Path(arguments.workdir or f"runs/{name}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: train_and_evaluate(*parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
