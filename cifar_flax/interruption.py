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


def signals_to_defer() -> list[signal.Signals]:
    """The signals that ask this process to end, without those that it ignores."""
    # None: a handler that was not installed by Python, which could not be restored
    return [n for n in SIGNALS if n in ALWAYS or signal.getsignal(n) not in (signal.SIG_IGN, None)]


class Interruption:
    """Within the context, the first signal is recorded. After it, SIGINT or a second SIGTERM ends the process at once.

    Within another context, as in a sweep, the signal counts for both, also if they are in different threads. A signal
    that the process ignores stays ignored, such as SIGHUP under nohup. Python delivers signals to the main thread only:
    in any other thread, a context takes part in the one that is open there.
    """

    _outermost: "Interruption | None" = None

    def __init__(self) -> None:
        self._number: int | None = None  # of the outermost
        self._root = self
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._root = Interruption._outermost = Interruption._outermost or self
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._record) or signal.SIG_DFL for n in signals_to_defer()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._root is self:
            Interruption._outermost = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def received(self) -> bool:
        return self._root._number is not None

    def raise_if_received(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self._root._number is not None:
            raise Interrupted(self._root._number)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        if self._root._number is None:
            self._root._number = number
            warn("")  # ends the line of a terminal's ^C or of a progress bar
            warn("saving at the next safe point; press Ctrl-C again to stop at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # the others stay deferred: a lost terminal or a shutdown sends several signals with the same meaning
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def interrupt(number: int) -> bool:
    """Interrupts the run as if this signal had arrived. Returns False if no run is within an `Interruption`."""
    outermost = Interruption._outermost
    if outermost is not None and outermost._number is None:
        outermost._number = number
    return outermost is not None
