"""`python -m cifar_flax.export --workdir runs/cnn`: writes a run's network to a file of another format.

The checkpoint is the best one or, without validation images, the newest. Formats:

    npz: plain arrays for `numpy.load`.
    safetensors: the same arrays, with the class names, the accuracy and other metadata.
    keras: the same network as a Keras model.
    stablehlo: a folder with a program that needs no library but JAX.

In a .npz and a .safetensors, arrays have names such as `params/conv1/kernel` and `batch_stats/norm1/mean`.
"""

import sys
from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.paths import read_path
from cifar_flax.inference import Classifier, load_run
from cifar_flax.models import make_model
from cifar_flax.weights import FORMATS
from cifar_flax.weights.contents import Network, Weights, is_normalized
from cifar_flax.workdir.output import output_file, output_folder


def parameters(classifier: Classifier) -> dict[str, np.ndarray]:
    """All parameters and running statistics by their paths."""
    tree = jax.device_get({"params": classifier.params, "batch_stats": classifier.batch_stats})
    return flatten_dict(tree, sep="/")


def network_of(classifier: Classifier) -> Network:
    """The network of a run, with the lowering that all devices can compute."""
    config = classifier.config.copy_and_resolve_references()
    config.lowering = "library"
    arrays = parameters(classifier)
    module = make_model(config, len(classifier.class_names))
    return Network(module, Weights(arrays, _metadata(classifier, is_normalized(arrays))))


def _metadata(classifier: Classifier, normalized: bool) -> dict[str, Any]:
    run, is_best = classifier.run, classifier.epoch == classifier.run.get("best_epoch")
    standardized = "; the network standardizes them itself (batch_stats/normalize)" if normalized else ""
    accuracies = {
        "validation_accuracy": run.get("best_validation_accuracy") if is_best else None,
        "test_accuracy": run.get("test_accuracy") if classifier.done else None,
    }
    return {
        "model": classifier.config.model,
        "experiment": classifier.config.experiment,
        "epoch": classifier.epoch,
        "class_names": list(classifier.class_names),
        "image_shape": list(classifier.image_shape),
        "input": f"images [N, H, W, C], uint8 / 255 as float32 in [0, 1]{standardized}",
        "normalize": normalized,
        **{name: accuracy for name, accuracy in accuracies.items() if accuracy is not None},
        "framework": f"flax {flax.__version__}, jax {jax.__version__}",
        "license": "",  # the user's to fill in
    }


def command(argv: Sequence[str]) -> None:
    defaults = ", ".join(form.output + "/" * bool(form.files) for form in FORMATS.values())
    parser = Parser(prog="python -m cifar_flax.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--format", choices=FORMATS, default="npz", help="default: npz")
    parser.add_argument("--output", help=f"default, depending on the format: {defaults} in the workdir")
    arguments = parser.parse_args(argv)
    form = FORMATS[arguments.format]
    workdir = read_path(arguments.workdir, "--workdir")
    output = read_path(workdir / form.output if arguments.output is None else arguments.output, "--output")
    network = network_of(load_run(workdir))
    opened = output_folder(output, "--output", form.files) if form.files else output_file(output, "--output")
    with opened as temporary:
        form.write(temporary, network)
    arrays = network.weights.arrays.values()
    say(f"{output}: {len(arrays)} arrays, {sum(array.size for array in arrays):,} values")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
