"""The lines of metrics.jsonl, one for each finished epoch, and which of them counts."""

from collections.abc import Sequence
from typing import Any

EPOCH_FIELDS = ("epoch", "step", "train_loss", "train_accuracy", "epoch_seconds", "images_per_second")
VALIDATION_FIELDS = ("validation_loss", "validation_accuracy")  # of a run that has validation images


def validated(epochs: Sequence[dict[str, Any]]) -> bool:
    """Whether the run has validation images."""
    return "validation_loss" in epochs[0]


def best_of(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line whose network counts: of the lowest validation loss, the first of equals; else the last one.

    Without validation images nothing can be chosen honestly, so the network is tested as the run leaves it.
    """
    return min(epochs, key=lambda line: line["validation_loss"]) if validated(epochs) else epochs[-1]
