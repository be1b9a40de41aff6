"""The records of `benchmarks.keras_control`, the reference's recipe in Keras itself, and their tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.intervals import CONFIDENCE, mean_with_interval, p_value, prediction_interval
from benchmarks.table import table
from cifar_flax.errors import BadInput
from cifar_flax.reporting.formatting import mean_std_percent
from cifar_flax.workdir.checksums import checksum_matches

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/keras_control"
ONE_ORDER = FOLDER / "one_order"  # of runs with the same order of the images in all epochs
# Seeds 5 to 9 of cnn were added to repeat a comparison in which seeds 0 to 4 had shown a difference.
SEEDS = {"mlp": range(5), "cnn": range(10), "cnn_augmented": range(5)}

Control = dict[str, list[dict[str, Any]]]  # the records of each experiment, sorted by seed


def record_path(experiment: str, seed: int) -> Path:
    return FOLDER / experiment / f"seed{seed}.json"


def load(folder: Path = FOLDER) -> Control:
    """The records of the runs that have ended.

    Raises:
        BadInput: a record was changed after its run.
    """
    records: Control = {}
    for path in sorted(folder.glob("*/seed*.json")):
        record = json.loads(path.read_text())
        if not checksum_matches(record):
            raise BadInput(f"{path} was changed after the run; delete it and run benchmarks.keras_control again")
        records.setdefault(record["experiment"], []).append(record)
    return records


def _values(records: list[dict[str, Any]], field: str) -> list[float]:
    return [record[field] for record in records]


def cell(records: list[dict[str, Any]]) -> str:
    """`73.52 ± 0.49 % [72.91, 74.13] (5)`: the test accuracy and the number of seeds; empty without records."""
    return f"{mean_with_interval(_values(records, 'test_accuracy'))} ({len(records)})" if records else ""


def comparison(name: str, keras: list[dict[str, Any]], ours: list[dict[str, Any]], reference: float) -> str:
    """Whether the reference's run is one that Keras gives, and what our runs and those of Keras differ in.

    Args:
        name: of the experiment.
        keras: its records.
        ours: the `run.json` of our runs, of which the fields have the same names.
        reference: test accuracy of the reference's run.
    """
    theirs = _values(keras, "test_accuracy")
    low, high = prediction_interval(theirs)
    our_low, our_high = prediction_interval(_values(ours, "test_accuracy"))
    verdict = "within" if low <= reference <= high else "outside"
    accuracy = _difference(ours, keras, "test_accuracy", "+.2f", scale=100)
    loss = _difference(ours, keras, "best_validation_loss", "+.3f")
    return (
        f"- `{name}`: {CONFIDENCE:.0%} of further runs are expected between {low:.2%} and {high:.2%} in Keras, and "
        f"between {our_low:.2%} and {our_high:.2%} here. The reference's {reference:.2%} is {verdict} Keras' interval: "
        "a further run would be at least as far from Keras' mean with a probability of "
        f"{p_value(reference, theirs):.2g}. Our mean minus Keras' mean "
        f"({CONFIDENCE:.0%} confidence interval): {accuracy} points of test accuracy, "
        f"{loss} in the validation loss of the tested epoch."
    ).replace("%", " %")


def _difference(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], field: str, spec: str, scale: float = 1.0
) -> str:
    """The difference of two means in the format `spec`, with its confidence interval by Welch's t-test."""
    a, b = (scale * np.array(_values(records, field)) for records in (ours, theirs))
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
    return f"{a.mean() - b.mean():{spec}} ({low:{spec}} to {high:{spec}})"


def one_order(control: Control, ours: dict[str, list[dict[str, Any]]]) -> str:
    """What our runs and runs of Keras with one order for all epochs differ in, with a row per experiment."""
    rows = [
        [
            f"`{name}`",
            cell(keras),
            _difference(ours[name], keras, "test_accuracy", "+.2f", scale=100),
            _difference(ours[name], keras, "best_validation_loss", "+.3f"),
        ]
        for name, keras in control.items()
    ]
    header = ["one order for all epochs", "Keras (seeds)", "ours minus Keras, points", "validation loss"]
    return table(header, rows)


def details(control: Control, ours: dict[str, list[dict[str, Any]]], reference: dict[str, Any]) -> str:
    """The means, what they say about the reference where all seeds are there, and a table with a row per run."""
    if not control:
        return "No run has ended yet."
    means, sentences, runs = [], [], []
    for name in (name for name in reference if name in control):
        keras, single = control[name], reference[name]["test_accuracy"]
        means.append([f"`{name}`", mean_std_percent([single]), cell(keras), cell(ours[name])])
        runs += [_row(record) for record in keras]
        if len(keras) == len(SEEDS[name]):
            sentences.append(comparison(name, keras, ours[name], single))
    header = ["experiment", "seed", "best epoch", "validation accuracy", "test accuracy", "fit, s"]
    parts = [
        table(["test accuracy (seeds)", "reference (one run)", "Keras itself", "ours"], means),
        "\n".join(sentences),
        table(header, runs),
        conditions(control),
    ]
    return "\n\n".join(part for part in parts if part)


def _row(record: dict[str, Any]) -> list[str]:
    return [
        f"`{record['experiment']}`",
        f"{record['seed']}",
        f"{record['best_epoch']} of {len(record['epochs'])}",
        mean_std_percent([record["best_validation_accuracy"]]),
        mean_std_percent([record["test_accuracy"]]),
        f"{record['fit_seconds']:,.0f}",
    ]


def conditions(control: Control) -> str:
    machines = [record["machine"] for records in control.values() for record in records]
    hardware = sorted({f"{machine['processor']} (CPUs: {machine['threads']})" for machine in machines})
    names = ("python", "keras", "tensorflow-cpu", "tensorflow", "numpy", "scipy")
    software = sorted({", ".join(f"{n} {m['versions'][n]}" for n in names if n in m["versions"]) for m in machines})
    return f"Hardware: {'; '.join(hardware)}. Software: {'; '.join(software)}."
