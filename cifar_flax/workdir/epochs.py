"""The lines of metrics.jsonl, one per finished epoch, and the choice of the best."""

from collections.abc import Sequence
from typing import Any

EPOCH_FIELDS = ("epoch", "step", "train_loss", "train_accuracy", "epoch_seconds", "images_per_second")
VALIDATION_FIELDS = ("validation_loss", "validation_accuracy")  # only with validation images


def validated(epochs: Sequence[dict[str, Any]]) -> bool:
    """Whether these epochs, at least one, were validated."""
    return "validation_loss" in epochs[0]


def best_of(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line of the epoch to test: the first with the lowest validation loss, or the last without validation images.

    Without validation images nothing can be chosen fairly, so the network is tested as the run leaves it.
    """
    return min(epochs, key=lambda line: line["validation_loss"]) if validated(epochs) else epochs[-1]


def stops_early(epochs: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` of these epochs all had no lower validation loss than those before; never for 0."""
    return 0 < patience < len(epochs) and len(epochs) - best_of(epochs)["epoch"] >= patience
