"""Trains several seeds at once, each in a thread that waits for a process or takes part in one program."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from signal import SIGTERM
from typing import Any, Protocol

from ml_collections import ConfigDict

from cifar_flax.errors import Interrupted, Locked
from cifar_flax.interruption import Interruption, interrupt
from cifar_flax.reporting.listener import Listener

POLL_SECONDS = 0.2  # between two looks at whether a signal has arrived


class Workers(Protocol):
    """What trains the seeds.

    Attributes:
        count: number of seeds at a time.
        description: in words, for the screen.
    """

    count: int
    description: str

    def train(self, config: ConfigDict, workdir: Path, listener: Listener) -> dict[str, Any]:
        """As `train_and_evaluate`, but may also raise Failed. Called in as many threads as `count`.

        Raises Interrupted at once after the interruption.
        """

    def stop(self) -> None:
        """Makes all runs save and raise Interrupted. Called after the interruption, once or several times."""

    def kill(self) -> None:
        """Ends all runs at once."""


def at_once(
    train: Callable[[int], None], seeds: Sequence[int], workers: Workers, interruption: Interruption
) -> dict[int, Locked]:
    """Calls `train` with each seed, in as many threads as there are workers. To be called in the main thread.

    Returns:
        The seeds for which `train` raised Locked.

    Raises:
        Exception: the first other error that `train` raised. It interrupts all other seeds, and is raised after them.
        Interrupted: a signal arrived, and not all seeds are done.
    """
    pool = ThreadPoolExecutor(workers.count)
    futures: dict[Future[None], int] = {pool.submit(train, seed): seed for seed in seeds}
    errors: dict[int, BaseException] = {}
    pending = set(futures)
    try:
        while pending:
            ended, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            errors |= {futures[future]: error for future in ended if (error := future.exception())}
            if not all(isinstance(error, Locked) for error in errors.values()):
                interrupt(SIGTERM)
            if interruption.received:
                workers.stop()
    except BaseException:  # KeyboardInterrupt, by the second Ctrl-C
        workers.kill()
        pool.shutdown()  # saving a run takes threads, which Python no longer starts at its own shutdown
        raise
    pool.shutdown()
    for error in errors.values():
        if not isinstance(error, Locked | Interrupted):
            raise error
    if any(isinstance(error, Interrupted) for error in errors.values()):
        interruption.raise_if_received()
    return {seed: error for seed, error in errors.items() if isinstance(error, Locked)}
