"""Expected calibration error and reliability bins."""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4


class Calibration(NamedTuple):
    """Bins of equal width over the confidence, which is the largest probability.

    Attributes:
        confidence: mean confidence of each bin, [bins]; 0 in an empty bin.
        accuracy: accuracy of each bin, [bins]; 0 in an empty bin.
        num_images: number of images in each bin, [bins] int.
        error: expected calibration error, the mean over all images of |accuracy - confidence| of their bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    num_images: np.ndarray
    error: float


def calibrate(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """The calibration of probabilities [N, K] with labels [N] (Guo et al., 2017, equations 1 to 3).

    A bin includes its upper edge.
    """
    confidences, correct = probabilities.max(-1).astype(np.float64), probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights, minlength=num_bins) for weights in (confidences, correct))
    confidence, accuracy = (total / np.maximum(count, 1) for total in sums)
    error = float((count * np.abs(accuracy - confidence)).sum() / count.sum())
    return Calibration(confidence, accuracy, count, error)
