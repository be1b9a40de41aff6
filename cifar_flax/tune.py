"""`python -m cifar_flax.tune --config cnn_tuned --space cnn_space --trials 50`: searches for better values.

Optuna chooses the values, which `space(trial)` of the file --space suggests. Each trial is a run in WORKDIR/trial<N>,
with the config's seed. Trials are compared and pruned by validation loss; the test images are used once, at the end,
for the best trial. The same command resumes an interrupted search, and given in several terminals or on several hosts
with a shared folder it adds workers. Exit codes: 0 done, 1 diverged or failed, 2 bad input, 130 and 143 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.experiment import experiments, is_file
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, import_problem, nearest
from cifar_flax.training.checks import check_config
from cifar_flax.workdir.identity import with_absolute_paths

MAX_TRIALS = 100_000  # more is probably a typo


def parse(argv: Sequence[str]) -> tuple[ConfigDict, Path, argparse.Namespace]:
    """The config with its overrides and absolute paths, the workdir of the search, and the other flags.

    Raises:
        BadInput: an argument cannot be used.
    """
    parser = Parser(prog="python -m cifar_flax.tune", description=__doc__, allow_abbrev=False, add_help=False)
    space_help = f"a Python file with space(trial), or one of the package: {', '.join(experiments('spaces'))}"
    parser.add_argument("--space", required=True, metavar="FILE", help=space_help)
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="in all, of all workers; default: 50")
    storage_help = "of a database for the study, as postgresql+psycopg://user@host/name; default: a file in the workdir"
    parser.add_argument("--storage", metavar="URL", help=storage_help)
    config, workdir, arguments = flags.parse(parser, argv)
    check_config(config)
    if not config.num_validation:
        raise BadInput("config.num_validation: 0 is not valid; use 1 or more, because trials are compared on them")
    if config.patience:
        raise BadInput(f"config.patience: {config.patience} is not valid; use 0, because the search ends poor trials")
    if not 1 <= arguments.trials <= MAX_TRIALS:
        raise BadInput(f"--trials: {arguments.trials} is not valid; use a number from 1 to {MAX_TRIALS:,}")
    if arguments.workdir is None:
        workdir = workdir.with_name(f"{workdir.name}_search")
    return with_absolute_paths(config), workdir, arguments


def find_space(name: str) -> Path:
    """The file that `--space` names. Raises BadInput if there is no such file."""
    path, known = read_path(name, "--space"), experiments("spaces")
    if is_file(str(path)):
        return path
    if name not in known:
        raise BadInput(f"--space: {name!r} is neither a file nor a search space{nearest(name, list(known))}")
    return known[name]


def import_tuning() -> tuple[Any, Any]:
    """The modules of the space and the search, which need packages that are optional."""
    try:
        from cifar_flax.tuning import search, space
    except ImportError as error:
        problem = import_problem(error, "optuna or plotly")
        raise BadInput(f"the search needs more packages, and {problem}; run: pip install 'cifar_flax[tune]'") from error
    return space, search


def command(argv: Sequence[str]) -> None:
    config, workdir, arguments = parse(argv)
    space, search = import_tuning()
    chosen = space.Space(find_space(arguments.space), config, flags.of_config(argv))
    search.search(config, chosen, workdir, arguments.trials, arguments.storage)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
