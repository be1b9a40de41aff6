"""SIGINT and SIGTERM as a question that the training loop asks between two pieces of work."""

import signal
import threading
from types import FrameType, TracebackType

from cifar_flax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first signal is only remembered; a second one acts at once, as it would without this.

    Python delivers signals to the main thread alone: entered in another one, this does nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def received(self) -> bool:
        return self._received is not None

    def raise_if_received(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
