"""The content of the HTML pages of `python -m cifar_flax.report`; the template report.html lays them out."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cifar_flax.data import Split
from cifar_flax.inference import Classifier
from cifar_flax.reporting import figures
from cifar_flax.reporting.calibration import calibrate
from cifar_flax.reporting.formatting import describe_seeds, mean_std_percent, percent
from cifar_flax.reporting.templates import render
from cifar_flax.workdir import earlier
from cifar_flax.workdir.epochs import best_of, validated
from cifar_flax.workdir.identity import IMPORTED
from cifar_flax.workdir.records import Records

NUM_PREDICTIONS, NUM_MISTAKES = 32, 16
MAX_TABLE_CLASSES = 20  # up to this many classes the confusion matrix is a table, for more a figure


def report_of_run(classifier: Classifier, split: Split, split_name: str, epochs: list[dict[str, Any]]) -> str:
    """The HTML page of one run.

    Args:
        classifier: the run's network.
        split: the images to report on.
        split_name: their name on the page.
        epochs: the lines of metrics.jsonl.
    """
    probabilities = classifier(split.images)
    predicted = probabilities.argmax(-1)
    names, run = classifier.class_names, classifier.run
    counts = figures.count_confusions(split.labels, predicted, len(names))
    calibration = calibrate(probabilities, split.labels)
    shown = np.random.default_rng(classifier.config.seed).permutation(len(split))[:NUM_PREDICTIONS]
    wrong = np.flatnonzero(predicted != split.labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")][:NUM_MISTAKES]
    body = {
        "result": result(classifier, split_name, float((predicted == split.labels).mean())),
        "remarks": remarks(run, epochs),
        "curves": [
            (f"{name} by epoch", inline(figures.learning_curve(epochs, name)))
            for name in ("loss", "accuracy")
            if IMPORTED not in run
        ],
        "class_names": names,
        "classes": classes(counts, names),
        "matrix": matrix(counts, names) if len(names) <= MAX_TABLE_CLASSES else None,
        "confusion": [("confusion matrix", inline(figures.confusion_matrix(counts, names)))],
        "calibration": (
            f"Expected calibration error {calibration.error:.2%}: the mean difference between confidence and accuracy "
            f"over the {split_name} images. Mean confidence {probabilities.max(-1).mean():.2%}."
        ),
        "reliability": [("accuracy by confidence", inline(figures.reliability(calibration)))],
        "predictions": [_shown(split, probabilities, index, names) for index in shown],
        "mistakes": [_shown(split, probabilities, index, names) for index in worst],
        "config": [(field, value) for field, value in classifier.config.items() if value is not None],
        "environment": environment(run),
    }
    return page(title=f"{run['experiment']}, seed {run['seed']}", run=body)


def report_of_runs(runs: dict[str, Records]) -> str:
    """The HTML page of several runs, given by name: results, means over seeds and validation curves."""
    rows = [compared(name, records) for name, records in runs.items()]
    lines = {name: records.epochs() for name, records in runs.items()}
    without = [name for name, epochs in lines.items() if not validated(epochs)]
    remarks = [f"No validation images, so no validation curve: {', '.join(without)}."] if without else []
    lines = {name: epochs for name, epochs in lines.items() if name not in without}
    curves = [
        (f"validation {quantity} by epoch", inline(figures.comparison(lines, quantity)))
        for quantity in ("loss", "accuracy")
        if lines
    ]
    columns = [name for name, _ in rows[0]]
    return page(title=f"{len(runs)} runs", means=[*means(runs), *remarks], columns=columns, rows=rows, curves=curves)


def page(**contents: Any) -> str:
    return render(Path(__file__).with_name("report.html"), **({"run": None, "evaluation": None} | contents))


def result(classifier: Classifier, split_name: str, accuracy: float) -> str:
    run = classifier.run
    if classifier.done:
        accuracy = run["test_accuracy"]
    unfinished = "" if classifier.done else f" so far; the run is {run['status']} and not tested yet"
    return f"{accuracy:.2%} {split_name} accuracy{unfinished}."


def remarks(run: dict[str, Any], epochs: list[dict[str, Any]]) -> list[str]:
    """Sentences about the run besides its accuracy."""
    best, source = best_of(epochs), run.get(IMPORTED)
    seconds = sum(line["epoch_seconds"] for line in epochs)
    network = f"{run['model']} on {run['dataset']}: {run['trainable_parameters']:,} parameters, "
    if source:
        validation = f", {best['validation_accuracy']:.2%} validation accuracy" if validated(epochs) else ""
        return [f"{network}imported from {source['file']} (SHA-256 {source['sha256']}){validation}.", *with_tta(run)]
    return [
        f"{network}trained on {run['num_train_examples']:,} images for {epochs[-1]['epoch']} epochs in "
        f"{seconds:,.0f} s.",
        f"Epoch {best['epoch']} has the lowest validation loss, {best['validation_loss']:.4f}, and a validation "
        f"accuracy of {best['validation_accuracy']:.2%} on {run['num_validation_examples']:,} images. Everything below "
        "is about that epoch."
        if validated(epochs)
        else "There were no validation images: everything below is about the network after the last epoch.",
        *with_tta(run),
    ]


def with_tta(run: dict[str, Any]) -> list[str]:
    """A sentence about the result with test-time augmentation, if there is one."""
    if run["status"] != "done" or "tta_test_accuracy" not in run:
        return []
    return [f"{run['tta_test_accuracy']:.2%} test accuracy with test-time augmentation."]


def classes(counts: np.ndarray, names: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the table of classes."""
    rows = []
    for label, row in enumerate(counts):
        total, others = int(row.sum()), row.copy()
        others[label] = 0
        confused = int(others.argmax())
        accuracy = row[label] / max(total, 1)
        rows.append(
            {
                "name": names[label],
                "num_images": f"{total:,}",
                "accuracy": f"{accuracy:.1%}" if total else "no images",
                "width": f"{65 * accuracy:.1f}%",
                "taken_for": f"{names[confused]} ({others[confused]:,})" if others[confused] else "",
            }
        )
    return rows


