"""The hub of a run over several processes, within the supervisor of process 0."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from typing import Any

from cifar_flax.distributed.agreement import disagreement
from cifar_flax.distributed.messages import MAX_SIZE, Lost, receive, send
from cifar_flax.distributed.place import Place
from cifar_flax.errors import BadInput
from cifar_flax.interruption import SIGNALS

GO_ON = "the same commands go on from what is saved"
AGAIN = "interrupted at once; run the same commands again"
HELLO_TIMEOUT = 10.0  # seconds for the first message of a connection
BETTER_CAUSE_SECONDS = 1.0  # when one process is lost, JAX aborts others, which may be noticed first
FAREWELL_SECONDS = 5.0
LATE_SECONDS = 20.0  # in which processes that start late are told why the run was refused


class Hub:
    """Starts the computation when all processes agree, passes signals on, and ends all processes together."""

    def __init__(self, place: Place):
        self._place = place
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._hellos: dict[int, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task] = set()
        self._started = False
        self._message: dict[str, Any] | None = None  # how the run ends
        self._num_told = 0  # processes that it was sent to

    async def start(self) -> None:
        """Raises BadInput if the port cannot be listened at."""
        place = self._place
        try:
            self._server = await asyncio.start_server(self._serve, None, place.port, limit=MAX_SIZE)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise BadInput(f"--coordinator: port {place.port} cannot be used ({reason}); choose another one") from error
        self._tasks |= {asyncio.create_task(self._beat()), asyncio.create_task(self._limit_joining())}

    async def close(self) -> None:
        """Waits until all processes have received how the run ends, and closes the connections."""
        for task in self._tasks:
            task.cancel()
        is_refused = not self._started and self._message is not None and self._message["end"] == 2
        num_expected = self._place.num_processes if is_refused else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS if is_refused else FAREWELL_SECONDS):
                while self._writers or self._num_told < num_expected:
                    await asyncio.sleep(0.01)
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talks to one process until its connection ends."""
        process = None
        try:
            hello = await receive(reader, HELLO_TIMEOUT)
            process = self._accept(hello, writer)
            while process is None:  # it is refused, and closes the connection when it has read why
                await receive(reader, FAREWELL_SECONDS)
            while True:
                self._handle(process, await receive(reader, self._place.heartbeat))
        except Lost as error:
            if process is not None:
                self._end(1, f"failed: process {process} was lost: {error}; {GO_ON}")
        finally:
            if process is not None:
                del self._writers[process]
            writer.close()

    def _accept(self, hello: dict[str, Any], writer: asyncio.StreamWriter) -> int | None:
        """The process that says hello; None if it is refused.

        Raises:
            Lost: it does not belong to this run.
        """
        process = hello.get("process_id")
        if not (isinstance(process, int) and isinstance(hello.get("description"), dict)):
            raise Lost("it is another program")
        if self._started:
            raise Lost("it belongs to the next attempt")  # it tries again
        if problem := self._problem_with(process, hello):
            self._end(2, f"error: {problem}")
        if self._message:
            send(writer, self._message)
            self._num_told += 1
            return None
        self._writers[process], self._hellos[process] = writer, hello
        if len(self._writers) == self._place.num_processes:
            self._start()
        return process

    def _problem_with(self, process: int, hello: dict[str, Any]) -> str | None:
        """Why a process cannot join; None if it can."""
        for name in ("num_processes", "heartbeat"):
            if hello.get(name) != (expected := getattr(self._place, name)):
                values = f"{expected:g} in process 0 and {hello.get(name)} in process {process}"
                return f"--{name}: {values}; it must be the same in all processes"
        if process in self._writers:
            return f"--process_id: two processes have the number {process}; give each its own"
        return None

    def _start(self) -> None:
        self._started = True
        if problem := disagreement({process: hello["description"] for process, hello in sorted(self._hellos.items())}):
            self._end(2, f"error: {problem}")
            return
        port = free_port()
        for process, writer in self._writers.items():
            send(writer, {"start": port, "address": self._address_of(process)})

    def _address_of(self, process: int) -> str:
        """Where the other processes reach this one. The name of a machine may stand for 127.0.0.1 on itself."""
        own = self._writers[process].get_extra_info("peername")[0]
        if not _is_loopback(own):
            return own
        # it is on the machine of process 0, where the others have connected to
        connected = [writer.get_extra_info("sockname")[0] for i, writer in self._writers.items() if i]
        remote = [address for address in connected if not _is_loopback(address)]
        return [*remote, *connected, own][0]

    def _handle(self, process: int, message: dict[str, Any]) -> None:
        if "signal" in message and 0 in self._writers:
            send(self._writers[0], message)
        if "ended" not in message:
            return
        code, line = message["ended"], message.get("line")
        if line is not None:
            self._end(code, f"process {process}: {line}", reporter=process)
        elif code == -signal.SIGABRT:
            asyncio.get_running_loop().call_later(BETTER_CAUSE_SECONDS, self._end, *outcome(process, code))
        else:
            self._end(*outcome(process, code), reporter=process)

    def _end(self, code: int, line: str | None, reporter: int | None = None) -> None:
        """Ends all processes with this exit code and line, unless they are ending already."""
        if self._message is None:
            self._message = {"end": code, "line": line, "reporter": reporter}
            self._num_told = len(self._writers)
            self._broadcast(self._message)

    def _broadcast(self, message: dict[str, Any]) -> None:
        for writer in self._writers.values():
            send(writer, message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._place.heartbeat / 4)
            self._broadcast({})

    async def _limit_joining(self) -> None:
        await asyncio.sleep(self._place.join_timeout)
        if not self._started:
            missing = [str(i) for i in range(self._place.num_processes) if i not in self._writers]
            which = f"process {missing[0]} has" if len(missing) == 1 else f"processes {', '.join(missing)} have"
            limit = f"{self._place.join_timeout:g} s"
            self._end(1, f"failed: {which} not joined within {limit}; start all, or set a longer --join_timeout")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def free_port() -> int:
    """A port of this machine at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def outcome(process: int, code: int) -> tuple[int, str | None]:
    """The exit code of the run and the line to print, if the trainer of a process ended with this code and no line."""
    if code == 0:
        return 0, None
    if -code in SIGNALS:  # sent to the trainer before it could pass it on
        return 128 - code, f"process {process}: {AGAIN}"
    how = f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"
    return max(code, 1), f"failed: process {process} ended {how}; {GO_ON}"
