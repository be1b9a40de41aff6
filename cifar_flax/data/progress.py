"""The progress bar of everything that shows one."""

from tqdm import tqdm

BAR_DELAY = 1.0  # seconds; a few pictures need no progress bar


class ProgressBar(tqdm):  # type: ignore[misc]
    """`tqdm` without its own thread, which would also write."""

    monitor_interval = 0
