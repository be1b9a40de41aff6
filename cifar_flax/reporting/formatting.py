"""Numbers as people read them."""

import statistics
from collections.abc import Sequence


def mean_std_percent(fractions: Sequence[float | None]) -> str:
    """Fractions as `74.31 ± 0.32 %`: mean and sample standard deviation (n - 1). A single one is `74.31 %`.

    `none` if one of them is None.
    """
    values = [fraction for fraction in fractions if fraction is not None]
    if len(values) < len(fractions):
        return "none"
    mean = f"{100 * statistics.fmean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f} %" if len(values) > 1 else f"{mean} %"


def percent(fraction: float | None) -> str:
    """A fraction as `74.31%`; None is `none`."""
    return "none" if fraction is None else f"{fraction:.2%}"


def describe_seeds(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 0 to 4`, `seeds 0, 2, 5`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
