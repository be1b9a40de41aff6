"""The ways a run can end that are not bugs. Each is reported in one line, without a traceback."""

import difflib
import signal


class BadInput(Exception):
    """A field, file or flag that cannot be used. The message names it, what was found and what to do."""


class Diverged(Exception):
    """A loss or parameter that is not finite. The message names the step."""


class Unwritable(Exception):
    """The disk is full, or a folder can no longer be written. The message names the file and the cause."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived and the state was saved; the same command resumes the run.

    Attributes:
        signal_number: the signal; the process exits with 128 + signal_number.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


def in_one_line(error: Exception) -> str:
    """A library's exception as one printable line of at most 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or all of them."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; possible: {', '.join(known)}"
