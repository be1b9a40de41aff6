"""What several seeds say together."""

import statistics
from collections.abc import Sequence


def percent(shares: Sequence[float | None]) -> str:
    """Shares in [0, 1] as `74.31 ± 0.32 %`: mean and the sample's standard deviation (n - 1), of one `74.31 %`.

    `none` where one of them is None, a share of no images.
    """
    found = [share for share in shares if share is not None]
    if len(found) < len(shares):
        return "none"
    mean = f"{100 * statistics.fmean(found):.2f}"
    return f"{mean} ± {100 * statistics.stdev(found):.2f} %" if len(found) > 1 else f"{mean} %"


def share(found: float | None) -> str:
    """A share in [0, 1] as `74.31%`; of no images, `none`."""
    return "none" if found is None else f"{found:.2%}"


def seeds(numbers: Sequence[int]) -> str:
    """`seed 3`, `seeds 0 to 4`, `seeds 0, 2, 5`."""
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"seeds {numbers[0]} to {numbers[-1]}"
    return f"seeds {', '.join(map(str, numbers))}"
