"""The lock that keeps a second process out of a workdir."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from cifar_flax.errors import BadInput, Locked

LOCK = ".lock"  # locked with flock; not deleted on release
MARKER = ".lock.holder"  # where flock does not work: names the process and the host, exists while the lock is held
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # the errors of file systems without flock


@contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Creates the workdir and locks it against other processes.

    If a process dies, the system releases its lock. On a file system without flock the lock is a file; one left by a
    dead process of this host is taken over, one left by a process of another host must be deleted by hand.

    If the workdir was created here and nothing was written to it, it is removed again.

    Raises:
        Locked: another process holds the lock.
        BadInput: the folder cannot be created or written.
    """
    with ExitStack() as held:
        created = False
        try:
            created = not workdir.exists()
            workdir.mkdir(parents=True, exist_ok=True)
            _acquire(workdir, held)
        except OSError as error:
            if created:
                _remove_if_empty(workdir)
            raise BadInput(
                f"--workdir: {error.filename or workdir} cannot be written ({error.strerror}); choose another workdir"
            ) from error
        if created:
            held.callback(_remove_if_empty, workdir)  # before the lock is released, so it cannot be another process'
        yield


def is_locked(workdir: Path) -> bool:
    """Whether another process is training in the workdir."""
    try:
        with lock_workdir(workdir):
            return False
    except Locked:
        return True
    except BadInput:  # whoever locks it reports that
        return False


def _acquire(workdir: Path, held: ExitStack) -> None:
    """Acquires the lock with flock, or the marker where flock does not work. `held` releases it."""
    lock, marker = workdir / LOCK, workdir / MARKER
    try:
        _hold(filelock.FileLock(lock, timeout=0, fallback_to_soft=False), held)
        markers = [marker] if marker.exists() else []  # of a process on a host where flock does not work
    except filelock.Timeout as error:
        raise Locked(
            f"--workdir: another process is training in {workdir}; wait for it to end or choose another workdir"
        ) from error
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        markers = [marker, *([lock] if lock.stat().st_size else [])]  # earlier versions wrote the marker to .lock
    for path in markers:
        try:
            _hold(filelock.SoftFileLock(path, timeout=0), held)
        except filelock.Timeout as error:
            raise Locked(
                f"--workdir: {_holder(path)} is training in {workdir}; wait for it to end, or, if it has ended, "
                f"delete its lock file {path}"
            ) from error


def _hold(lock: filelock.BaseFileLock, held: ExitStack) -> None:
    lock.acquire()
    held.callback(_release, lock)


def _release(lock: filelock.BaseFileLock) -> None:
    with suppress(OSError):  # must not turn a finished run into a failed one; the lock ends with the process
        lock.release()


def _holder(marker: Path) -> str:
    """The process that a marker names."""
    try:
        pid, host, *_ = marker.read_text().split()
    except (OSError, ValueError):  # released meanwhile, or damaged
        return "another process"
    return f"process {pid} on the host {host.partition('?')[0]}"  # the rest names the container


def _remove_if_empty(workdir: Path) -> None:
    with suppress(OSError):
        if {path.name for path in workdir.iterdir()} <= {LOCK, MARKER}:
            shutil.rmtree(workdir)
