"""`python -m cifar_flax.evaluate --workdir runs/cnn`: loss, accuracy and calibration of a run, class by class.

The checkpoint is the best one or, without validation images, the newest. With `--on`, the images are another labeled
set of the run's classes, such as CIFAR-10.1 or CIFAR-10-C, and the scores are also given at the temperature that fits
the run's validation images best.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data import Split, tfds
from cifar_flax.data.labeled_sets import Part
from cifar_flax.data.locate import locate
from cifar_flax.data.paths import read_path
from cifar_flax.data.progress import BAR_DELAY, ProgressBar
from cifar_flax.errors import BadInput, warn
from cifar_flax.inference import Classifier, load_run, load_set, load_split
from cifar_flax.reporting import evaluations
from cifar_flax.reporting.calibration import fit_temperature
from cifar_flax.reporting.evaluation_page import evaluation_page
from cifar_flax.reporting.evaluations import MEAN, Row, mean_of, values_of
from cifar_flax.training.evaluation import Evaluation, evaluate_split
from cifar_flax.training.memory import batch_fits
from cifar_flax.training.sharding import data_mesh
from cifar_flax.training.streaming import StreamedEvaluation, keep_split
from cifar_flax.training.tta import TTA
from cifar_flax.workdir.environment import find_devices
from cifar_flax.workdir.output import output_file, output_path


class Evaluator:
    """Evaluates the network of a run on any number of splits, as in training, with one compiled program."""

    def __init__(self, classifier: Classifier, tta: str = "none"):
        """`tta` is a key of `tta.TTA`."""
        self.classifier = classifier
        self._batch_size = classifier.config.eval_batch_size
        num_classes, mesh = len(classifier.class_names), data_mesh(find_devices()[:1])
        self._program: Any = StreamedEvaluation(
            classifier.model, num_classes=num_classes, batch_size=self._batch_size, mesh=mesh, tta=tta
        )
        self._is_compiled = False

    def __call__(self, split: Split) -> Evaluation:
        """With test-time augmentation, the result is that of the averaged logits."""
        kept = keep_split(split)
        with batch_fits("--eval_batch_size", self._batch_size):
            if not self._is_compiled:
                self._program.lower(self.classifier.params, self.classifier.batch_stats, *kept).compile()
                self._is_compiled = True
            return evaluate_split(self._program, self.classifier, kept)


def evaluate(classifier: Classifier, split: Split, tta: str = "none") -> dict[str, Any]:
    """Loss, accuracy, calibration and accuracy by class over all images of a split, as `evaluate_images` gives them."""
    return evaluate_images(Evaluator(classifier, tta), split)


def evaluate_images(evaluator: Evaluator, split: Split, temperature: float | None = None) -> dict[str, Any]:
    """The scores of all images of a split, and the accuracy by class: None for a class without images."""
    result = evaluator(split)
    correct = result.predicted == split.labels
    by_class = {name: correct[split.labels == label] for label, name in enumerate(evaluator.classifier.class_names)}
    return {
        "num_images": len(split),
        **values_of(result, split.labels, temperature),
        "accuracy_by_class": {name: float(c.mean()) if len(c) else None for name, c in by_class.items()},
    }


def evaluate_corruptions(evaluator: Evaluator, parts: Sequence[Part], temperature: float | None) -> dict[str, Any]:
    """The scores by corruption and severity, with means over the severities and over the benchmark's corruptions."""
    rows: dict[str, Row] = {}
    num_images, stderr = 0, sys.stderr
    with ProgressBar(total=len(parts), unit=" sets", leave=False, delay=BAR_DELAY, disable=None, file=stderr) as bar:
        for part in parts:
            split = part.load()
            values = values_of(evaluator(split), split.labels, temperature)
            rows.setdefault(part.corruption, {})[f"{part.severity}"] = values
            num_images += len(split)
            bar.update()
    rows = {corruption: row | {MEAN: mean_of(row.values())} for corruption, row in rows.items()}
    return {"num_images": num_images, "corruptions": rows, "benchmark": evaluations.benchmark_row(rows)}


def find_temperature(evaluator: Evaluator, data_dir: str | None, dataset: str | None) -> float | None:
    """The temperature that fits the run's validation images best; None, with a warning, if they are not available.

    Raises:
        BadInput: `dataset` is named, and cannot be used.
    """
    try:
        if dataset is None:
            data_dir = _prepared_in(evaluator.classifier.config, data_dir)
        validation = load_split(evaluator.classifier, "validation", data_dir, dataset)
    except BadInput as error:
        if dataset is not None:
            raise
        warn(f"no temperature: the run's validation images are not available ({error})")
        return None
    if not len(validation):
        warn("no temperature: the run has no validation images to fit it on")
        return None
    return fit_temperature(evaluator(validation).logits, validation.labels)


