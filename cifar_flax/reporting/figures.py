"""Functions from arrays to matplotlib figures. None of them needs a display."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cifar_flax.reporting.calibration import Calibration
from cifar_flax.workdir.atomic import atomic_write
from cifar_flax.workdir.epochs import best_of, validated

CORRECT, WRONG = "#1a7f37", "#c62828"  # green and red as in the reference, dark enough to read on white
TRAINING, VALIDATION = "#1f5fa8", "#d97706"
DASHES = ("-", "--", "-.", ":")
NARROW = (4.6, 3.4)  # inches; fits a phone without shrinking the text

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 110,
    "text.parse_math": False,  # a class may be named $5
}


@contextmanager
def _styled(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draws in the project's style. A character that the font lacks is drawn as a box, without a warning."""
    with mpl.rc_context(STYLE | dict(more or {})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def svg(figure: Figure) -> str:
    """The figure as an SVG document. Equal figures give equal text."""
    with _styled({"svg.hashsalt": "cifar_flax"}):
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """The figure as an image [H, W, 3] uint8."""
    with _styled():
        figure.set_dpi(STYLE["savefig.dpi"])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(image: np.ndarray, path: Path) -> None:
    """Writes an image [H, W, 3] uint8 as a PNG file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="png")


def labeled_images(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Images [N, H, W, C] uint8 in rows of ten, each titled with the name of its label [N]."""
    with mpl.rc_context(STYLE):
        figure, places = _image_grid(images, columns=10, title="First training images", above=0.35)
        for place, label in zip(places, labels, strict=True):
            _add_title(figure, place, class_names[label], fontsize=_title_size(class_names))
    return figure


def augmented_images(images: np.ndarray, augmented: np.ndarray) -> Figure:
    """A row of images [N, H, W, C] uint8 above a row of their augmented versions [N, H, W, C] uint8."""
    count, title = len(images), "Training images and their augmented versions"
    with mpl.rc_context(STYLE):
        figure, places = _image_grid([*images, *augmented], columns=count, title=title, above=0.35)
        for name, row in (("original", places[:count]), ("augmented", places[count:])):
            _add_title(figure, np.mean(row, axis=0), name)
    return figure


def learning_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Training and validation loss and accuracy over the lines of metrics.jsonl, with the best epoch marked."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axis, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            _draw_curve(axis, epochs, quantity)
    return figure


def learning_curve(epochs: Sequence[dict[str, Any]], quantity: str) -> Figure:
    """One curve, narrow enough for a phone; `quantity` is "loss" or "accuracy"."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=NARROW, layout="constrained")
        _draw_curve(figure.subplots(), epochs, quantity)
    return figure


def _draw_curve(axis: Axes, epochs: Sequence[dict[str, Any]], quantity: str) -> None:
    at = [line["epoch"] for line in epochs]
    splits = (("train", TRAINING, "o"), ("validation", VALIDATION, "s"))
    for split, color, marker in splits if validated(epochs) else splits[:1]:
        values = [line[f"{split}_{quantity}"] for line in epochs]
        axis.plot(at, values, color=color, marker=marker, markersize=4, label=split)
    if validated(epochs):
        best = best_of(epochs)["epoch"]
        axis.axvline(best, color="0.5", linestyle=":", label=f"best epoch: {best}")
    axis.set(title=quantity.capitalize(), xlabel="epoch")
    _format_epoch_axis(axis, at[0], at[-1])
    axis.legend()


def _format_epoch_axis(axis: Axes, first: int, last: int) -> None:
    axis.set_xlim(first - 0.5, last + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def comparison(runs: Mapping[str, Sequence[dict[str, Any]]], quantity: str) -> Figure:
    """Validation loss or accuracy of several runs, given by name, each with its own color, dash and marker."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(NARROW[0], NARROW[1] + 0.22 * len(runs)), layout="constrained")
        axis = figure.subplots()
        styles = zip(cycle(mpl.colormaps["tab10"].colors), cycle(DASHES), cycle("osv^Dx*"))  # type: ignore[attr-defined]
        for (name, epochs), (color, dashes, marker) in zip(runs.items(), styles, strict=False):
            at = [line["epoch"] for line in epochs]
            values = [line[f"validation_{quantity}"] for line in epochs]
            axis.plot(at, values, color=color, linestyle=dashes, marker=marker, markersize=4, label=name)
        axis.set(title=f"Validation {quantity}", xlabel="epoch")
        _format_epoch_axis(axis, 1, max(line["epoch"] for epochs in runs.values() for line in epochs))
        figure.legend(loc="outside lower center", fontsize=9)
    return figure


def accuracy_by_severity(rows: Mapping[str, Sequence[float]]) -> Figure:
    """A small panel for each corruption: its accuracy by severity, over those of the others in gray."""
    columns, height = min(3, len(rows)), math.ceil(len(rows) / 3)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.35 * columns, 1.3 * height + 0.6), layout="constrained")
        figure.suptitle("Accuracy in % by severity")
        for index, (name, values) in enumerate(rows.items()):
            axis = figure.add_subplot(height, columns, index + 1)
            for others in rows.values():
                axis.plot(range(1, len(others) + 1), np.multiply(others, 100), color="0.85", linewidth=0.8)
            axis.plot(range(1, len(values) + 1), np.multiply(values, 100), color=TRAINING, marker="o", markersize=3)
            axis.set_title(name, fontsize=8)
            axis.set(ylim=(0, 100), xticks=range(1, len(values) + 1))
            axis.tick_params(labelsize=8)
    return figure


