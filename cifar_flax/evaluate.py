"""`python -m cifar_flax.evaluate --workdir runs/cnn`: loss and accuracy of a run, class by class.

The checkpoint is the best one or, without validation images, the newest.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data import Split
from cifar_flax.errors import BadInput
from cifar_flax.inference import Classifier, load_run, load_split
from cifar_flax.training.evaluation import evaluate_split
from cifar_flax.training.memory import batch_fits
from cifar_flax.training.sharding import data_mesh
from cifar_flax.training.streaming import StreamedEvaluation, keep_split
from cifar_flax.training.tta import TTA
from cifar_flax.workdir.environment import find_devices


def evaluate(classifier: Classifier, split: Split, tta: str = "none") -> dict[str, Any]:
    """Loss, accuracy and accuracy by class over all images of a split, computed as in training.

    With test-time augmentation (`tta`, a key of `tta.TTA`) all three are those of its averaged logits.
    """
    mesh, names = data_mesh(find_devices()[:1]), classifier.class_names
    batch_size = classifier.config.eval_batch_size
    program = StreamedEvaluation(classifier.model, num_classes=len(names), batch_size=batch_size, mesh=mesh, tta=tta)
    with batch_fits("--eval_batch_size", batch_size):
        result = evaluate_split(program, classifier, keep_split(split))
    correct = result.predicted == split.labels
    by_class = {name: correct[split.labels == label] for label, name in enumerate(names)}
    return {
        "num_images": len(split),
        "loss": result.loss,
        "accuracy": result.accuracy,
        "accuracy_by_class": {name: float(c.mean()) if len(c) else None for name, c in by_class.items()},
    }


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--dataset", help="where the run's dataset is now, if it has moved")
    parser.add_argument("--data_dir", help="folder of prepared TFDS datasets, if it has moved")
    parser.add_argument("--eval_batch_size", type=int, metavar="N", help="images per step; default: as in the run")
    parser.add_argument("--tta", choices=TTA, default="none", help="test-time augmentation (default: none)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    classifier = load_run(arguments.workdir, arguments.eval_batch_size)
    split = load_split(classifier, arguments.split, arguments.data_dir, arguments.dataset)
    if not len(split):
        raise BadInput(f"--split: the run in {arguments.workdir} has no {arguments.split} images; name another split")
    result = evaluate(classifier, split, arguments.tta)
    run = classifier.run
    if arguments.json:
        origin = {"workdir": arguments.workdir, "status": run["status"], "epoch": classifier.epoch}
        say(json.dumps({**origin, "split": arguments.split, "tta": arguments.tta, **result}, indent=2))
        return
    unfinished = "" if classifier.done else f" so far (the run is {run['status']})"
    which = "the best" if run["num_validation_examples"] else "the last"
    say(f"{run['experiment']} on {run['dataset']}, epoch {classifier.epoch}, {which}{unfinished}")
    images = f"{arguments.split}, {arguments.tta}" if arguments.tta != "none" else arguments.split
    say(f"{images}: {result['num_images']:,} images, loss {result['loss']:.4f}, accuracy {result['accuracy']:.2%}")
    for name, accuracy in result["accuracy_by_class"].items():
        say(f"  {name:<14} {'no images' if accuracy is None else f'{accuracy:7.2%}'}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
