"""The process that computes. Its supervisor starts it, and ends it when the run ends anywhere.

In process 0 it runs the training loop; in the others it computes along.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from cifar_flax.cli.commandline import OUTCOMES, describe, is_bug
from cifar_flax.data import Dataset, load
from cifar_flax.distributed.hub import AGAIN
from cifar_flax.distributed.place import Place
from cifar_flax.errors import BadInput
from cifar_flax.interruption import interrupt, signals_to_defer
from cifar_flax.training.conducting import follow, gather
from cifar_flax.training.job import abstract_state, make_job_for, resolve_config
from cifar_flax.training.memory import too_large
from cifar_flax.training.programs import make_programs
from cifar_flax.workdir.environment import find_devices
from cifar_flax.workdir.identity import data_differences, describe_data, with_absolute_paths

VARIABLE = "CIFAR_FLAX_TRAINER"  # set by the supervisor: descriptors of the socket, stdout and stderr, and the place
NEVER = 10 * 365 * 86_400  # seconds; supervisors notice lost processes, and JAX would abort the process
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination")  # in the errors of a lost connection


class Supervised:
    """The connection to the supervisor. Without the supervisor, the process ends."""

    def __init__(self, descriptor: int, is_conductor: bool):
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._is_conductor = is_conductor

    def wait_for_start(self) -> tuple[int, str]:
        """When all processes have joined: the port of JAX's service in process 0, and the address of this process."""
        while "start" not in (message := self._receive()):
            pass
        threading.Thread(target=self._listen, daemon=True).start()
        return message["start"], message["address"]

    def send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def end(self, code: int, line: str | None) -> NoReturn:
        """Ends the process; the supervisor prints the line. JAX's own farewell, which waits for others, is left out."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        with contextlib.suppress(OSError):
            self.send({"ended": code, "line": line})
        os._exit(code)

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:  # the supervisor is gone
            os._exit(1)
        return json.loads(line)

    def _listen(self) -> NoReturn:
        """Interrupts the run when the supervisor says so."""
        while True:
            number = self._receive().get("signal")
            if number and not interrupt(number):
                self.end(128 + number, AGAIN)

    def pass_signals_on(self) -> None:
        """Sends the signals that this process receives to the supervisor, also while a computation waits."""
        if not self._is_conductor:
            receiver, sender = socket.socketpair()
            sender.setblocking(False)
            for number in signals_to_defer():
                signal.signal(number, lambda *_: None)
            signal.set_wakeup_fd(sender.detach())
            threading.Thread(target=self._pass_on, args=(receiver,), daemon=True).start()

    def _pass_on(self, receiver: socket.socket) -> NoReturn:
        while True:
            self.send({"signal": receiver.recv(1)[0]})


def train_supervised(config: ConfigDict, train: Callable[[], Any]) -> NoReturn:
    """Computes as one process of the run, and ends the process.

    Args:
        config: of the run.
        train: called in process 0 once all processes agree on the data.
    """
    stored = json.loads(os.environ.pop(VARIABLE))
    place = Place(*stored["place"])
    descriptor, *streams = stored["descriptors"]
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", errors="backslashreplace") for stream in streams)
    _leave_no_core_file()
    supervised = Supervised(descriptor, is_conductor=place.process_id == 0)
    supervised.pass_signals_on()
    code, line = 0, None
    try:
        connect(place, *supervised.wait_for_start())
        check_devices()
        if place.process_id == 0:
            load_same(config)  # not kept, because `train` loads it again
            train()
        else:
            follow_process_0(config, load_same(config))
    except BaseException as error:
        if any(word in str(error) for word in LOST) and not isinstance(error, OUTCOMES):
            time.sleep(place.heartbeat)  # until the supervisor ends this process
        code, line = describe(error)
        if is_bug(error):
            traceback.print_exc()
    supervised.end(code, line)


def _leave_no_core_file() -> None:
    """In case that JAX aborts the process."""
    import resource  # which Windows lacks

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def connect(place: Place, port: int, address: str) -> None:
    """Connects JAX with the other processes.

    Args:
        place: of this process.
        port: of JAX's service in process 0.
        address: where the others reach this process.
    """
    with contextlib.suppress(ImportError, AttributeError):  # of another version of JAX, which has no option for it
        from jax._src.lib import _jax

        _jax.make_gloo_tcp_collectives = partial(_jax.make_gloo_tcp_collectives, hostname=address)
    # JAX's own service for signals would take SIGTERM away from the run
    jax.config.update("jax_enable_preemption_service", False)
    host = f"[{place.host}]" if ":" in place.host else place.host
    jax.distributed.initialize(
        f"{host}:{port}", place.num_processes, place.process_id, place.local_device_ids,
        cluster_detection_method="deactivate", initialization_timeout=int(place.join_timeout),
        heartbeat_timeout_seconds=NEVER,
    )  # fmt: skip


def check_devices() -> None:
    """Raises BadInput if the processes have different numbers of devices."""
    counts = Counter(device.process_index for device in find_devices())
    for process, count in sorted(counts.items()):
        if count != counts[0]:
            raise BadInput(
                f"number of devices: {counts[0]} in process 0 and {count} in process {process}; it must be the same in "
                "all processes"
            )


def load_same(config: ConfigDict) -> Dataset:
    """The dataset, which is the same in all processes.

    If the images are too large for the memory of one process, `config.stream` is set for all.

    Raises:
        BadInput: a process cannot load it, or it is not the same.
    """
    try:
        dataset = load(with_absolute_paths(config))
        mine: dict[str, Any] = {
            "data": describe_data(dataset),
            "too_large": too_large(dataset, jax.local_devices()),
        }
    except BadInput as error:
        mine = {"error": str(error)}
    all_processes = gather(mine)
    if "error" in mine:
        raise BadInput(mine["error"])
    for process, other in enumerate(all_processes):
        if "error" in other:
            raise BadInput(f"process {process}: {other['error']}")
    for process, other in enumerate(all_processes):
        if other["data"] != all_processes[0]["data"]:
            described = data_differences(all_processes[0]["data"], other["data"])
            raise BadInput(
                f"config.dataset: {config.dataset} is not the same in process 0 and in process {process} "
                f"({described}); give all processes the same data"
            )
    if config.stream is None:
        config.stream = any(other["too_large"] for other in all_processes)
    return dataset


def follow_process_0(config: ConfigDict, dataset: Dataset) -> NoReturn:
    """Computes what process 0 computes, until the supervisor ends the process.

    Raises:
        BadInput: the config does not fit the data or the devices; process 0 finds the same.
    """
    devices = find_devices()
    config = resolve_config(with_absolute_paths(config), devices)
    job = make_job_for(config, dataset, devices)
    state, metrics = abstract_state(job, dataset.image_shape)
    follow(make_programs(job, dataset, config), job, state, metrics)
