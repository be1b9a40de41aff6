"""Lets a command with several inputs process the good ones although others are bad."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from cifar_flax.errors import BadInput, warn


class BadItems:
    """Each bad item becomes a line on stderr, and the command ends with exit code 2.

    with BadItems() as bad_items:
        for path in paths:
            with bad_items.reported():
                print(answer(path))

    The last error is raised at the end of the block, so that `exit_code` prints it.
    """

    def __init__(self) -> None:
        self._last: BadInput | None = None

    def __enter__(self) -> "BadItems":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last and error is None:
            raise self._last
        self._warn_of_last()

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Reports a BadInput that ends the block, and lets the command continue."""
        try:
            yield
        except BadInput as error:
            self._warn_of_last()
            self._last = error

    def _warn_of_last(self) -> None:
        if self._last:
            warn(f"error: {self._last}")
