"""Defers signals that ask a run to end until the training loop polls for them."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from cifar_flax.errors import Interrupted, warn

# Ctrl-C, a request to stop, a lost terminal, and what batch systems send before a time limit. Windows lacks some.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
ALWAYS = (signal.SIGINT, signal.SIGTERM)  # even if ignored: a shell makes its background jobs ignore SIGINT


class Interruption:
    """Within the context, the first signal is recorded. After it, SIGINT or a second SIGTERM ends the process at once.

    Within another context, as in a sweep, the signal counts for both. A signal that the process ignores stays ignored,
    such as SIGHUP under nohup. Python delivers signals to the main thread only. In any other thread this does nothing.
    """

    _current: "Interruption | None" = None

    def __init__(self) -> None:
        self._received: int | None = None
        self._outer: Interruption | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            # None: a handler that was not installed by Python, which could not be restored
            ignored = (signal.SIG_IGN, None)
            taken = [n for n in SIGNALS if n in ALWAYS or signal.getsignal(n) not in ignored]
            self._previous = {number: signal.signal(number, self._record) or signal.SIG_DFL for number in taken}
        self._outer, Interruption._current = Interruption._current, self
        if self._outer is not None:
            self._received = self._outer._received
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Interruption._current = self._outer
        if self._outer is not None:
            self._outer._received = self._received
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
        if self._received is None:
            self._received = number
            warn("")  # ends the line of a terminal's ^C or of a progress bar
            warn("saving at the next safe point; press Ctrl-C again to stop at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # the others stay deferred: a lost terminal or a shutdown sends several signals with the same meaning
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interrupt(number: int) -> bool:
    """Interrupts the run as if this signal had arrived. Returns False if no run is within an `Interruption`."""
    current = Interruption._current
    if current is not None and current._received is None:
        current._received = number
    return current is not None
