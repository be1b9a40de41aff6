"""The fields of a config as flags: `--config cnn:smoke --config.seed=1 --workdir runs/short`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.cli.commandline import Parser
from cifar_flax.cli.experiment import experiments, load_experiment, split_spec
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, nearest
from cifar_flax.training.checks import CHOICES


def boolean(text: str) -> bool:
    """Raises ValueError for any other word."""
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def of_config(argv: Sequence[str]) -> list[str]:
    """The arguments that make the config: `--config` and its overrides, with their values."""
    chosen = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.match(r"--config(\.\w+)?(=|$)", argument):
            chosen += [argument] if "=" in argument else [argument, following]
    return chosen


PARSERS = {bool: boolean}  # for types that do not parse their own text


def parse(
    parser: Parser, argv: Sequence[str], default: str | None = None
) -> tuple[ConfigDict, Path, argparse.Namespace]:
    """The config with its overrides, the absolute path of the workdir, and the parser's own flags.

    Args:
        parser: created without help, which is added here once the fields are known.
        argv: the arguments of the command.
        default: the experiment if `--config` is not given; None: it must be given.

    Raises:
        BadInput: an argument cannot be used.
    """
    help_text = f"{', '.join(experiments())}, or a file" + (f"; default: {default}" if default else "")
    parser.add_argument(
        "--config", default=default, required=not default, metavar="EXPERIMENT[:VARIANT]", help=help_text
    )
    parser.add_argument("--workdir", help="default: runs/<experiment> or runs/<experiment>_<variant>")
    config_parser = Parser(prog=parser.prog, allow_abbrev=False, add_help=False)
    config_parser.add_argument("--config", default=default)
    spec = config_parser.parse_known_args(argv)[0].config
    config = load_experiment(spec) if spec is not None else ConfigDict()

    fields = parser.add_argument_group("fields of the config", "cifar_flax/config.py explains each of them")
    for field, value in config.items():
        kind = config.get_type(field)
        fields.add_argument(
            f"--config.{field}",
            type=PARSERS.get(kind, kind),
            default=value,
            metavar="|".join(CHOICES.get(field, ())) or kind.__name__,
            help=f"default: {value}".replace("%", "%%"),
        )
    parser.add_argument("-h", "--help", action="help", help="show this message and exit")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        raise BadInput(f"{name!r}: no such flag{nearest(name, parser.flags)}")
    for field in config:
        config[field] = getattr(arguments, f"config.{field}")
    name = "_".join(filter(None, (str(config.get("experiment", "")), split_spec(spec)[1])))
    workdir = f"runs/{name}" if arguments.workdir is None else arguments.workdir
    return config, read_path(workdir, "--workdir"), arguments
