"""Where a run reports its progress, instead of printing it, if it shares a screen with others."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """What a run calls within `listening`. All arguments are values of JSON, so that they can be sent elsewhere."""

    def begin(self, title: str) -> None:
        """Called before each epoch, such as `Epoch 3/20`."""

    def progress(self, images_left: int, images_per_second: float) -> None:
        """Called after each chunk of steps. `images_left` are those of the rest of the run."""

    def epoch(self, text: str, validation_accuracy: float | None) -> None:
        """Called after each epoch, with the line that would have been printed."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def current() -> Listener | None:
    """The listener of this thread."""
    return _listener.get()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the context, runs of this thread print nothing on stdout and report to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
