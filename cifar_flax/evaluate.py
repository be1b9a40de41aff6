"""`python -m cifar_flax.evaluate --workdir runs/cnn`: loss and accuracy of a run's network, class by class."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data import Split, load
from cifar_flax.errors import BadInput
from cifar_flax.inference import Classifier, load_run
from cifar_flax.training.programs import evaluate_all, place
from cifar_flax.training.steps import data_mesh, make_evaluate, replicated
from cifar_flax.training.tta import TTA


def evaluate(classifier: Classifier, split: Split, tta: str = "none") -> dict[str, Any]:
    """Loss, accuracy and accuracy by class over every image of a split, computed as in training.

    `tta` is a key of `tta.TTA`; with test-time augmentation all three are of its mean logits.

    Raises:
        BadInput: images of another shape than the run's.
    """
    if split.images.shape[1:] != classifier.image_shape:
        raise BadInput(
            f"--data_dir: the images are {list(split.images.shape[1:])}, "
            f"and those of the run {list(classifier.image_shape)}"
        )
    mesh, names = data_mesh(jax.devices()[:1]), classifier.class_names
    batch_size = classifier.config.eval_batch_size
    program = make_evaluate(classifier.model, num_classes=len(names), batch_size=batch_size, mesh=mesh, tta=tta)
    placed = place(split, len(split), replicated(mesh))
    found = evaluate_all(program, classifier, (*placed, np.int32(len(split))))
    right = found.predicted == split.labels
    by_class = {name: right[split.labels == label] for label, name in enumerate(names)}
    return {
        "num_images": len(split),
        "loss": found.loss,
        "accuracy": found.accuracy,
        "accuracy_by_class": {name: float(r.mean()) if len(r) else None for name, r in by_class.items()},
    }


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--data_dir", help="where TFDS' sets are now, if they were moved")
    parser.add_argument("--tta", choices=TTA, default="none", help="test-time augmentation (default: none)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    classifier = load_run(arguments.workdir)
    if arguments.data_dir:
        classifier.config.update(data_dir=arguments.data_dir)
    split = getattr(load(classifier.config), arguments.split)
    if not len(split):
        raise BadInput(f"--split: the run in {arguments.workdir} has no {arguments.split} images; name another split")
    found = evaluate(classifier, split, arguments.tta)
    run = classifier.run
    if arguments.json:
        origin = {"workdir": arguments.workdir, "status": run["status"], "epoch": classifier.epoch}
        print(json.dumps({**origin, "split": arguments.split, "tta": arguments.tta, **found}, indent=2))
        return
    unfinished = "" if run["status"] == "done" else f" so far (the run is {run['status']})"
    which = "the best" if run["num_validation_examples"] else "the last"
    print(f"{run['experiment']} on {run['dataset']}, epoch {classifier.epoch}, {which}{unfinished}")
    images = f"{arguments.split}, {arguments.tta}" if arguments.tta != "none" else arguments.split
    print(f"{images}: {found['num_images']:,} images, loss {found['loss']:.4f}, accuracy {found['accuracy']:.2%}")
    for name, accuracy in found["accuracy_by_class"].items():
        print(f"  {name:<14} {'no images' if accuracy is None else f'{accuracy:7.2%}'}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