def matrix(counts: np.ndarray, names: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of the confusion matrix. Each cell has a shade that keeps black text readable."""
    shades = 0.5 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return [
        (
            name,
            [
                {"count": int(count), "shade": f"{shades[row, column]:.3f}", "correct": row == column}
                for column, count in enumerate(counts[row])
            ],
        )
        for row, name in enumerate(names)
    ]


def environment(run: dict[str, Any]) -> list[tuple[str, Any]]:
    """The machine and versions and, for a resumed run, what was different in earlier environments."""
    names = ("platform", "device_kind", "num_devices", "processor", "num_cpus", "git_commit")
    fields = [(name, run[name]) for name in names if name in run]
    differing = [
        (f"up to step {before[earlier.END]:,}", "; ".join(earlier.changes(before, run)) or "as now")
        for before in run.get(earlier.FIELD, [])
    ]
    return [*fields, *(run.get("versions") or {}).items(), *differing]


def compared(name: str, records: Records) -> list[tuple[str, str]]:
    """The row of one run in the comparison, as (column, value)."""
    run = records.run
    test = f"{run['test_accuracy']:.2%}" if run["status"] == "done" else run["status"]
    if run["status"] == "done" and "tta_test_accuracy" in run:
        test += f", with TTA {run['tta_test_accuracy']:.2%}"
    return [
        ("run", name),
        ("experiment", run["experiment"]),
        ("seed", f"{run['seed']}"),
        ("parameters", f"{run['trainable_parameters']:,}"),
        ("best epoch", f"{run['best_epoch']} of {records.epochs()[-1]['epoch']}"),
        ("validation", percent(run["best_validation_accuracy"])),
        ("test", test),
        ("training", f"{run['train_seconds']:,.0f} s"),
    ]


def means(runs: dict[str, Records]) -> list[str]:
    """A sentence for each recipe with several finished seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for records in runs.values():
        if records.run["status"] == "done":
            recipe = {field: value for field, value in records.config.items() if field != "seed"}
            origins = [records.run.get(field, {}).get("sha256") for field in (IMPORTED, "init_from")]
            groups.setdefault(str((sorted(recipe.items()), origins)), []).append(records.run)
    return [
        f"{group[0]['experiment']}: {mean_std_percent([run['test_accuracy'] for run in group])} test accuracy "
        f"({describe_seeds(sorted(run['seed'] for run in group))}; mean and standard deviation)"
        for group in groups.values()
        if len(group) > 1
    ]


def inline(figure: Figure) -> str:
    return _data_uri(figures.svg(figure).encode(), "image/svg+xml")


def _shown(split: Split, probabilities: np.ndarray, index: int, names: Sequence[str]) -> dict[str, str]:
    """An image and its caption."""
    written = io.BytesIO()
    pixels = split.images[index]
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(written, format="png")
    return {
        "picture": _data_uri(written.getvalue(), "image/png"),
        "label": names[split.labels[index]],
        "predicted": names[probabilities[index].argmax()],
        "confidence": f"{probabilities[index].max():.1%}",
    }


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
