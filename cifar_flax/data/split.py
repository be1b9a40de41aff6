"""Divides the images of a source into splits in which all classes have the same fraction."""

import numpy as np

from cifar_flax.data.dataset import Split

SEED = 0  # independent of a run's seed: all runs are tested on the same images


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """[N] int: a random order of the rows in which each prefix has about the same fraction of every class."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the class
    return by_class[np.argsort((rank + 0.5) / np.repeat(counts, counts), kind="stable")]


def interleaved(split: Split) -> Split:
    """The same images with their classes mixed evenly, for images that are sorted by class."""
    order = stratified_order(split.labels)
    return Split(split.images[order], split.labels[order])


def split_off(split: Split, fraction: float) -> tuple[Split, Split]:
    """The images of a split without this fraction of each class, and that fraction.

    The order of the images is kept. A class with two images or more keeps one on either side.
    """
    is_chosen = np.zeros(len(split), bool)
    rng = np.random.default_rng(SEED)
    for label in np.unique(split.labels):
        rows = rng.permutation(np.flatnonzero(split.labels == label))
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        is_chosen[rows[:count]] = True
    remaining, chosen = (Split(split.images[rows], split.labels[rows]) for rows in (~is_chosen, is_chosen))
    return remaining, chosen
