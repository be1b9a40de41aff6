"""Figures: nothing is clipped, titles do not overlap, and color is not the only cue."""

import numpy as np
import pytest
from PIL import Image

from cifar_flax.reporting import figures
from cifar_flax.reporting.calibration import calibrate

NAMES = ("airplane", "automobile", "a $5 class with a $^$ name")
RNG = np.random.default_rng(0)


def images(count, channels=3):
    return RNG.integers(0, 256, (count, 8, 8, channels), np.uint8)


EPOCHS = [
    {"epoch": epoch, "train_loss": 2.0, "train_accuracy": 0.3, "validation_loss": loss, "validation_accuracy": 0.4}
    for epoch, loss in ((1, 1.5), (2, 0.5), (3, 1.5))
]

FIGURES = {
    "labeled": lambda: figures.labeled_images(images(30), RNG.integers(0, 3, 30), NAMES),
    "few": lambda: figures.labeled_images(images(7, 1), RNG.integers(0, 3, 7), NAMES),
    "augmented": lambda: figures.augmented_images(images(6), images(6)),
    "curves": lambda: figures.learning_curves(EPOCHS),
    "one_epoch": lambda: figures.learning_curves(EPOCHS[:1]),
    "loss": lambda: figures.learning_curve(EPOCHS, "loss"),
    "comparison": lambda: figures.comparison({f"{i}, a long name of $5 $^$": EPOCHS for i in range(9)}, "accuracy"),
    "reliability": lambda: figures.reliability(calibrate(np.eye(3), np.array([0, 1, 1]))),
    "predictions": lambda: figures.predictions(images(32), np.zeros(32, int), RNG.integers(0, 3, 32), NAMES),
    "confusion": lambda: figures.confusion_matrix(np.array([[5, 1, 0], [0, 4, 2], [0, 0, 0]]), NAMES),
    "many_classes": lambda: figures.confusion_matrix(np.eye(100, dtype=int), [f"class {i}" for i in range(100)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_not_clipped(name, tmp_path):
    figure = FIGURES[name]()
    image = figures.pixels(figure)
    figures.save(image, tmp_path / "figures" / "figure.png")
    with Image.open(tmp_path / "figures" / "figure.png") as saved:
        np.testing.assert_array_equal(saved, image)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["figure.png"]
    bounds = figure.bbox.padded(1)
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert bounds.x0 <= box.x0 <= box.x1 <= bounds.x1, (name, axis.get_title())
        assert bounds.y0 <= box.y0 <= box.y1 <= bounds.y1, (name, axis.get_title())


@pytest.mark.parametrize("name", ["labeled", "augmented", "predictions"])
def test_titles_overlap_neither_each_other_nor_images(name):
    figure = FIGURES[name]()
    figures.pixels(figure)
    axis = figure.axes[0]
    assert len(axis.texts) == (2 if name == "augmented" else len(axis.images))
    boxes = [drawn.get_window_extent() for drawn in [*figure.texts, *axis.texts, *axis.images]]
    overlapping = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not overlapping


def test_correct_and_wrong_predictions_differ_in_color_and_symbol():
    figure = figures.predictions(images(2), np.array([0, 1]), np.array([0, 0]), NAMES)
    correct, wrong = figure.axes[0].texts
    assert (correct.get_text(), correct.get_color()) == ("\N{CHECK MARK} airplane", figures.CORRECT)
    assert (wrong.get_text(), wrong.get_color()) == ("\N{MULTIPLICATION X} airplane\n(automobile)", figures.WRONG)


def test_learning_curves_mark_the_best_epoch():
    loss, accuracy = figures.learning_curves(EPOCHS).axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation", "best epoch: 2"]
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [1.5, 0.5, 1.5])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), 0.3)


def test_rows_of_the_confusion_matrix_are_true_classes():
    axis = FIGURES["confusion"]().axes[0]
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts[1, 0] == "1"  # x 1, y 0: an airplane classified as an automobile
    assert axis.get_ylabel() == "true"
    assert "75.00%" in axis.get_title()


def test_equal_figures_give_equal_svg():
    first, second = (figures.svg(figures.learning_curve(EPOCHS, "loss")) for _ in range(2))
    assert first == second
    assert first.count("<svg") == 1
