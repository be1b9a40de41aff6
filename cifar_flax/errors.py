"""The ways a run can end that are not bugs. Each is reported in one line, without a traceback."""

import contextlib
import difflib
import signal
import sys


class BadInput(Exception):
    """A field, file or flag that cannot be used. The message names it, what was found and what to do."""


class Locked(BadInput):
    """Another process is training in the workdir."""


class Diverged(Exception):
    """A loss or parameter that is not finite. The message names the step."""


class Unwritable(Exception):
    """The disk is full, or a folder can no longer be written. The message names the file and the cause."""


class Failed(Exception):
    """A process that trains a run ended unexpectedly. The message says how; what was saved before is still there."""


class Interrupted(Exception):
    """A signal arrived, or the reader of stdout went away, and the state was saved; the same command resumes the run.

    Attributes:
        signal_number: the signal; the process exits with 128 + signal_number.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Stopped(Exception):
    """What watches a run, such as a search, ended it before its test; the state is saved and can be resumed."""


def warn(text: str) -> None:
    """Prints a line on stderr. A stderr that is closed, full or gone must not end a run, so its errors are ignored."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal arrived during another print
        print(printable(text), file=sys.stderr, flush=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device ran out of memory. XLA raises RuntimeError with its own status codes."""
    marks = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "ALLOC_FAILED", "out of memory", "Out of memory")
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or any(mark in text for mark in marks)


def in_one_line(error: Exception) -> str:
    """A library's exception as one printable line of at most 300 characters."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def import_problem(error: Exception, packages: str) -> str:
    """Why an import of `packages` failed: `tensorflow is not installed`, or the error of a broken installation."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed"
    return f"{packages} cannot be imported ({in_one_line(error)})"


def printable(text: str) -> str:
    """The text with its control characters escaped, so that it is one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or all of them."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; possible: {', '.join(known)}"
