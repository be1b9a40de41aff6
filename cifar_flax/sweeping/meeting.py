"""Threads that take turns, and that meet."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Part = TypeVar("Part")


class Meeting(Generic[Part]):
    """Of its threads, one runs at a time. It goes on until it waits for the others, or leaves.

    Attributes:
        num_present: threads that have not left, including those that have not begun.
    """

    def __init__(self, num_threads: int, act: Callable[[list[Part]], None]) -> None:
        """`act` is called with the parts of all threads when they meet. It must not raise an error."""
        self.num_present = num_threads
        self._act = act
        self._turn = threading.Condition()  # held by the thread whose turn it is, released while it waits
        self._parts: list[Part] = []
        self._pauses: list[object] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What a thread does, in its turns. Each thread must enter this once, and leaves with it."""
        with self._turn:
            try:
                yield
            finally:
                self.num_present -= 1
                self._turn.notify_all()

    def meet(self, part: Part) -> None:
        """Waits until all threads meet, and `act` was called with their parts."""
        self._parts.append(part)
        while part in self._parts:
            self._wait()

    def pause(self) -> None:
        """Waits until all threads pause or want to meet."""
        pause = object()
        self._pauses.append(pause)
        while pause in self._pauses:
            self._wait()

    def _wait(self) -> None:
        """Waits for other threads. If all of them wait, lets those go on that pause, or else those that meet."""
        if len(self._parts) + len(self._pauses) < self.num_present:
            self._turn.wait()
            return
        if not self._pauses:
            self._act(self._parts)
            self._parts = []
        self._pauses = []
        self._turn.notify_all()
