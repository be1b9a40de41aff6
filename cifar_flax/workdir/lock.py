"""The lock that keeps a second process out of a workdir."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cifar_flax.errors import BadInput

LOCK = ".lock"


@contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Creates the workdir and locks it against other processes. The lock is released when the process dies.

    If the workdir was created here and nothing was written to it, it is removed again.

    Raises:
        BadInput: another process holds the lock, or the folder cannot be created.
    """
    created = not workdir.exists()
    lock = filelock.FileLock(workdir / LOCK, timeout=0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise BadInput(
            f"--workdir: another process is training in {workdir}; wait for it to end or choose another workdir"
        ) from error
    except OSError as error:
        raise BadInput(f"--workdir: {workdir} cannot be written ({error.strerror}); choose another workdir") from error
    try:
        yield
    finally:
        lock.release()
        if created and {path.name for path in workdir.iterdir()} <= {LOCK}:
            shutil.rmtree(workdir)
