"""The records of `benchmarks.keras_control`, the reference's recipe in Keras itself, and their tables."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from benchmarks.intervals import CONFIDENCE, mean_with_interval, p_value, prediction_interval
from benchmarks.table import table
from cifar_flax.errors import BadInput
from cifar_flax.reporting.formatting import mean_std_percent
from cifar_flax.workdir.checksums import checksum_matches

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/keras_control"
SEEDS = range(5)

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


def accuracies(records: list[dict[str, Any]]) -> list[float]:
    return [record["test_accuracy"] for record in records]


def cell(records: list[dict[str, Any]]) -> str:
    """`73.52 ± 0.49 % [72.91, 74.13] (5)`: the test accuracy and the number of seeds; empty without records."""
    return _mean(accuracies(records)) if records else ""


def _mean(values: list[float]) -> str:
    return f"{mean_with_interval(values)} ({len(values)})"


def comparison(name: str, keras: list[float], ours: list[float], reference: float) -> str:
    """Whether the reference's run is one that Keras gives, and the difference between our mean and Keras' mean."""
    low, high = prediction_interval(keras)
    verdict = "within" if low <= reference <= high else "outside"
    difference = 100 * (fmean(ours) - fmean(keras))
    interval = stats.ttest_ind(ours, keras, equal_var=False).confidence_interval(CONFIDENCE)
    return (
        f"- `{name}`: {CONFIDENCE:.0%} of further runs of Keras are expected between {low:.2%} and {high:.2%}. The "
        f"reference's {reference:.2%} is {verdict} this interval: a run of Keras is at least as far from the mean with "
        f"a probability of {p_value(reference, keras):.2g}. Our mean minus Keras' mean: {difference:+.2f} points "
        f"({CONFIDENCE:.0%} confidence interval {100 * interval.low:+.2f} to {100 * interval.high:+.2f})."
    ).replace("%", " %")


def details(control: Control, ours: dict[str, list[float]], reference: dict[str, Any]) -> str:
    """The means, what they say about the reference where all seeds are there, and a table with a row per run."""
    if not control:
        return "No run has ended yet."
    means, sentences, runs = [], [], []
    for name in (name for name in reference if name in control):
        keras, single = control[name], reference[name]["test_accuracy"]
        means.append([f"`{name}`", mean_std_percent([single]), cell(keras), _mean(ours[name])])
        runs += [_row(record) for record in keras]
        if len(keras) == len(SEEDS):
            sentences.append(comparison(name, accuracies(keras), ours[name], single))
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
