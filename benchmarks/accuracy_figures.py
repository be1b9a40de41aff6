"""Figures of the published runs: the accuracy of all experiments, and the curves of each."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.accuracy import Runs, petaflop, seeds_of, values_of
from benchmarks.intervals import confidence_interval
from cifar_flax.reporting.figures import STYLE, TRAINING, VALIDATION
from cifar_flax.workdir.epochs import validated
from cifar_flax.workdir.records import Records


def overview(all_runs: Runs, reference: dict[str, Any]) -> Figure:
    """Test accuracy of each experiment: seeds, mean and interval, and the reference. The lowest mean is at the bottom.

    Of experiments with test-time augmentation, the accuracy with it is shown.
    """
    rows = []
    for name, runs in all_runs.items():
        field = "tta_test_accuracy" if "tta_test_accuracy" in runs[0].run else "test_accuracy"
        title = f"{name}, {petaflop(runs[0]):.2f} PFLOP{', TTA' if field.startswith('tta') else ''}"
        rows.append((title, 100 * np.array(values_of(runs, field)), reference.get(name)))
    rows.sort(key=lambda row: row[1].mean())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.42 * len(rows) + 1.2), layout="constrained")
        axis = figure.subplots()
        for height, (_, values, single) in enumerate(rows):
            labels = ("one seed", "mean and its 95 % interval", "the notebook's one run") if not height else ("",) * 3
            axis.plot(values, np.full(len(values), height), "|", color=TRAINING, alpha=0.6, label=labels[0])
            low, high = confidence_interval(values.tolist()) if len(values) > 1 else (values[0], values[0])
            half = [[values.mean() - low], [high - values.mean()]]
            axis.errorbar(values.mean(), height, xerr=half, fmt="o", color=TRAINING, capsize=3, label=labels[1])
            axis.annotate(f"{values.mean():.1f}", (high, height), (8, 0), textcoords="offset points", va="center")
            if single:
                axis.plot(
                    100 * single["test_accuracy"], height, "D", color=VALIDATION, label=labels[2], fillstyle="none"
                )
        axis.set_yticks(range(len(rows)), [title for title, _, _ in rows])
        axis.set(xlabel="test accuracy, %", xlim=(40, 100))
        axis.legend(loc="upper left", fontsize=9)
    return figure


def curves(runs: list[Records], reference: dict[str, Any] | None) -> Figure:
    """Mean and range over the seeds, and the reference's run, if there is one, as dashed lines."""
    name = runs[0].run["experiment"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        figure.suptitle(f"{name}: {seeds_of(runs)}" + (", and the reference's one run" if reference else ""))
        for axis, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            splits = (("train", TRAINING, "o"), ("validation", VALIDATION, "s"))
            for split, color, marker in splits if validated(runs[0].epochs()) else splits[:1]:
                field = f"{split}_{quantity}"
                values = np.array([[line[field] for line in records.epochs()] for records in runs])
                epochs = np.arange(1, values.shape[1] + 1)
                axis.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
                axis.plot(epochs, values.mean(0), color=color, marker=marker, markersize=4, label=split)
                if reference:
                    lines = reference["epochs"]
                    axis.plot(
                        [line["epoch"] for line in lines],
                        [line[field] for line in lines],
                        color=color, linestyle="--", linewidth=1, marker=marker, markersize=4,
                        markerfacecolor="white", label=f"{split}, reference",
                    )  # fmt: skip
            axis.set(title=quantity.capitalize(), xlabel="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend(fontsize=9)
    return figure
