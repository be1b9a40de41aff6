"""Handles a stdout or stderr that is closed, full, or connected to a terminal that is gone."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cifar_flax.errors import Unwritable


def repair_streams() -> None:
    """Opens closed streams on the null device, and escapes characters that a stream's encoding lacks.

    A daemon may start a program with closed streams; the next files that it opens would become stdout and stderr.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed
            # opens the lowest descriptor, which is this one; child processes get it, too
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        with suppress(OSError):
            os.set_blocking(descriptor, True)  # otherwise long output into a pipe is cut off
    sys.stdout = sys.stdout or _Nowhere()
    sys.stderr = sys.stderr or _Nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def discard_stdout() -> None:
    """Discards all further output, including what Python flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # a notebook's stdout has no descriptor
        sys.stdout = _Nowhere()
    finally:
        os.close(nowhere)


def say(text: str) -> None:
    """Prints the result of a command. Raises the same errors as `flush_stdout`."""
    with _failures_reported():
        print(text, flush=True)


def flush_stdout() -> None:
    """Writes what is still buffered.

    Raises:
        Unwritable: stdout cannot be written.
        BrokenPipeError: its reader went away, as in `| head`.
    """
    with _failures_reported():
        sys.stdout.flush()


@contextmanager
def _failures_reported() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
        raise
    except OSError as error:
        discard_stdout()
        raise Unwritable(f"stdout cannot be written ({error.strerror})") from error
