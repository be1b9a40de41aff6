"""A process that decodes pictures.

It is started with `subprocess`: the processes of `multiprocessing` run the user's script again, or are forked from a
process with JAX's threads, which is unsafe. It imports nothing but Pillow and `pixels`, and is ready in 50 ms.
"""

import contextlib
import marshal
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import PIL

from cifar_flax.data import pixels

START = "import sys; sys.path += sys.argv[1:]; import pixels; pixels.serve()"

END_TIMEOUT = 5.0  # seconds for a process that closed its output to end


class WorkerEnded(Exception):
    """The message says how, after the words "the process"."""


class Worker:
    """A process that decodes. It ends with the context, or when this process ends."""

    def __init__(self) -> None:
        folders = [Path(PIL.__file__).parents[1], Path(np.__file__).parents[1], Path(pixels.__file__).parent]
        # isolated from variables and from the current folder, and in a group that a terminal's Ctrl-C does not reach
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", START, *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def has_started(self) -> bool:
        """Waits until the process can decode. Returns False if it cannot start."""
        try:
            return marshal.load(self._answers) == pixels.READY
        except (EOFError, ValueError, TypeError):
            return False

    def decode(self, *request: Any) -> pixels.Chunk:
        """As `pixels.decode`. Raises WorkerEnded if the process ends."""
        try:
            self._requests.write(marshal.dumps(request))
            self._requests.flush()
            return pixels.Chunk(*marshal.load(self._answers))
        except (OSError, EOFError, ValueError, TypeError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT)
            self._process.kill()  # if its answer was damaged, it still runs
            code = self._process.wait()
            reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise WorkerEnded(reason) from error
