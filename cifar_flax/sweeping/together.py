"""Trains seeds in one program: `train_steps`, mapped over the states of all of them with `jax.vmap`.

Each seed is an ordinary run in a thread of its own, with its own records and checkpoints. Its `train_steps` waits until
all seeds call theirs, and then one call of the program trains them all. Nothing else runs in parallel: the threads take
turns, so that no part of a run has to be safe for threads.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cifar_flax.data import Dataset
from cifar_flax.errors import BadInput
from cifar_flax.interruption import Interruption
from cifar_flax.reporting.listener import Listener, listening
from cifar_flax.sweeping.meeting import Meeting
from cifar_flax.train import Parts, train_and_evaluate
from cifar_flax.training.job import Job
from cifar_flax.training.memory import fits
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.programs import Programs, make_programs, shapes
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import Carry, train_steps


class Part:
    """The arguments and results of one seed's `train_steps`.

    Attributes:
        state, metrics, diverged: the current ones.
        order: of the epoch.
        stop: the step up to which the seed is trained.
        steps_left: until then; 0 if it has diverged.
        error: raised by the program.
    """

    def __init__(self, state: TrainState, metrics: Metrics, order: Array, stop: int) -> None:
        self.state, self.metrics, self.diverged, self.order = state, metrics, False, order
        self.stop, self.steps_left = stop, stop - int(state.step)
        self.error: Exception | None = None

    def advance(self, carry: Carry, num_steps: int) -> None:
        self.state, self.metrics, diverged = carry
        self.diverged = bool(diverged)  # waits for the device
        self.steps_left = 0 if self.diverged else self.steps_left - num_steps


class Pausing:
    """The listener of a run, which also lets it wait for the others, where the time does not count as training.

    After the steps, all pause before one of them validates or saves. Before an epoch, all pause until the last has.
    """

    def __init__(self, listener: Listener, pause: Callable[[], None]) -> None:
        self.epoch = listener.epoch
        self._listener, self._pause = listener, pause

    def begin(self, title: str) -> None:
        self._listener.begin(title)
        self._pause()

    def progress(self, images_left: int, images_per_second: float) -> None:
        self._pause()
        self._listener.progress(images_left, images_per_second)


class Together:
    """The threads of a group of seeds (`at_once.Workers`). A seed that ends, for whatever reason, leaves the group."""

    def __init__(self, count: int, interruption: Interruption) -> None:
        self.count = count
        self.description = "in one program"
        self._interruption = interruption
        self._meeting = Meeting(count, self._advance)
        self._job: Job | None = None  # of the first seed; those of the others are equal
        self._programs: Programs | None = None  # which all share
        self._compiled: dict[int, Any] = {}  # by the number of seeds

    def train(self, config: ConfigDict, workdir: Path, listener: Listener) -> dict[str, Any]:
        with self._meeting.turn(), listening(Pausing(listener, self._meeting.pause)):
            self._interruption.raise_if_received()
            return train_and_evaluate(config, workdir, parts=Parts(start_compiling=self._start_compiling))

    def stop(self) -> None:
        """Nothing to do: the runs are in this process, and see the interruption."""

    def kill(self) -> None:
        """Nothing to do: a thread cannot be ended from outside, and the interruption ends them at a safe point."""

    def _start_compiling(self, job: Job, dataset: Dataset, config: ConfigDict) -> Callable[[], Programs]:
        if config.stream:
            raise BadInput(
                "config.stream: images that stay on the host are not valid with --together; leave --together out"
            )
        if self._programs is None:
            self._job, self._programs = job, make_programs(job, dataset, config)
        return partial(self._finish_compiling, *shapes(job, dataset))

    def _finish_compiling(self, *seed: Any) -> Programs:
        assert self._programs
        self._meeting.pause()  # until it is known how many seeds there are, since some may be done or locked
        start = time.perf_counter()
        if self._meeting.num_present > 1:
            with _seeds_fit(self._meeting.num_present):
                self._program([seed] * self._meeting.num_present)
        seconds = self._programs.compile_seconds + time.perf_counter() - start
        self._programs = self._programs._replace(compile_seconds=seconds)
        return self._programs._replace(train_steps=self._train_steps)

    def _train_steps(
        self, state: TrainState, metrics: Metrics, order: Array, _images: Array, _labels: Array, stop: Array
    ) -> Any:
        part = Part(state, metrics, order, int(stop))
        while part.steps_left:
            self._meeting.meet(part)
            if part.error:
                raise part.error
        return part.state, part.metrics, part.diverged

    def _advance(self, parts: list[Part]) -> None:
        """Trains all seeds by as many steps as all of them want."""
        try:
            with _seeds_fit(len(parts)):
                if len(parts) == 1 or self._interruption.received:
                    self._train_apart(parts)  # for the rest of the steps, no program is compiled when some have saved
                else:
                    self._train_together(parts, min(part.steps_left for part in parts))
        except Exception as error:
            for part in parts:
                part.error = error

    def _train_apart(self, parts: list[Part]) -> None:
        assert self._programs
        images, labels, _ = self._programs.train
        for part in parts:
            arguments = part.state, part.metrics, part.order, images, labels, np.int32(part.stop)
            carry = self._programs.train_steps(*arguments)
            part.advance(carry, part.steps_left)

    def _train_together(self, parts: list[Part], num_steps: int) -> None:
        stops = np.array([part.stop - part.steps_left + num_steps for part in parts], np.int32)
        seeds = [(part.state, part.metrics, part.order) for part in parts]
        carries = self._program(seeds)(*self._arguments(seeds), stops)
        for part, carry in zip(parts, carries, strict=True):
            part.advance(carry, num_steps)

    def _program(self, seeds: list[tuple[Any, Any, Any]]) -> Any:
        """The compiled function for so many seeds, of which it needs the shapes."""
        assert self._job
        count = len(seeds)
        if count not in self._compiled:
            many = partial(train_many, self._job)
            program = jax.jit(many, donate_argnums=(0, 1), out_shardings=replicated(self._job.mesh))
            self._compiled[count] = program.lower(*self._arguments(seeds), np.zeros(count, np.int32)).compile()
        return self._compiled[count]

    def _arguments(self, seeds: list[tuple[Any, Any, Any]]) -> tuple[Any, ...]:
        """Those of `train_many` between the job and the stops; `seeds` are states, metrics and orders."""
        assert self._programs
        images, labels, _ = self._programs.train
        return *zip(*seeds, strict=True), images, labels


def train_many(
    job: Job,
    states: Sequence[TrainState],
    metrics: Sequence[Metrics],
    orders: Sequence[Array],
    images: Array,
    labels: Array,
    stops: Array,
) -> tuple[Any, ...]:
    """`train_steps` of N seeds, each with its own state, metrics and order, to its own step of `stops` [N] int32.

    A seed that diverges keeps its state, and the others are trained on.

    Returns:
        For each seed, what `train_steps` returns.
    """
    stacked = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (states, metrics, orders))
    train: Any = partial(train_steps, job)
    carries = jax.vmap(train, in_axes=(0, 0, 0, None, None, 0))(*stacked, images, labels, stops)
    return tuple(jax.tree.map(lambda leaf, index=index: leaf[index], carries) for index in range(len(states)))


def _seeds_fit(count: int) -> AbstractContextManager[None]:
    """Raises BadInput if the block, which trains so many seeds in one program, runs out of memory."""
    advice = "give fewer seeds at a time, or leave --together out"
    return fits(f"--together: {count} seeds do not fit into memory; {advice}")
