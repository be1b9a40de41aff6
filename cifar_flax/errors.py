"""The endings of a run that are not a bug: each is reported in one line, without a traceback."""

import signal


class BadInput(Exception):
    """A field, file or flag that cannot be used. The message names it, what was found and what to do."""


class Diverged(Exception):
    """A loss that is not finite. The message names the step."""


class Unwritable(Exception):
    """The disk is full, or a folder cannot be written any more. The message names the file and what was found."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the state is saved and the same command goes on from there.

    Attributes:
        signal_number: which signal, so that the process can exit with 128 + signal_number.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


def in_one_line(error: Exception) -> str:
    """What a library's exception says, in one line of at most 300 characters that a terminal only shows."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)
