"""Trains seeds in processes of their own, each at a place of its own."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.errors import Failed, Interrupted, warn
from cifar_flax.reporting.listener import Listener
from cifar_flax.sweeping.child import ENDINGS, MARK
from cifar_flax.sweeping.places import Place
from cifar_flax.workdir.lock import lock_workdir
from cifar_flax.workdir.records import Records

COMMAND = [sys.executable, "-m", "cifar_flax.sweeping.child"]


class Processes:
    """As many processes at a time as there are places. They end with this process, saved, even if it is killed."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.count = len(places)
        self.description = f"{self.count} at a time, each on {places[0].description}"
        self._free: queue.SimpleQueue[Place] = queue.SimpleQueue()
        for place in places:
            self._free.put(place)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Asks all processes to save their runs and to end. No other will start."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                assert process.stdin
                with suppress(OSError):  # it has ended
                    process.stdin.close()

    def kill(self) -> None:
        """Ends all processes at once. Their runs go on from their last checkpoints."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def train(self, config: ConfigDict, workdir: Path, listener: Listener) -> dict[str, Any]:
        """Waits for a place, and trains a run there. To be called in a thread of its own.

        Returns:
            The content of run.json.

        Raises:
            Failed: the process ended unexpectedly.
            BadInput, Diverged, Interrupted, Unwritable: raised by the run.
        """
        place = self._free.get()
        try:
            if not Records(workdir).done:
                with lock_workdir(workdir):  # the process would take seconds to find out that it is locked
                    pass
            place.pin()
            with self._started(place, {"config": config.to_dict(), "workdir": str(workdir)}) as process:
                self._follow(process, listener, f"seed {config.seed}")
        finally:
            self._free.put(place)
        return Records(workdir).run

    @contextmanager
    def _started(self, place: Place, request: dict[str, Any]) -> Iterator["subprocess.Popen[bytes]"]:
        with self._lock:
            if self._stopped:
                raise Interrupted(Signals.SIGTERM)
            process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=place.environment,
                process_group=0,  # a terminal's Ctrl-C reaches this process alone, which passes it on
            )
            assert process.stdin
            with suppress(OSError):  # it has ended, and `_follow` says how
                os.write(process.stdin.fileno(), f"{json.dumps(request)}\n".encode())  # fits into the pipe
            self._running.add(process)
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
            finally:
                with self._lock:
                    self._running.discard(process)

    def _follow(self, process: "subprocess.Popen[bytes]", listener: Listener, name: str) -> None:
        """Passes on what a process reports, until it ends. Raises how its run ended, if not with success."""
        endings = {error.__name__: error for error in ENDINGS}
        ending: Exception | None = None
        assert process.stdout
        for line in process.stdout:
            text, _, event = line.decode(errors="replace").rstrip("\n").partition(MARK)
            if text:
                warn(f"{name}: {text}")
            if event:
                method, *arguments = json.loads(event)
                if method == "ended":
                    ending = endings[arguments[0]](*arguments[1:])
                else:
                    getattr(listener, method)(*arguments)
        code = process.wait()
        if ending:
            raise ending
        if code and self._stopped:
            raise Interrupted(Signals.SIGTERM)  # before it could say so
        if code:
            how = f"was killed by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"its process {how}")
