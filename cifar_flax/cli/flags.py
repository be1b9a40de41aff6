"""The fields of a config as flags: `--config experiments/cnn.py:smoke --config.seed=1 --workdir runs/short`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.cli.commandline import Parser
from cifar_flax.config import CHOICES, load_experiment, nearest, split_spec
from cifar_flax.errors import BadInput


def true_or_false(text: str) -> bool:
    """Raises ValueError for any other word."""
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


TYPES = {bool: true_or_false}  # where the type itself does not read its text


def parse(
    parser: Parser, argv: Sequence[str], default: str | None = None
) -> tuple[ConfigDict, Path, argparse.Namespace]:
    """The config with its overrides, the workdir, and the parser's own flags beside them.

    Args:
        parser: made without help, which is added here, when the config's fields are known.
        argv: what was typed after the command.
        default: the experiment where `--config` is not given; without one it must be.

    Raises:
        BadInput: an argument that cannot be used.
    """
    usual = f"default: {default}" if default else "such as experiments/cnn.py"
    parser.add_argument("--config", default=default, required=not default, metavar="FILE[:VARIANT]", help=usual)
    parser.add_argument("--workdir", help="default: runs/<experiment>, runs/<experiment>_<variant>")
    known = Parser(prog=parser.prog, allow_abbrev=False, add_help=False)
    known.add_argument("--config", default=default)
    spec = known.parse_known_args(argv)[0].config
    config = load_experiment(spec) if spec is not None else ConfigDict()

    fields = parser.add_argument_group("fields of the config", "cifar_flax/config.py says what each of them means")
    for field, value in config.items():
        possible = "|".join(CHOICES.get(field, ())) or config.get_type(field).__name__
        fields.add_argument(
            f"--config.{field}",
            type=TYPES.get(config.get_type(field), config.get_type(field)),
            default=value,
            metavar=possible,
            help=f"default: {value}",
        )
    parser.add_argument("-h", "--help", action="help", help="show this and end")
    arguments, stray = parser.parse_known_args(argv)
    for argument in stray:
        name = argument.split("=")[0]
        raise BadInput(f"{name!r}: no such flag{nearest(name, parser.flags)}")
    for field in config:
        config[field] = getattr(arguments, f"config.{field}")
    name = "_".join(filter(None, (config.experiment, split_spec(spec)[1])))
    return config, Path(arguments.workdir or f"runs/{name}"), arguments
