"""`python -m cifar_flax.sweep --config experiments/cnn.py --seeds 0-4`: one experiment with several seeds.

Each seed is a run in runs/<experiment>/seed<N>. Several are trained at once, each in a process with CPUs or a GPU of
its own (--jobs), or all in one program on one device (--together). The same command resumes an interrupted sweep and
skips the seeds that are done. Given at the same time in several terminals or on several machines, it shares the seeds
among them. Exit codes: 0 done, 1 a seed diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data import load
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, Locked
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.reporting.formatting import describe_seeds
from cifar_flax.sweeping.at_once import Workers, at_once
from cifar_flax.sweeping.display import Display
from cifar_flax.sweeping.outcomes import Outcomes
from cifar_flax.sweeping.places import find_places
from cifar_flax.sweeping.processes import Processes
from cifar_flax.sweeping.together import Together
from cifar_flax.train import train_and_evaluate
from cifar_flax.training.checks import check_config
from cifar_flax.workdir.lock import is_locked
from cifar_flax.workdir.records import Records

MAX_SEEDS = 1_000  # more is probably a typo
POLL_SECONDS = 1.0  # between two attempts at the seeds that other processes train

TrainRun = Callable[[ConfigDict, Path], dict[str, Any]]  # such as `train_and_evaluate`
Train = Callable[[int, TrainRun], None]  # trains a seed
Attempt = Callable[[Sequence[int]], dict[int, Locked]]  # trains seeds, and returns those that other processes train


class Way(NamedTuple):
    """How several seeds are trained at once.

    Attributes:
        jobs: in as many processes; None: as many as pay.
        together: in one program.
    """

    jobs: int | None = None
    together: bool = False


ONE_BY_ONE = Way(jobs=1)


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


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path, list[int], Way]:
    """The config with its overrides, the folder of the workdirs, the seeds, and how to train them.

    Raises:
        BadInput: an argument cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.sweep", description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("--seeds", default="0-4", help="for example 0-4, 7 or 0,3,8-9; default: 0-4")
    jobs_help = "number of seeds at a time, in processes of their own; default: one for each CPU or GPU"
    parser.add_argument("--jobs", type=int, metavar="N", help=jobs_help)
    parser.add_argument("--together", action="store_true", help="train the seeds in one program, for one accelerator")
    config, folder, arguments = flags.parse(parser, argv)
    if any(argument.split("=")[0] == "--config.seed" for argument in argv):
        raise BadInput("--config.seed: a sweep takes its seeds from --seeds; give them there")
    if arguments.jobs is not None and arguments.together:
        raise BadInput("--jobs: it is not valid with --together, which needs a single process; leave one of them out")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise BadInput(f"--jobs: {arguments.jobs} is not valid; use a number from 1 on, or leave it out")
    return config, folder, parse_seeds(arguments.seeds), Way(arguments.jobs, arguments.together)


def sweep(config: ConfigDict, folder: Path, seeds: Sequence[int], way: Way = ONE_BY_ONE) -> None:
    """Trains the seeds that are not done yet, and prints a table of all.

    A seed that another process is training is left to it. When the others are done, the sweep returns to it, and trains
    it if the other process ended without finishing it. A seed that diverges, whose workdir cannot be used, or whose
    process fails does not stop the others.

    Raises:
        BadInput: at once if it concerns all seeds; after all others are done if it concerns one seed's workdir.
        Failed, Diverged: after all other seeds are done, if one failed or diverged.
        Interrupted, Unwritable: as in `train_and_evaluate`, when all seeds in progress are saved.
    """
    workdirs = {seed: read_path(folder / f"seed{seed}", "--workdir") for seed in seeds}
    outcomes = Outcomes(config.experiment, folder)

    def train(seed: int, train_run: TrainRun) -> None:
        own = config.copy_and_resolve_references()
        own.seed = seed
        with outcomes.collected(seed, workdirs[seed]):
            outcomes.runs[seed] = train_run(own, workdirs[seed])

    with Interruption() as interruption:  # a signal that arrives when a seed is almost done ends the sweep after it
        make_workers = choose_workers(config, list(workdirs.values()), way, interruption)
        if make_workers:
            console.say(f"{config.experiment}, {describe_seeds(seeds)}, {make_workers(len(seeds)).description}")
            console.say(f"workdir     {console.relative(folder)}\n")
            attempt = partial(train_at_once, train, make_workers, interruption)
        else:
            attempt = partial(train_in_turn, train, interruption)
        train_all(seeds, workdirs, attempt, interruption)
    outcomes.report(seeds)


def choose_workers(
    config: ConfigDict, workdirs: Sequence[Path], way: Way, interruption: Interruption
) -> Callable[[int], Workers] | None:
    """What makes the workers for a number of seeds. None: the seeds are trained in this process, one after the other.

    Raises:
        BadInput: as in `sweep`, if it concerns all seeds.
    """
    if way == ONE_BY_ONE or all(map(_is_done, workdirs)):
        return None
    check_config(config)
    if way.together:
        return partial(Together, interruption=interruption)
    places = find_places(way.jobs, len(workdirs))  # whatever is done: a resumed seed gets as many CPUs as before
    if len(places) == 1:
        return None
    load(config)  # caches the images, which otherwise all processes would decode at the same time
    return lambda _count: Processes(places)


def _is_done(workdir: Path) -> bool:
    try:
        return Records(workdir).done
    except BadInput:  # reported when the seed's turn comes
        return False


def train_in_turn(train: Train, interruption: Interruption, seeds: Sequence[int]) -> dict[int, Locked]:
    """Trains seeds one after the other in this process. Returns those that other processes train."""
    locked = {}
    for number, seed in enumerate(seeds, 1):
        interruption.raise_if_received()
        console.say(f"seed {seed}, {number} of {len(seeds)}\n")
        try:
            train(seed, train_and_evaluate)
        except Locked as error:
            console.say("another process is training it; this sweep returns to it at the end\n")
            locked[seed] = error
    return locked


def train_at_once(
    train: Train, make_workers: Callable[[int], Workers], interruption: Interruption, seeds: Sequence[int]
) -> dict[int, Locked]:
    """Trains several seeds at once. Returns those that other processes train."""
    interruption.raise_if_received()
    workers = make_workers(len(seeds))

    def train_shown(seed: int) -> None:
        with display.row(seed) as row:

            def train_run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
                run = workers.train(config, workdir, row)
                row.result(run)
                return run

            train(seed, train_run)

    with Display() as display:
        return at_once(train_shown, seeds, workers, interruption)


def train_all(seeds: Sequence[int], workdirs: dict[int, Path], attempt: Attempt, interruption: Interruption) -> None:
    """Attempts to train the seeds, and again those that other processes train when these have ended.

    Raises:
        Interrupted: a signal arrived, and not all seeds are done.
    """
    locked = attempt(seeds)
    for seed, error in locked.items():
        console.say(f"waiting for seed {seed}: {str(error).removeprefix('--workdir: ')}")
    while locked:
        interruption.raise_if_received()
        sleep(POLL_SECONDS)
        free = [seed for seed in locked if not is_locked(workdirs[seed])]
        if free:
            locked = {seed: error for seed, error in locked.items() if seed not in free} | attempt(free)


def command(argv: Sequence[str]) -> None:
    sweep(*parse(argv))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