def reliability(calibration: Calibration) -> Figure:
    """Accuracy by confidence, and below it the number of images."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=NARROW, layout="constrained")
        axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        edges = np.linspace(0, 1, len(calibration.num_images) + 1)
        bars = {"width": np.diff(edges), "align": "edge", "edgecolor": "black", "linewidth": 0.6}
        axis.bar(edges[:-1], calibration.accuracy, color=TRAINING, alpha=0.6, label="measured", **bars)
        axis.plot([0, 1], [0, 1], color="black", linestyle="--", label="calibrated")
        axis.set(title="Reliability", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.legend(loc="upper left")
        below.bar(edges[:-1], calibration.num_images, color="0.7", **bars)
        below.set(xlabel="confidence", ylabel="images")
    return figure


def predictions(images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Images [N, H, W, C] uint8 in rows of eight, each titled with its predicted class [N].

    Correct predictions are green with a check mark; wrong ones are red with a cross, and the true class [N] below.
    """
    heading = "Predictions on test images: predicted (true)"
    with mpl.rc_context(STYLE):
        figure, places = _image_grid(images, columns=8, title=heading, above=0.55)
        for place, label, guess in zip(places, labels, predicted, strict=True):
            title, color = f"\N{CHECK MARK} {class_names[guess]}", CORRECT
            if guess != label:
                title, color = f"\N{MULTIPLICATION X} {class_names[guess]}\n({class_names[label]})", WRONG
            _add_title(figure, place, title, color=color, fontsize=_title_size(class_names))
    return figure


def count_confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The confusion matrix [K, K] of labels [N] and predicted classes [N]; rows are the true classes."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, -1)


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str], title: str = "Accuracy") -> Figure:
    """The confusion matrix [K, K] under its accuracy; rows are the true classes, columns the predicted ones."""
    with mpl.rc_context(STYLE):
        many = len(class_names)
        side = max(6.0, 0.62 * many) if many <= 20 else 12.0
        figure = Figure(figsize=(side + 1.2, side), layout="constrained")
        axis = figure.subplots()
        axis.grid(visible=False)
        fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        drawn = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(drawn, ax=axis, label="fraction of the true class", shrink=0.8)
        axis.set(title=f"{title} {np.trace(counts) / counts.sum():.2%}", xlabel="predicted", ylabel="true")
        if many <= 20:
            axis.set_xticks(range(many), class_names, rotation=45, ha="right", rotation_mode="anchor")
            axis.set_yticks(range(many), class_names)
            for (row, column), count in np.ndenumerate(counts):
                color = "white" if fractions[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=9)
    return figure


def _image_grid(
    images: Sequence[np.ndarray] | np.ndarray, columns: int, title: str, above: float
) -> tuple[Figure, list[tuple[float, float]]]:
    """A figure with images [H, W, C] uint8 in rows, each below a space of height `above`, and where that space ends.

    Lengths are in inches. All images are on one axis: an axis for each takes several times as long to lay out.
    """
    cell, side, header = 1.35, 1.23, 0.35  # inches
    height = header + math.ceil(len(images) / columns) * (above + side) + 0.1
    figure = Figure(figsize=(cell * columns, height))
    figure.suptitle(title, y=1 - 0.1 / height)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, cell * columns), ylim=(height, 0))
    axis.set_axis_off()
    places = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        center, top = (column + 0.5) * cell, header + row * (above + side) + above
        rows, width = (side * size / max(image.shape[:2]) for size in image.shape[:2])
        extent = (center - width / 2, center + width / 2, top + rows, top)
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
        places.append((center, top))
    return figure, places


def _add_title(figure: Figure, place: Sequence[float], title: str, **style: Any) -> None:
    figure.axes[0].text(place[0], place[1] - 0.05, title, ha="center", va="bottom", **style)


def _title_size(class_names: Sequence[str]) -> float:
    """Font size in points, reduced if the longest name, with a mark before it, is wider than an image."""
    return STYLE["axes.titlesize"] * min(1.0, 12 / max(map(len, class_names)))
