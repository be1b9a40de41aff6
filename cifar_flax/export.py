"""`python -m cifar_flax.export --workdir runs/cnn`: writes a run's parameters to a plain `.npz`.

The checkpoint is the best one or, without validation images, the newest.

Entries have names such as `params/conv1/kernel` and `batch_stats/norm1/mean`.
"""

import sys
from collections.abc import Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.paths import read_path
from cifar_flax.inference import Classifier, load_run
from cifar_flax.workdir.output import output_file


def parameters(classifier: Classifier) -> dict[str, np.ndarray]:
    """All parameters and running statistics by their paths."""
    tree = jax.device_get({"params": classifier.params, "batch_stats": classifier.batch_stats})
    return flatten_dict(tree, sep="/")


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--output", help="default: parameters.npz in the workdir")
    arguments = parser.parse_args(argv)
    workdir = read_path(arguments.workdir, "--workdir")
    output = read_path(workdir / "parameters.npz" if arguments.output is None else arguments.output, "--output")
    arrays = parameters(load_run(workdir))
    with output_file(output, "--output") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    say(f"{output}: {len(arrays)} arrays, {sum(array.size for array in arrays.values()):,} values")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
