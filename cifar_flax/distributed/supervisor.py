"""The process that the user starts: it starts the one that computes, and keeps in touch with the other processes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.distributed.agreement import describe_program
from cifar_flax.distributed.hub import AGAIN, GO_ON, Hub, outcome
from cifar_flax.distributed.messages import MAX_SIZE, Lost, receive, send
from cifar_flax.distributed.place import Place
from cifar_flax.distributed.trainer import VARIABLE
from cifar_flax.errors import warn
from cifar_flax.interruption import signals_to_defer

RETRY_SECONDS = 0.3  # between two attempts to connect to the hub
EXIT_SECONDS = 10.0  # for a trainer that has reported its end
AT_ONCE = (signal.SIGINT, signal.SIGTERM)  # end the process at once if they are the second signal


def supervise(place: Place, config: ConfigDict, argv: Sequence[str]) -> int:
    """Runs the command `argv` as one process of the run.

    Returns:
        The exit code, which is the same in all processes.

    Raises:
        BadInput: the hub cannot listen at its port.
    """
    return asyncio.run(_supervise(place, describe_program(config), argv))


async def _supervise(place: Place, description: dict[str, Any], argv: Sequence[str]) -> int:
    hub = Hub(place) if place.process_id == 0 else None
    if hub:
        await hub.start()
    supervisor = Supervisor(place, description)
    try:
        return await supervisor.run(argv)
    finally:
        await supervisor.close()
        if hub:
            await hub.close()


class Supervisor:
    """Passes messages between the trainer of this process and the hub until the run ends."""

    def __init__(self, place: Place, description: dict[str, Any]):
        self._place, self._description = place, description
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._tasks: set[asyncio.Task] = set()
        self._hub: asyncio.StreamWriter | None = None
        self._received: int | None = None  # the first signal
        self._is_started = False  # whether all processes have joined
        self._reported: dict[str, Any] | None = None  # how the trainer ended
        # what libraries write to the trainer's stdout and stderr
        self._output = tempfile.TemporaryFile()  # noqa: SIM115

    async def run(self, argv: Sequence[str]) -> int:
        """Returns the exit code of the run."""
        for number in signals_to_defer():
            asyncio.get_running_loop().add_signal_handler(number, self._events.put_nowait, ("signal", number))
        await self._start_trainer(argv)
        loops = self._listen_to_hub(), self._beat(), self._listen_to_trainer(), self._wait_for_trainer()
        self._tasks |= {asyncio.create_task(loop) for loop in loops}
        while True:
            kind, message = await self._events.get()
            end = self._handle(kind, message)
            if end is not None:
                return await self._finish(**end)

    async def close(self) -> None:
        """Ends the trainer, and its own processes, if it has not ended, and closes the connection to the hub."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._trainer.pid, signal.SIGKILL)
        await self._trainer.wait()
        self._leave()

    def _leave(self) -> None:
        """Closes the connection to the hub."""
        if self._hub:
            self._hub.close()
        self._hub = None

    async def _start_trainer(self, argv: Sequence[str]) -> None:
        """Starts the same command as a process that computes, in a process group that no terminal signals."""
        own, theirs = socket.socketpair()
        with theirs:
            streams = [os.dup(stream) for stream in (1, 2)]
            descriptors = [theirs.fileno(), *streams]
            place = json.dumps({"descriptors": descriptors, "place": self._place})
            self._trainer = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cifar_flax.main", *argv,
                env=os.environ | {VARIABLE: place}, pass_fds=descriptors, process_group=0,
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
            )  # fmt: skip
        for stream in streams:
            os.close(stream)
        self._from_trainer, self._to_trainer = await asyncio.open_connection(sock=own, limit=MAX_SIZE)

    async def _listen_to_hub(self) -> None:
        """Joins the run, and turns messages of the hub into events."""
        deadline = asyncio.get_running_loop().time() + self._place.join_timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    reader = await self._join()
            except TimeoutError:
                await self._events.put(("unreachable", None))
                return
            try:
                while True:
                    message = await receive(reader, self._place.heartbeat)
                    self._is_started = self._is_started or "start" in message
                    await self._events.put(("hub", message))
            except Lost as error:
                if self._is_started:
                    await self._events.put(("lost", str(error)))
                    return
                self._leave()
                await asyncio.sleep(RETRY_SECONDS)  # it may have been process 0 of an earlier attempt, which is ending

    async def _join(self) -> asyncio.StreamReader:
        """Connects to the hub, however long that takes, and says hello."""
        host = "localhost" if self._place.process_id == 0 else self._place.host
        while True:
            try:
                reader, self._hub = await asyncio.open_connection(host, self._place.port, limit=MAX_SIZE)
                break
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
        same = {"num_processes": self._place.num_processes, "heartbeat": self._place.heartbeat}
        send(self._hub, same | {"process_id": self._place.process_id, "description": self._description})
        return reader

    async def _beat(self) -> None:
        while True:
            self._tell_hub({})
            await asyncio.sleep(self._place.heartbeat / 4)

    async def _listen_to_trainer(self) -> None:
        with contextlib.suppress(Lost):  # it ended, which `_wait_for_trainer` notices
            while True:
                await self._events.put(("trainer", await receive(self._from_trainer)))

    async def _wait_for_trainer(self) -> None:
        await self._events.put(("exit", await self._trainer.wait()))

    def _handle(self, kind: str, message: Any) -> dict[str, Any] | None:
        """Handles an event. Returns how the process ends, if it does: the exit code `end` and a `line` to print."""
        match kind:
            case "hub":
                return self._hub_says(message)
            case "trainer":
                self._reported = message if "ended" in message else self._reported
                self._tell_hub(message)
            case "exit" if self._reported is None:
                self._tell_hub({"ended": message})
                if not self._is_started:  # the hub may be out of reach
                    code, line = outcome(self._place.process_id, message)
                    return {"end": code, "line": line, "reporter": self._place.process_id}
            case "signal":
                return self._signal(message)
            case "lost":
                return {"end": 1, "line": f"failed: process 0 was lost: {message}; {GO_ON}"}
            case "unreachable":
                address, limit = f"{self._place.host}:{self._place.port}", f"{self._place.join_timeout:g} s"
                return {"end": 1, "line": f"failed: process 0 did not answer at {address} within {limit}; start it"}
        return None

    def _hub_says(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if "end" in message:
            return message
        if "start" in message and (process := self._place.process_id):
            warn(f"process {process} of {self._place.num_processes}: computing; process 0 shows the progress")
        if message:  # an empty one is a sign of life
            send(self._to_trainer, message)
        return None

    def _signal(self, number: int) -> dict[str, Any] | None:
        """The first signal is for process 0, which saves. SIGINT or SIGTERM after it ends the run at once."""
        is_first, self._received = self._received is None, number
        if is_first and self._is_started:
            warn("")  # ends the line of a terminal's ^C or of a progress bar
            warn("saving at the next safe point; press Ctrl-C again to stop at once")
            self._tell_hub({"signal": number})
        elif is_first or number in AT_ONCE:
            self._tell_hub({"ended": 128 + number, "line": AGAIN})
            return {"end": 128 + number, "line": AGAIN}
        return None

    def _tell_hub(self, message: dict[str, Any]) -> None:
        if self._hub:
            send(self._hub, message)

    async def _finish(self, end: int, line: str | None, reporter: int | None = None) -> int:
        """Prints how the run ended, in one line, and returns the exit code."""
        if reporter == self._place.process_id and self._reported is None:
            self._print_output()
        if self._reported:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._trainer.wait(), EXIT_SECONDS)
            line = self._reported["line"]
        if line or self._place.process_id:
            warn(line or f"process {self._place.process_id}: done")
        return end

    def _print_output(self) -> None:
        """Prints what libraries wrote to a trainer's stdout and stderr before they ended it."""
        if self._trainer.returncode in (None, -signal.SIGKILL):
            return
        self._output.seek(0)
        if output := self._output.read().decode(errors="replace").strip():
            warn(output)
