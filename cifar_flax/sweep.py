"""`python -m cifar_flax.sweep --config experiments/cnn.py --seeds 0-4`: one experiment with several seeds.

Each seed is a run in runs/<experiment>/seed<N>. The same command resumes an interrupted sweep and skips the seeds that
are done. Given at the same time in several terminals or on several machines, it shares the seeds among them.
Exit codes: 0 done, 1 a seed diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, Diverged, Locked, warn
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.reporting.formatting import describe_seeds
from cifar_flax.train import train_and_evaluate

MAX_SEEDS = 1_000  # more is probably a typo
POLL_SECONDS = 1.0  # between two attempts at the seeds that other processes train


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

    A seed that another process is training is left to it. When the others are done, the sweep returns to it, and trains
    it if the other process ended without finishing it. A seed that diverges, or whose workdir cannot be used, does not
    stop the others.

    Raises:
        BadInput: at once if it concerns all seeds; after all others are done if it concerns one seed's workdir.
        Diverged: after all other seeds are done, if one diverged.
        Interrupted, Unwritable: at once, as in `train_and_evaluate`.
    """
    runs: dict[int, dict[str, Any]] = {}
    refused: list[int] = []
    diverged: list[int] = []

    def train(seed: int) -> None:
        config.seed, workdir = seed, read_path(folder / f"seed{seed}", "--workdir")
        try:
            runs[seed] = train_and_evaluate(config, workdir)
        except Diverged as error:
            console.say(f"diverged: {error}\n")
            diverged.append(seed)
        except BadInput as error:
            is_about_this_seed = str(workdir) in str(error) and folder.is_dir()
            if isinstance(error, Locked) or not is_about_this_seed:
                raise
            warn(f"error: {error}")
            refused.append(seed)

    with Interruption() as interruption:  # a signal that arrives when a seed is almost done ends the sweep after it
        train_all(seeds, train, interruption)
    if runs:
        console.say(console.seeds_table([runs[seed] for seed in seeds if seed in runs]))
    if refused:
        raise BadInput(f"{describe_seeds(refused)} of {config.experiment} could not be trained, see above")
    if diverged:
        raise Diverged(f"{describe_seeds(diverged)} of {config.experiment}, see above")


def train_all(seeds: Sequence[int], train: Callable[[int], None], interruption: Interruption) -> None:
    """Calls `train` with each seed, and retries those for which it raises Locked until it does not.

    Raises:
        Interrupted: a signal arrived, and not all seeds are done.
    """
    locked = []
    for number, seed in enumerate(seeds, 1):
        interruption.raise_if_received()
        console.say(f"seed {seed}, {number} of {len(seeds)}\n")
        try:
            train(seed)
        except Locked:
            console.say("another process is training it; this sweep returns to it at the end\n")
            locked.append(seed)
    announced = set()
    while locked:
        interruption.raise_if_received()
        for seed in list(locked):
            try:
                train(seed)
                locked.remove(seed)
            except Locked as error:
                if seed not in announced:
                    console.say(f"waiting for seed {seed}: {str(error).removeprefix('--workdir: ')}")
                    announced.add(seed)
        if locked:
            sleep(POLL_SECONDS)


def command(argv: Sequence[str]) -> None:
    sweep(*parse(argv))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
