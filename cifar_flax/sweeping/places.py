"""Where runs compute that run at once: each on CPUs or on a GPU of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cifar_flax.data.decoding import num_cpus
from cifar_flax.errors import BadInput

# asked in a process of its own: JAX reserves most of a GPU's memory in a process that looks for devices
PROBE = "import jax; print(jax.default_backend(), jax.local_device_count())"
VISIBLE = ("JAX_CUDA_VISIBLE_DEVICES", "JAX_ROCM_VISIBLE_DEVICES")  # JAX's own: within what CUDA_VISIBLE_DEVICES leaves


class Place(NamedTuple):
    """Where a process computes.

    Attributes:
        cpus: their numbers; empty: any.
        variables: of its environment, in addition to those of this process.
    """

    cpus: Sequence[int]
    variables: dict[str, str]

    @property
    def description(self) -> str:
        """In words, for the screen."""
        if self.variables:
            return "a GPU of its own"
        return f"{len(self.cpus)} CPU{'s' * (len(self.cpus) > 1)} of its own" if self.cpus else "all CPUs"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process there."""
        return {**os.environ, **self.variables}

    def pin(self) -> None:
        """Pins this thread to the CPUs, and thereby the processes that it starts."""
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)


def find_places(jobs: int | None, num_seeds: int) -> list[Place]:
    """A place for each run that trains at the same time: one for each CPU or GPU, at most `num_seeds`.

    Args:
        jobs: the number that the user asks for; None: as many as there are places.
        num_seeds: the number of runs.

    Raises:
        BadInput: there are not as many places as the user asks for.
    """
    if jobs == 1 or num_seeds <= 1:
        return [Place((), {})]
    platform, num_devices = _devices()
    if platform == "cpu":
        count, what = num_cpus(), "the number of CPUs that this process may use"
    elif platform == "gpu":
        count, what = num_devices, "the number of GPUs"
    else:
        count, what = 1, f"because a process takes all devices of the platform {platform}"
    if jobs is not None and jobs > count:
        advice = "" if platform == "cpu" else "; --together trains several seeds on one device"
        raise BadInput(f"--jobs: {jobs} is not valid; use {'at most ' * (count > 1)}{count}, {what}{advice}")
    jobs = min(jobs or count, num_seeds)
    if jobs == 1:
        return [Place((), {})]
    return _gpu_places(jobs) if platform == "gpu" else _cpu_places(jobs)


def _devices() -> tuple[str, int]:
    """JAX's default platform, and the number of its devices."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 1
    command = [sys.executable, "-c", PROBE]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    words = answer.split()[-2:]
    return (words[0], int(words[1])) if len(words) == 2 else ("cpu", 1)  # the first run says what is wrong


def _gpu_places(jobs: int) -> list[Place]:
    def variables(index: int) -> dict[str, str]:
        chosen = {name: os.environ.get(name, "all").split(",") for name in VISIBLE}
        return {name: str(index) if known == ["all"] else known[index] for name, known in chosen.items()}

    return [Place((), variables(index)) for index in range(jobs)]


def _cpu_places(jobs: int) -> list[Place]:
    if not hasattr(os, "sched_setaffinity"):  # macOS cannot pin; the system divides the CPUs
        return [Place((), {})] * jobs
    cpus = sorted(os.sched_getaffinity(0), key=_core)
    size = len(cpus) // jobs  # the same for all, because it changes the rounding of a run
    return [Place(cpus[first : first + size], {}) for first in range(0, size * jobs, size)]


def _core(cpu: int) -> tuple[int, int, int]:
    """Sorts CPUs so that those that share a core, or else a socket, are neighbors."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text()), cpu
    except (OSError, ValueError):
        return 0, 0, cpu
