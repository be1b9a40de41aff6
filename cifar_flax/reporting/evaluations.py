"""The results of `python -m cifar_flax.evaluate`: scores, their means over corruptions, and tables of both."""

import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.table

from cifar_flax.data.corruptions import BENCHMARK
from cifar_flax.errors import printable
from cifar_flax.reporting.calibration import scores
from cifar_flax.reporting.console import as_text
from cifar_flax.training.evaluation import Evaluation

MEAN = "mean"
SCALED = "scaled_"  # the prefix of the scores of logits that were divided by the temperature
SCORES = ("loss", "brier_score", "calibration_error")

Values = dict[str, float]  # `accuracy` and SCORES, and those again with the prefix SCALED
Row = dict[str, Values]  # by severity, from "1" to "5", and "mean"


class Table(NamedTuple):
    """A table for the screen or a page.

    Attributes:
        caption: one line.
        columns: their titles, that of the rows' names first.
        groups: rows that belong together, each with its name and the other cells.
    """

    caption: str
    columns: list[str]
    groups: list[list[tuple[str, list[str]]]]

    def __str__(self) -> str:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for group in self.groups:
            for name, cells in group:
                table.add_row(printable(name), *cells)
            table.add_section()
        return f"{self.caption}\n{as_text(table).rstrip()}"


def values_of(result: Evaluation, labels: np.ndarray, temperature: float | None) -> Values:
    """The scores of a pass over images with labels [N] and, if there is a temperature, those that it gives."""
    _, brier, error = scores(result.logits, labels)
    values = {"loss": result.loss, "accuracy": result.accuracy, "brier_score": brier, "calibration_error": error}
    if temperature is not None:
        scaled = scores(result.logits, labels, temperature)
        values |= {SCALED + name: value for name, value in zip(SCORES, scaled, strict=True)}
    return values


def mean_of(values: Iterable[Values]) -> Values:
    values = list(values)
    return {name: statistics.fmean(each[name] for each in values) for name in values[0]}


def benchmark_row(rows: dict[str, Row]) -> Row | None:
    """The means over those of the 15 corruptions of CIFAR-10-C that are among the rows; None: none of them is."""
    chosen = [rows[corruption] for corruption in BENCHMARK if corruption in rows]
    return {column: mean_of(row[column] for row in chosen) for column in chosen[0]} if chosen else None


def tables(result: dict[str, Any]) -> list[Table]:
    """Accuracy by class; for a set of corruptions, accuracy and calibration by severity instead."""
    if "corruptions" not in result:
        accuracies = result["accuracy_by_class"].items()
        rows = [(name, ["no images" if value is None else f"{100 * value:.2f}"]) for name, value in accuracies]
        return [Table("Accuracy by class", ["class", "%"], [rows])]
    rows, mean = result["corruptions"], result["benchmark"]
    shown = [mean] if mean else list(rows.values()) if len(rows) == 1 else []
    return [accuracy_table(rows, mean), *map(calibration_table, shown)]


def accuracy_table(rows: dict[str, Row], mean: Row | None) -> Table:
    """Accuracy by corruption and severity. Corruptions that are not part of the benchmark's mean are below it."""
    lines = {name: _percent(row) for name, row in rows.items()}
    groups = [
        [(name, line) for name, line in lines.items() if name in BENCHMARK],
        [(MEAN, _percent(mean))] if mean else [],
        [(name, line) for name, line in lines.items() if name not in BENCHMARK],
    ]
    columns = ["corruption", *next(iter(rows.values()))]
    return Table("Accuracy in % by corruption and severity", columns, list(filter(None, groups)))


def _percent(row: Row) -> list[str]:
    return [f"{100 * values['accuracy']:.2f}" for values in row.values()]


def calibration_table(row: Row) -> Table:
    """SCORES by severity and, if there is a temperature, those that it gives."""
    prefixes = ("", SCALED) if SCALED + SCORES[0] in row[MEAN] else ("",)
    titles = [f"{title}{' at T' if prefix else ''}" for prefix in prefixes for title in ("loss", "Brier", "ECE, %")]
    lines = [(name, [cell for prefix in prefixes for cell in _cells(values, prefix)]) for name, values in row.items()]
    return Table("Calibration by severity", ["severity", *titles], [lines[:-1], lines[-1:]])


def _cells(values: Values, prefix: str) -> list[str]:
    loss, brier, error = (values[prefix + name] for name in SCORES)
    return [f"{loss:.4f}", f"{brier:.4f}", f"{100 * error:.2f}"]


def sentences(result: dict[str, Any], images: str) -> list[str]:
    """The scores over all images, which are called `images`, or the mean over the corruptions of the benchmark."""
    temperature = result.get("temperature")
    fitted = f"temperature {temperature:.3f}, fitted on the run's validation images" if temperature else ""
    if "corruptions" in result:
        return _of_corruptions(result, images, fitted)
    lines = [
        f"{images}: {result['num_images']:,} images, loss {result['loss']:.4f}, accuracy {result['accuracy']:.2%}",
        _calibration(result, ""),
    ]
    if fitted:
        lines += [f"at {fitted}: loss {result[SCALED + 'loss']:.4f}, {_calibration(result, SCALED)}"]
    return lines


def _of_corruptions(result: dict[str, Any], images: str, fitted: str) -> list[str]:
    rows, mean = result["corruptions"], result["benchmark"]
    count = f"{len(rows)} corruption{'s' * (len(rows) > 1)}, {result['num_images']:,} images"
    accuracy = "no mean, because none of these is one of the 15 corruptions of the benchmark"
    if mean:
        accuracy = f"{mean_over(rows)}: accuracy {mean[MEAN]['accuracy']:.2%}"
    return [f"{images}: {count}", accuracy, f"ECE: expected calibration error{f'; T: {fitted}' * bool(fitted)}"]


def _calibration(values: Values, prefix: str) -> str:
    brier, error = values[f"{prefix}brier_score"], values[f"{prefix}calibration_error"]
    return f"Brier score {brier:.4f}, expected calibration error {error:.2%}"


def mean_over(corruptions: Iterable[str]) -> str:
    """`mean over the 15 corruptions of the benchmark`, or over how many of them."""
    count, total = len({*corruptions} & {*BENCHMARK}), len(BENCHMARK)
    return f"mean over {'the' if count == total else f'{count} of the'} {total} corruptions of the benchmark"
