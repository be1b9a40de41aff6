"""`python -m cifar_flax.sweeping.child`: trains the run that its sweep describes on stdin.

The first line of stdin is JSON with the `config` and the `workdir`. When stdin ends, the run is saved and interrupted:
the sweep asks for that, or it was killed. On stdout, each line that starts with MARK is an event, in JSON: a method of
the run's listener with its arguments, or how the run was ended. Everything else that is written, by this program or a
library, is meant for people.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from ml_collections import ConfigDict

from cifar_flax.cli.commandline import exit_code
from cifar_flax.errors import BadInput, Diverged, Interrupted, Locked, Unwritable
from cifar_flax.interruption import Interruption, interrupt
from cifar_flax.reporting.listener import listening
from cifar_flax.train import train_and_evaluate

MARK = "\x1e"  # the record separator, as in JSON text sequences (RFC 7464)
ENDINGS = (BadInput, Diverged, Interrupted, Locked, Unwritable)


def send(event: str, *arguments: Any) -> None:
    """Writes an event at once, so that lines of other threads do not divide it."""
    with suppress(OSError):  # the sweep was killed
        os.write(1, f"{MARK}{json.dumps([event, *arguments])}\n".encode())


class Reporter:
    """The run's listener, which sends what it hears to the sweep."""

    def begin(self, title: str) -> None:
        send("begin", title)

    def progress(self, images_left: int, images_per_second: float) -> None:
        send("progress", images_left, images_per_second)

    def epoch(self, text: str, validation_accuracy: float | None) -> None:
        send("epoch", text, validation_accuracy)


def _interrupt_at_the_end_of(requests: BinaryIO) -> None:
    while requests.read(1):
        pass
    interrupt(signal.SIGTERM)


def command(_argv: Sequence[str]) -> None:
    requests = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 (a buffer would have a lock, held at exit)
    request = json.loads(requests.readline())
    with Interruption(), listening(Reporter()):
        threading.Thread(target=_interrupt_at_the_end_of, args=(requests,), daemon=True).start()
        try:
            train_and_evaluate(ConfigDict(request["config"]), request["workdir"])
        except ENDINGS as error:
            argument = error.signal_number if isinstance(error, Interrupted) else str(error)
            send("ended", type(error).__name__, argument)


if __name__ == "__main__":
    sys.exit(exit_code(command, []))