def _prepared_in(config: ConfigDict, data_dir: str | None) -> str | None:
    """`data_dir` if the run's dataset is prepared there, else None, for the folder of the run.

    `data_dir` may have been named for the set of --on alone. For a temperature, nothing is downloaded.

    Raises:
        BadInput: the dataset is one of TFDS, and prepared in neither folder.
    """
    if not _is_of_tfds(config.dataset):
        return data_dir
    if data_dir and tfds.is_prepared(config.dataset, data_dir):
        return data_dir
    if not tfds.is_prepared(config.dataset, config.data_dir):
        raise BadInput(f"{config.dataset} is not prepared; name the folder that has it with --data_dir")
    return None


def _is_of_tfds(dataset: str) -> bool:
    try:
        return dataset != "synthetic" and isinstance(locate(dataset), str)
    except BadInput:  # what is wrong is said where the dataset is loaded
        return False


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises BadInput if they cannot be used."""
    parser = Parser(prog="python -m cifar_flax.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="of the run's dataset; default: test")
    parser.add_argument(
        "--on", metavar="SET", help="another labeled set: a file, a folder, or the name of a TFDS dataset"
    )
    parser.add_argument("--dataset", help="where the run's dataset is now, if it has moved")
    parser.add_argument("--data_dir", help="folder of prepared TFDS datasets, if it has moved")
    parser.add_argument("--eval_batch_size", type=int, metavar="N", help="images per step; default: as in the run")
    parser.add_argument("--tta", choices=TTA, default="none", help="test-time augmentation (default: none)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--report", metavar="FILE", help="also write a page, such as evaluation.html")
    arguments = parser.parse_args(argv)
    if arguments.on is not None and arguments.split:
        raise BadInput(
            f"--split: {arguments.split} is of the run's dataset, which --on replaces; leave out one of them"
        )
    arguments.split = arguments.split or "test"
    return arguments


def command(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    out = None if arguments.report is None else read_path(arguments.report, "--report")
    if out:
        output_path(out, "--report")  # a mistake is found before an evaluation that may take long
    classifier = load_run(arguments.workdir, arguments.eval_batch_size)
    result = evaluate_named(Evaluator(classifier, arguments.tta), arguments)
    images = arguments.split if arguments.on is None else arguments.on
    heading, tables = describe_run(classifier), evaluations.tables(result)
    if arguments.on is not None and classifier.done and arguments.tta == "none":
        heading += f", test accuracy {classifier.run['test_accuracy']:.2%}"
    sentences = evaluations.sentences(result, images if arguments.tta == "none" else f"{images}, {arguments.tta}")
    if arguments.json:
        origin = {"workdir": arguments.workdir, "status": classifier.run["status"], "epoch": classifier.epoch}
        named = {"split" if arguments.on is None else "on": images}
        say(json.dumps({**origin, **named, "tta": arguments.tta, **result}, indent=2))
    else:
        say("\n".join([heading, *sentences, *(f"\n{table}" for table in tables)]))
    if out:
        page = evaluation_page(f"{classifier.run['experiment']} on {images}", [heading, *sentences], tables, result)
        with output_file(out, "--report") as temporary:
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def evaluate_named(evaluator: Evaluator, arguments: argparse.Namespace) -> dict[str, Any]:
    """The results on the images that the arguments name."""
    classifier, data_dir, dataset = evaluator.classifier, arguments.data_dir, arguments.dataset
    if arguments.on is None:
        split = load_split(classifier, arguments.split, data_dir, dataset)
        if not len(split):
            workdir, name = arguments.workdir, arguments.split
            raise BadInput(f"--split: the run in {workdir} has no {name} images; name another split")
        return evaluate_images(evaluator, split)
    parts = load_set(classifier, arguments.on, data_dir)
    temperature = find_temperature(evaluator, data_dir, dataset)
    if parts[0].corruption:
        return {"temperature": temperature, **evaluate_corruptions(evaluator, parts, temperature)}
    return {"temperature": temperature, **evaluate_images(evaluator, parts[0].load(), temperature)}


def describe_run(classifier: Classifier) -> str:
    """`cnn on cifar10, epoch 19, the best`."""
    run = classifier.run
    unfinished = "" if classifier.done else f" so far (the run is {run['status']})"
    which = "the best" if run["num_validation_examples"] else "the last"
    return f"{run['experiment']} on {run['dataset']}, epoch {classifier.epoch}, {which}{unfinished}"


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
