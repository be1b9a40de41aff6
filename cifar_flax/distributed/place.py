"""The place of a process in a run over several processes: from its flags, or from SLURM, Open MPI or Kubernetes."""

import argparse
from typing import NamedTuple

from cifar_flax.errors import BadInput, in_one_line

HEARTBEAT = 60.0  # seconds without a sign of life after which a process counts as lost
JOIN_TIMEOUT = 300.0  # seconds
MAX_PROCESSES = 65_536
BY_HAND = "--coordinator HOST:PORT --num_processes N --process_id I"


class Place(NamedTuple):
    """Where a process is in the run.

    Attributes:
        host: where process 0 runs.
        port: where its hub listens.
        num_processes: of the run.
        process_id: from 0 to num_processes - 1.
        local_device_ids: the devices of this machine that the process uses; None: all.
        heartbeat: seconds without a sign of life after which a process counts as lost.
        join_timeout: seconds that the processes wait for each other at the start.
    """

    host: str
    port: int
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None
    heartbeat: float
    join_timeout: float


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags = parser.add_argument_group("several processes", "one run over many devices, see docs/scaling.md")
    flags.add_argument(
        "--distributed", action="store_true", help="as one process of a SLURM, Open MPI or Kubernetes job"
    )
    flags.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there")
    flags.add_argument("--num_processes", type=int, metavar="N", help="number of processes of the run")
    flags.add_argument("--process_id", type=int, metavar="I", help="this process, from 0 to N - 1")
    flags.add_argument(
        "--heartbeat", type=float, metavar="SECONDS", default=HEARTBEAT,
        help=f"a process that is silent for so long is lost; default: {HEARTBEAT:g}",
    )  # fmt: skip
    flags.add_argument(
        "--join_timeout", type=float, metavar="SECONDS", default=JOIN_TIMEOUT,
        help=f"how long the processes wait for each other at the start; default: {JOIN_TIMEOUT:g}",
    )  # fmt: skip


def find_place(arguments: argparse.Namespace) -> Place | None:
    """The place that the flags of `add_flags` describe; None for a run of a single process that is not distributed.

    Raises:
        BadInput: a flag is missing or not valid, or there is no job to take the place from.
    """
    by_hand = {name: getattr(arguments, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in by_hand.items() if value is None]
    if not arguments.distributed and len(missing) == 3:
        return None
    if missing and not arguments.distributed:
        raise BadInput(f"{' and '.join(missing)}: missing; give {BY_HAND}, or --distributed within a job")
    for name in ("heartbeat", "join_timeout"):
        if not 1 <= getattr(arguments, name) <= 1e6:
            raise BadInput(f"--{name}: {getattr(arguments, name)} is not valid; use a number of seconds >= 1")
    address, num_processes, process_id, local_device_ids = (
        _detected(**by_hand) if missing else (*by_hand.values(), None)
    )
    if not 1 <= num_processes <= MAX_PROCESSES:
        raise BadInput(f"--num_processes: {num_processes} is not valid; use an integer from 1 to {MAX_PROCESSES}")
    if not 0 <= process_id < num_processes:
        raise BadInput(f"--process_id: {process_id} is not valid; use an integer from 0 to {num_processes - 1}")
    host, port = _host_and_port(address)
    return Place(
        host, port, num_processes, process_id, local_device_ids, arguments.heartbeat, arguments.join_timeout
    )  # fmt: skip


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not _can_be_host(host) or not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65_535:
        raise BadInput(f"--coordinator: {address!r} is not valid; use HOST:PORT, such as node0:7777")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _can_be_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:  # a part between dots is empty or too long
        return False


def _detected(coordinator: str | None, num_processes: int | None, process_id: int | None) -> tuple:
    """The address, the number of processes, the process and its devices, completed by JAX's detection of jobs.

    Raises:
        BadInput: the process is not part of a job that JAX knows.
    """
    try:
        from jax._src.clusters import ClusterEnv  # JAX has no public function that detects without connecting

        found = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, num_processes, process_id, local_device_ids=None,
            cluster_detection_method=None, initialization_timeout=int(JOIN_TIMEOUT),
        )  # fmt: skip
    except Exception as error:  # a variable of the job is missing or damaged
        raise BadInput(f"--distributed: the job cannot be read ({in_one_line(error)}); give {BY_HAND}") from error
    if None in found[:3]:
        raise BadInput(f"--distributed: this is no SLURM, Open MPI or Kubernetes job; give {BY_HAND}")
    return found
