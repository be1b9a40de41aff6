"""Runs a program of this package that opens a file of unknown origin with a library, in a process of its own.

Such a library may end the process at a damaged file, or allocate whatever the file claims. The process has limits of
memory and time, inherits no variables or paths of Python, and imports nothing but its file and one library.
"""

import contextlib
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, BinaryIO

MAX_MEMORY = 2**31  # bytes
MAX_SECONDS = 300  # of CPU time
MAX_MESSAGE = 300  # characters
COMMAND = [sys.executable, "-I", "-S", "-B", __file__]


class ChildFailed(Exception):
    """The message is the error that the program printed, or how its process ended."""


@contextlib.contextmanager
def output_of(program: Path, library: ModuleType, file: BinaryIO, *arguments: str) -> Iterator[IO[bytes]]:
    """The stdout of a program, which receives a file as stdin.

    The process ends with the context. If the context ends normally, or because the output ends too early (OSError or
    ValueError), the process runs to its end first.

    Raises:
        ChildFailed: the program failed.
    """
    command = [*COMMAND, str(program), str(Path(library.__file__ or "").parents[1]), *arguments]
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=stderr, process_group=0) as process,
    ):
        assert process.stdout
        try:
            yield process.stdout
        except (OSError, ValueError):
            _finish(process, stderr)
            raise
        except BaseException:
            process.kill()
            raise
        _finish(process, stderr)


def _finish(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    while process.stdout and process.stdout.read(2**16):
        pass
    code = process.wait()
    if code < 0:
        raise ChildFailed(f"the process that opened it was killed by {signal.Signals(-code).name}")
    if code:
        stderr.seek(0)
        message = " ".join(stderr.read(2**14).decode(errors="replace").split())
        raise ChildFailed(message[:MAX_MESSAGE] or f"the process that opened it ended with exit code {code}")


def _run(program: str, folder: str, *arguments: str) -> None:
    """Runs a program in this process, with limits."""
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # there is a lower limit; macOS has none of memory
            resource.setrlimit(kind, (limit, limit))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread would reserve memory when numpy is imported
    sys.path.append(folder)
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _run(*sys.argv[1:])
