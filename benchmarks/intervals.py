"""What several seeds say about the mean and about a further run, by Student's t distribution."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy import stats

from cifar_flax.reporting.formatting import mean_std_percent

CONFIDENCE = 0.95


def mean_with_interval(fractions: Sequence[float | None], bold: bool = False) -> str:
    """`74.09 ± 0.19 % [73.85, 74.32]`: mean, standard deviation and the mean's 95 % confidence interval.

    A single fraction has neither deviation nor interval. `none` if one of them is None.
    """
    values = [fraction for fraction in fractions if fraction is not None]
    text = f"**{mean_std_percent(fractions)}**" if bold else mean_std_percent(fractions)
    if len(values) < max(2, len(fractions)):
        return text
    low, high = confidence_interval(values)
    return f"{text} [{100 * low:.2f}, {100 * high:.2f}]"


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of a normal distribution, from at least two samples."""
    return _around_mean(values, stdev(values) / sqrt(len(values)))


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where a further sample of a normal distribution is with probability `CONFIDENCE`, from at least two samples."""
    return _around_mean(values, _deviation_of_a_further_one(values))


def p_value(value: float, values: Sequence[float]) -> float:
    """The probability that a further sample is at least as far from the mean of `values` as `value` (two-sided)."""
    distance = abs(value - fmean(values)) / _deviation_of_a_further_one(values)
    return float(2 * stats.t.sf(distance, len(values) - 1))


def _around_mean(values: Sequence[float], deviation: float) -> tuple[float, float]:
    half = stats.t.isf((1 - CONFIDENCE) / 2, len(values) - 1) * deviation
    return fmean(values) - half, fmean(values) + half


def _deviation_of_a_further_one(values: Sequence[float]) -> float:
    return stdev(values) * sqrt(1 + 1 / len(values))
