"""Defers SIGINT and SIGTERM until the training loop polls for them."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from cifar_flax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within the context, the first signal is recorded; a second one ends the process at once.

    Python delivers signals to the main thread only. In any other thread this does nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def received(self) -> bool:
        return self._received is not None

    def raise_if_received(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        # not the previous handlers: a shell makes its background jobs ignore SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("\nsaving at the next safe point; press Ctrl-C again to stop at once", file=sys.stderr)
