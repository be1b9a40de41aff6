"""`python -m cifar_flax.sweep --config experiments/cnn.py --seeds 0-4`: one experiment with several seeds.

Each seed is a run in runs/<experiment>/seed<N>. The same command resumes an interrupted sweep and skips the seeds that
are done. Exit codes: 0 done, 1 a seed diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.errors import BadInput, Diverged
from cifar_flax.reporting import console
from cifar_flax.reporting.formatting import describe_seeds
from cifar_flax.train import train_and_evaluate

MAX_SEEDS = 1_000  # more is probably a typo


def parse_seeds(text: str) -> list[int]:
    """Parses `0-4`, `7` or `0,3,8-9`, in this order.

    Raises:
        BadInput: any other text, or the same seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*\d{1,10}(-\d{1,10})?\s*", part):
            raise BadInput(f"--seeds: {text!r} is not valid; give numbers such as 0-4 or 0,3,8-9")
        first, _, last = part.partition("-")
        chosen = range(int(first), int(last or first) + 1)
        if not chosen or len(seeds) + len(chosen) > MAX_SEEDS:
            raise BadInput(f"--seeds: {part!r} is not valid; give 1 to {MAX_SEEDS:,} seeds, the smaller number first")
        seeds += chosen
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds: {text!r} names a seed twice; give each once")
    return seeds


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path, list[int]]:
    """The config with its overrides, the folder of the workdirs, and the seeds.

    Raises:
        BadInput: an argument cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.sweep", description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("--seeds", default="0-4", help="for example 0-4, 7 or 0,3,8-9; default: 0-4")
    config, folder, arguments = flags.parse(parser, argv)
    if any(argument.split("=")[0] == "--config.seed" for argument in argv):
        raise BadInput("--config.seed: a sweep takes its seeds from --seeds; give them there")
    return config, folder, parse_seeds(arguments.seeds)


def sweep(config: ConfigDict, folder: Path, seeds: Sequence[int]) -> None:
    """Trains the seeds that are not done yet, one after the other, and prints a table of all.

    A seed that diverges does not stop the others.

    Raises:
        Diverged: after all other seeds are done, if one diverged.
        BadInput, Interrupted, Unwritable: at once, as in `train_and_evaluate`.
    """
    runs, diverged = [], []
    for number, seed in enumerate(seeds, 1):
        console.say(f"seed {seed}, {number} of {len(seeds)}\n")
        try:
            config.seed = seed
            runs.append(train_and_evaluate(config, folder / f"seed{seed}"))
        except Diverged as error:
            console.say(f"diverged: {error}\n")
            diverged.append(seed)
    if runs:
        console.say(console.seeds_table(runs))
    if diverged:
        raise Diverged(f"{describe_seeds(diverged)} of {config.experiment}, see above")


def command(argv: Sequence[str]) -> None:
    sweep(*parse(argv))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
