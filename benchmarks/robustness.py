"""`python -m benchmarks.robustness WORKDIR ...`: accuracy and calibration of finished runs on corrupted test images.

The 14 corruptions of `benchmarks.corruptions` are applied to the run's test images with all five severities, once for
all runs, and kept in memory (2.2 GB for CIFAR-10). Each run writes results/robustness/EXPERIMENT.json when it is
measured. A run whose network has a record is skipped. `make results` updates docs/robustness.md and its figure.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import features

from benchmarks import robustness_tables
from benchmarks.corruptions import CORRUPTIONS, SIZE, corrupt
from benchmarks.machine import describe
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data import Split
from cifar_flax.data.corruptions import SEVERITIES
from cifar_flax.data.labeled_sets import Part
from cifar_flax.errors import BadInput
from cifar_flax.evaluate import Evaluator, evaluate_corruptions, evaluate_images
from cifar_flax.inference import Classifier, load_run, load_split
from cifar_flax.reporting.calibration import fit_temperature
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.checksums import add_checksum, of_array, of_arrays, of_bytes
from cifar_flax.workdir.environment import environment
from cifar_flax.workdir.identity import RUNTIME_FIELDS

Corrupted = Callable[[str, int], np.ndarray]  # the corrupted test images, by corruption and severity


def network_sha256(classifier: Classifier) -> str:
    """One checksum of the parameters and running statistics, whatever files they are stored in."""
    arrays = of_arrays({"params": classifier.params, "batch_stats": classifier.batch_stats})
    return of_bytes(json.dumps(arrays, sort_keys=True).encode())


def load_runs(workdirs: Sequence[Path]) -> dict[str, Classifier]:
    """The runs by experiment.

    Raises:
        BadInput: there is no finished run, its images do not fit the corruptions, or two runs are of one experiment.
    """
    runs: dict[str, Classifier] = {}
    for workdir in workdirs:
        classifier = load_run(workdir)
        experiment = classifier.run["experiment"]
        if not classifier.done:
            raise BadInput(f"WORKDIR: the run in {workdir} is {classifier.run['status']}; finish it first")
        if classifier.image_shape != (SIZE, SIZE, 3):
            shape = "x".join(map(str, classifier.image_shape))
            raise BadInput(f"WORKDIR: the run in {workdir} has images of {shape}; name runs of {SIZE}x{SIZE}x3")
        if experiment in runs:
            raise BadInput(f"WORKDIR: {workdir} is the second run of {experiment}; name one run of each experiment")
        runs[experiment] = classifier
    return runs


def measure(classifier: Classifier, test: Split, corrupted: Corrupted) -> dict[str, Any]:
    """The results of a run, with one temperature fitted on its validation images, if it has any."""
    evaluator = Evaluator(classifier)
    validation = load_split(classifier, "validation")
    temperature = fit_temperature(evaluator(validation).logits, validation.labels) if len(validation) else None

    def load(name: str, severity: int) -> Split:
        return Split(corrupted(name, severity), test.labels)

    parts = [Part(name, severity, partial(load, name, severity)) for name in CORRUPTIONS for severity in SEVERITIES]
    return {
        "temperature": temperature,
        "clean": evaluate_images(evaluator, test, temperature),
        **evaluate_corruptions(evaluator, parts, temperature),
        "images_sha256": {name: [of_array(corrupted(name, s)) for s in SEVERITIES] for name in CORRUPTIONS},
    }


def provenance(classifier: Classifier) -> dict[str, Any]:
    """The fields of a record about the run, the day, the machine, the versions and the code."""
    run, machine = classifier.run, describe()
    machine["versions"] |= {name: version(name) for name in ("scipy", "matplotlib", "pillow")}
    machine["versions"]["libjpeg-turbo"] = features.version("libjpeg_turbo")  # None if Pillow has another libjpeg
    return {
        "date": date.today().isoformat(),
        "machine": machine,
        "git_commit": environment(jax.devices()[:1])["git_commit"],
        "experiment": run["experiment"],
        "dataset": run["dataset"],
        "seed": run["seed"],
        "epoch": classifier.epoch,
        "recipe": {field: value for field, value in classifier.config.items() if field not in RUNTIME_FIELDS},
        "run_sha256": run["sha256"],
        "run_git_commit": run["git_commit"],
        "run_test_accuracy": run["test_accuracy"],
        "network_sha256": network_sha256(classifier),
    }


def is_measured(path: Path, classifier: Classifier) -> bool:
    """Whether the record of this network exists."""
    return path.exists() and robustness_tables.read(path)["network_sha256"] == network_sha256(classifier)


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m benchmarks.robustness", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="the folder of a finished run")
    parser.add_argument("--output", type=Path, default=robustness_tables.FOLDER, help="folder of the records")
    arguments = parser.parse_args(argv)
    first: Split | None = None
    for experiment, classifier in load_runs(arguments.workdirs).items():
        path = arguments.output / f"{experiment}.json"
        if is_measured(path, classifier):
            print(f"{path} exists", flush=True)
            continue
        test = load_split(classifier, "test")
        if first is None:
            first = test
            corrupted = functools.cache(partial(corrupt, test.images))
        elif not np.array_equal(test.images, first.images):
            raise BadInput(f"WORKDIR: the run of {experiment} has other test images than the first; measure it alone")
        print(f"{experiment}: {len(CORRUPTIONS) * len(SEVERITIES)} sets of {len(test):,} images", flush=True)
        record = provenance(classifier) | measure(classifier, test, corrupted)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(add_checksum(record), indent=1) + "\n")
        print(f"{experiment}: {robustness_tables.sentence(record)}, wrote {path}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
