"""How much memory this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def host_memory() -> int:
    """Bytes of the machine's memory, or fewer if a control group limits this process, as in a container or a job."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])


def _limits() -> Iterator[int]:
    """The limits of the process's control groups, of version 1 and 2, and of the groups around them."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            root = MOUNT / controllers
            path = root / group.lstrip("/")
            for folder in (path, *path.parents):
                if folder.is_relative_to(root) and (limit := _number(folder / name)):
                    yield limit


def _number(file: Path) -> int | None:
    """The number in a file; None if there is no such file, or it says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
