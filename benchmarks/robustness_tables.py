"""The records of `benchmarks.robustness`, their tables and their figure."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.accuracy import REFERENCE_EXPERIMENTS
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.table import table
from cifar_flax.data.corruptions import BENCHMARK, SEVERITIES
from cifar_flax.errors import BadInput
from cifar_flax.reporting.evaluations import MEAN, SCALED
from cifar_flax.reporting.figures import STYLE
from cifar_flax.workdir.checksums import checksum_matches

FOLDER = Path(__file__).parents[1] / "results/robustness"
NO_RECORD = "No run has been measured yet."
PANELS = (3, 5)  # rows and columns: the mean and 14 corruptions

Record = dict[str, Any]


def read(path: Path) -> Record:
    """A record.

    Raises:
        BadInput: it was changed after it was measured.
    """
    record = json.loads(path.read_text())
    if not checksum_matches(record):
        raise BadInput(f"{path} was changed after it was measured; delete it and run benchmarks.robustness again")
    return record


def load(folder: Path = FOLDER) -> list[Record]:
    """The records, the reference's experiments first. Raises BadInput like `read`."""
    first = REFERENCE_EXPERIMENTS

    def order(record: Record) -> tuple[int, str]:
        name = record["experiment"]
        return first.index(name) if name in first else len(first), name

    return sorted((read(path) for path in folder.glob("*.json")), key=order)


def percent(values: dict[str, float]) -> str:
    return f"{100 * values['accuracy']:.2f}"


def sentence(record: Record) -> str:
    clean, mean = percent(record["clean"]), percent(record["benchmark"][MEAN])
    return f"{clean} % of the clean images, {mean} % of the corrupted ones"


def summary(records: list[Record]) -> str:
    """Accuracy on clean images, and the mean over the counted corruptions in all and by severity."""
    rows = [
        [
            f"`{record['experiment']}`",
            f"{record['seed']}",
            percent(record["clean"]),
            f"**{percent(record['benchmark'][MEAN])}**",
            f"{100 * (record['clean']['accuracy'] - record['benchmark'][MEAN]['accuracy']):.2f}",
            *(percent(record["benchmark"][f"{severity}"]) for severity in SEVERITIES),
        ]
        for record in records
    ]
    severities = [f"severity {severity}" for severity in SEVERITIES]
    header = ["test accuracy in %", "seed", "clean images", "mean over corruptions", "clean minus mean", *severities]
    image = "![Accuracy by severity of each corruption](robustness.svg)"
    caption = "Severity 0 is the clean test images. The corruptions with an asterisk are not part of the mean."
    measured = {record["experiment"] for record in records}
    missing = sorted({path.parts[-3] for path in FOLDER.parent.glob("*/seed*/run.json")} - measured)
    others = [f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}."] if missing else []
    return "\n\n".join([table(header, rows), *others, image, caption])


def by_corruption(records: list[Record]) -> str:
    """Accuracy by corruption, mean over the severities, with a column per experiment."""

    def row(title: str, values: list[dict[str, float]]) -> list[str]:
        return [title, *map(percent, values)]

    counted = [name for name in CORRUPTIONS if name in BENCHMARK]
    others = [name for name in CORRUPTIONS if name not in BENCHMARK]
    corrupted = {
        name: row(f"`{name}`", [record["corruptions"][name][MEAN] for record in records]) for name in CORRUPTIONS
    }
    rows = [
        row("clean images", [record["clean"] for record in records]),
        *(corrupted[name] for name in counted),
        row(f"**mean over these {len(counted)}**", [record["benchmark"][MEAN] for record in records]),
        *(corrupted[name] for name in others),
    ]
    return table(["accuracy in %, mean over severities", *(f"`{record['experiment']}`" for record in records)], rows)


def calibration(records: list[Record]) -> str:
    """The scores of the probabilities, on clean and on corrupted images, before and after the temperature."""
    rows = []
    for record in records:
        temperature = record["temperature"]
        for title, values in (("clean", record["clean"]), ("corrupted", record["benchmark"][MEAN])):
            cells, shown = _scores(values, ""), "none"
            if temperature is not None:
                cells = [f"{before} → {after}" for before, after in zip(cells, _scores(values, SCALED), strict=True)]
                shown = f"{temperature:.3f}"
            rows.append([f"`{record['experiment']}`, {title}", shown, percent(values), *cells])
    header = ["images", "temperature", "accuracy, %", "negative log-likelihood", "Brier score"]
    return table([*header, "expected calibration error, %"], rows)


def _scores(values: dict[str, float], prefix: str) -> list[str]:
    loss, brier, error = (values[f"{prefix}{name}"] for name in ("loss", "brier_score", "calibration_error"))
    return [f"{loss:.3f}", f"{brier:.3f}", f"{100 * error:.2f}"]


def provenance(records: list[Record]) -> str:
    """Which networks were measured, and with which software."""
    published = {json.loads(path.read_text())["sha256"] for path in FOLDER.parent.glob("*/seed*/run.json")}
    rows = [
        [
            f"`{record['experiment']}`",
            f"{record['seed']}",
            f"{record['epoch']}",
            "published" if record["run_sha256"] in published else "trained again",
            f"{100 * record['run_test_accuracy']:.2f}",
            f"{record['run_git_commit'][:10]}",
            f"`{record['network_sha256'][:16]}`",
            record["date"],
        ]
        for record in records
    ]
    header = ["experiment", "seed", "epoch", "run", "its test accuracy, %", "its commit", "network, SHA-256"]
    machines = [record["machine"] for record in records]
    hardware = sorted({f"{m['processor']} ({m['platform']}, CPUs: {m['threads']})" for m in machines})
    names = ("python", "jax", "numpy", "scipy", "matplotlib", "pillow", "libjpeg-turbo")
    software = sorted({", ".join(f"{name} {m['versions'][name]}" for name in names) for m in machines})
    return (
        f"{table([*header, 'measured'], rows)}\n\nMeasured on: {'; '.join(hardware)}. Software: {'; '.join(software)}."
    )


def sections(records: list[Record]) -> dict[str, str]:
    """The generated sections of docs/robustness.md, by the name in their marks."""
    tables = {
        "robustness": summary,
        "robustness by corruption": by_corruption,
        "calibration": calibration,
        "measured networks": provenance,
    }
    return {name: table_of(records) if records else NO_RECORD for name, table_of in tables.items()}


def figure(records: list[Record]) -> Figure:
    """Accuracy by severity, with clean images at 0: the mean and then each corruption in a panel, a line per run."""
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(12, 8), layout="constrained")
        axes = drawn.subplots(*PANELS, sharex=True, sharey=True).flat
        for axis, name in zip(axes, ("mean", *CORRUPTIONS), strict=True):
            for index, record in enumerate(records):
                row = record["benchmark"] if name == "mean" else record["corruptions"][name]
                accuracies = [record["clean"]["accuracy"], *(row[f"{severity}"]["accuracy"] for severity in SEVERITIES)]
                marker = "osD^v<>Pp*"[index % 10]
                axis.plot([0, *SEVERITIES], accuracies, marker=marker, markersize=4, label=record["experiment"])
            counted = "" if name in ("mean", *BENCHMARK) else " *"
            axis.set_title(f"{name.replace('_', ' ')}{counted}")
        drawn.supxlabel("severity (0: clean images)      * not in the mean")
        drawn.supylabel("accuracy")
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5))
    return drawn
