"""Calibration: reliability bins, proper scores, and the temperature that is fitted on validation images."""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4
MAX_TEMPERATURE = 100.0  # and at least its inverse; published networks lie between 0.5 and 5
NUM_BISECTIONS = 50  # of log(temperature), until it is known to 1e-14


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


class Scores(NamedTuple):
    """How well probabilities match labels; for each, lower is better.

    Attributes:
        negative_log_likelihood: mean over the images, in nats.
        brier: the sum over the classes of the squared difference between probability and one-hot label, mean over the
            images, from 0 to 2 (Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950).
        calibration_error: the expected calibration error of `calibrate`, in [0, 1].
    """

    negative_log_likelihood: float
    brier: float
    calibration_error: float


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


def scores(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Scores:
    """The scores of softmax(logits / temperature), computed in float64.

    Args:
        logits: [N, K] float.
        labels: [N] int, from 0 to K - 1.
        temperature: greater than 0, for example of `fit_temperature`.
    """
    log_probabilities = _log_softmax(logits.astype(np.float64) / temperature)
    probabilities, rows = np.exp(log_probabilities), np.arange(len(labels))
    one_hot = np.zeros_like(probabilities)
    one_hot[rows, labels] = 1
    return Scores(
        float(-log_probabilities[rows, labels].mean()),
        float(((probabilities - one_hot) ** 2).sum(-1).mean()),
        calibrate(probabilities, labels).error,
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., 2017, section 4.2).

    It lies between 1 / MAX_TEMPERATURE and MAX_TEMPERATURE, also where the likelihood has no maximum, because all
    images are classified correctly. It is 1 where the temperature changes nothing.

    Args:
        logits: [N, K] float, of images that the network was not trained on.
        labels: [N] int, from 0 to K - 1.
    """
    logits = logits.astype(np.float64)
    margins = logits - logits[np.arange(len(labels)), labels, None]
    low, high = -np.log(MAX_TEMPERATURE), np.log(MAX_TEMPERATURE)
    middle = 0.0
    for _ in range(NUM_BISECTIONS):
        # The loss is convex in 1 / temperature. Its derivative is the expected logit less the label's logit
        derivative = (np.exp(_log_softmax(margins / np.exp(middle))) * margins).sum(-1).mean()
        if derivative == 0:
            break
        low, high = (middle, high) if derivative > 0 else (low, middle)
        middle = (low + high) / 2
    return float(np.exp(middle))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
