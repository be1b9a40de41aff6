"""The progress of several runs on one screen."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import rich.console
import rich.live
import rich.table

from cifar_flax.reporting import console
from cifar_flax.reporting.formatting import percent


class Display:
    """On a terminal, a line for each run in progress. Otherwise, for example in a log file, a line for each event.

    It can be used in several threads. Within the context, what is printed on a terminal appears above the lines.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._lock = threading.RLock()
        self._live: rich.live.Live | None = None

    def __enter__(self) -> "Display":
        screen = rich.console.Console(file=sys.stdout, highlight=False)
        if sys.stdout and sys.stdout.isatty() and not screen.is_dumb_terminal:  # which cannot move its cursor
            with console.optional_stdout():
                self._live = rich.live.Live(
                    console=screen,
                    auto_refresh=False,  # its thread could not handle a terminal that is gone
                    transient=True,
                    redirect_stderr=bool(sys.stderr and sys.stderr.isatty()),
                )
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with console.optional_stdout():
                self._live.stop()

    @contextmanager
    def row(self, seed: int) -> Iterator["Row"]:
        """The line of a seed, as the listener of its run."""
        with self._lock:
            row = self._rows[seed] = Row(self, seed)
            self.refresh()
        try:
            yield row
        finally:
            with self._lock:
                del self._rows[seed]
                self.refresh()

    def refresh(self) -> None:
        """Shows the current content of all lines."""
        if not self._live:
            return
        with self._lock, console.optional_stdout():
            table = rich.table.Table.grid(padding=(0, 2, 0, 0))
            for _, row in sorted(self._rows.items()):
                table.add_row(f"seed {row.seed}", *row.cells)
            self._live.update(table, refresh=True)

    @property
    def is_terminal(self) -> bool:
        return self._live is not None


class Row:
    """The listener of one run (reporting/listener.py)."""

    def __init__(self, display: Display, seed: int) -> None:
        self.seed = seed
        self.cells = ["starting", "", "", ""]
        self._display = display
        self._last_line = time.monotonic()

    def begin(self, title: str) -> None:
        self.cells[0] = title
        self._display.refresh()

    def progress(self, images_left: int, images_per_second: float) -> None:
        speed, left = f"{images_per_second:,.0f} images/s", f"{_duration(images_left / images_per_second)} left"
        self.cells[1:3] = speed, left
        self._display.refresh()
        if not self._display.is_terminal and time.monotonic() - self._last_line > console.LOG_EVERY:
            self._print(f"{self.cells[0]}, {speed}, {left}")

    def epoch(self, text: str, validation_accuracy: float | None) -> None:
        if validation_accuracy is not None:
            self.cells[3] = f"validation accuracy {validation_accuracy:.2%}"
            self._display.refresh()
        if not self._display.is_terminal:
            self._print(text)

    def result(self, run: dict[str, Any]) -> None:
        """Prints the result of a run, from its run.json, also on a terminal."""
        self._print(f"test accuracy {percent(run['test_accuracy'])}")

    def _print(self, text: str) -> None:
        console.show(f"seed {self.seed}: {text}")
        self._last_line = time.monotonic()


def _duration(seconds: float) -> str:
    """`4:05` or `1:04:05`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
