"""`python -m benchmarks.accelerator`: all measurements on an accelerator, in pieces of at most 25 minutes.

Checks the numbers of all programs against the CPU, compares their speed with PyTorch's, trains the 94 % recipes and
AlexNet, and profiles a few steps (parts.py). Each part runs in a process of its own and is written when it is done.
The same command goes on with the parts that are missing: those that did not fit into --minutes, failed or changed.
`make results` renders the file into docs/performance.md.
"""

import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks.accelerator.parts import all_parts, tiny_parts
from benchmarks.accelerator.session import begin, open_record, run_parts
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.errors import BadInput, Interrupted

RESULTS = Path(__file__).parents[2] / "results"


def command(argv: Sequence[str]) -> None:
    options = parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory() as folder:
        # a program that occurs twice, such as that of the next seed, is compiled once
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        start = begin(options.dataset)
        machine = start["machine"]
        if machine["platform"] == "cpu" and not options.tiny:
            raise BadInput("JAX finds no accelerator; install jax for yours, or try --tiny on the CPU")
        kind = re.sub(r"\W+", "_", machine["device_kind"].lower())
        path = options.output or RESULTS / f"accelerator_{kind}.json"
        record = open_record(path, start)
        parts = tiny_parts() if options.tiny else all_parts()
        run_parts(parts, record, path, options.dataset, options.minutes)


def parse(argv: Sequence[str]) -> Any:
    parser = Parser(prog="python -m benchmarks.accelerator", description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset", default="cifar10", help="same values as config.dataset, such as cifar10.npz")
    parser.add_argument("--minutes", type=float, default=25.0, help="at most; the rest is left for the next call")
    parser.add_argument("--output", type=Path, help="JSON file; default: results/accelerator_KIND.json")
    parser.add_argument("--tiny", action="store_true", help="a small form of all parts, also on a CPU")
    options = parser.parse_args(argv)
    if not 0 < options.minutes < math.inf:
        raise BadInput(f"--minutes: {options.minutes:g} is not valid; use a positive number")
    if options.tiny and not options.output:
        raise BadInput("--tiny: its numbers are not published; name a file with --output")
    return options


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(exit_code(command))
