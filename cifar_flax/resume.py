"""Restores or initializes the position of a run, saves it in checkpoints, and keeps the best one."""

from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput
from cifar_flax.training.job import Job, abstract_state, init_state, zero_metrics
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState, count_parameters
from cifar_flax.workdir.checkpoints import Checkpoints, Damaged, damaged_folder, newest, read, save, set_aside
from cifar_flax.workdir.epochs import best_of, validated
from cifar_flax.workdir.identity import differences
from cifar_flax.workdir.records import Records


class Position(NamedTuple):
    """The progress of a run. This is what a checkpoint holds.

    Attributes:
        state: after the last finished step.
        metrics: sums over the current epoch.
        epochs: the lines of metrics.jsonl, one per finished epoch.
        seconds: training time in the current epoch.
    """

    state: TrainState
    metrics: Metrics
    epochs: list[dict[str, Any]]
    seconds: float

    @property
    def step(self) -> int:
        return int(self.state.step)


class SavedPositions:
    """The saved positions of a run. As a context manager it closes the checkpoints.

    Attributes:
        interval: seconds of training between two saves within an epoch.
    """

    def __init__(self, job: Job, config: ConfigDict, records: Records):
        self.interval = config.save_seconds
        self._last_saved = 0.0  # seconds into the current epoch
        self._job, self._config, self._records = job, config, records
        self._like = abstract_state(job, tuple(records.run["image_shape"]))
        self._checkpoints = Checkpoints(records.workdir)

    def __enter__(self) -> "SavedPositions":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpoints.close()

    def restore_or_init(self, images: np.ndarray) -> Position:
        """The newest intact position, or the one before the first step, to which the records are reset.

        Args:
            images: [N, H, W, C] uint8, the training images, as `init_state` takes them.

        Raises:
            BadInput: there are checkpoints, but none is intact, or they have another config.
        """
        restored = newest(self._checkpoints.latest, self._like)
        if restored is None:
            self._refuse_lost_checkpoints()
            create = jax.jit(partial(init_state, self._job), out_shardings=replicated(self._job.mesh))
            state = create(jax.random.key(self._config.seed), images)
            position = Position(state, zero_metrics(self._job), epochs=[], seconds=0.0)
        else:
            (state, metrics), progress = restored
            self._refuse_other_config(progress["config"])
            position = Position(state, metrics, progress["epochs"], progress["seconds"])
            self._ensure_best_checkpoint(position)
        self._records.update(
            trainable_parameters=count_parameters(position.state.params),
            non_trainable_parameters=count_parameters(position.state.batch_stats),
        )
        self._records.write_epochs(position.epochs, self._job.batch_size)
        self._last_saved = position.seconds
        return position

    def is_due(self, position: Position) -> bool:
        """Whether `interval` has passed since the last save."""
        return position.seconds - self._last_saved >= self.interval

    def save(self, position: Position) -> None:
        """Saves the position as the newest, and as the best if it ends the best epoch so far; updates the records."""
        save(self._checkpoints.latest, *self._content(position))
        self._records.update(checkpoint_step=position.step)
        if position.epochs and position.epochs[-1]["step"] == position.step:  # the end of an epoch
            self._keep_if_best(position)
            self._records.write_epochs(position.epochs, self._job.batch_size)
        self._last_saved = position.seconds

    def state_to_test(self, position: Position) -> TrainState:
        """The state of the best checkpoint; without validation images, the current one.

        Raises:
            BadInput: the best checkpoint is missing or damaged.
        """
        if not validated(position.epochs):
            return position.state
        best, step = self._checkpoints.best, best_of(position.epochs)["step"]
        if step not in best.all_steps():
            raise BadInput(f"--workdir: the best checkpoint, {best.directory / str(step)}, is missing")
        try:
            (state, _), _ = read(best, step, self._like)
        except Damaged as error:
            raise BadInput(f"--workdir: {error}; it cannot be tested") from error
        return state

    def _content(self, position: Position) -> tuple[int, Any, dict[str, Any]]:
        """The arguments (step, arrays, progress) of `checkpoints.save`."""
        progress = {"epochs": position.epochs, "seconds": position.seconds, "config": self._config.to_dict()}
        return position.step, (position.state, position.metrics), progress

    def _keep_if_best(self, position: Position) -> None:
        if _is_best(position):
            save(self._checkpoints.best, *self._content(position))

    def _refuse_lost_checkpoints(self) -> None:
        """Raises BadInput if there was a checkpoint: a run never silently starts from zero."""
        workdir, damaged = self._records.workdir, damaged_folder(self._records.workdir)
        if "checkpoint_step" in self._records.run or damaged.exists() or self._checkpoints.best.all_steps():
            what = f"damaged and set aside in {damaged}" if damaged.exists() else "missing"
            raise BadInput(
                f"--workdir: the newest checkpoints of {workdir} are {what}; restore them, or choose another workdir "
                "to train from the start"
            )

    def _refuse_other_config(self, stored: dict[str, Any]) -> None:
        differing = differences(stored, self._config)
        if differing:
            raise BadInput(
                f"--workdir: {self._records.workdir / 'config.json'} is not the config of the checkpoints "
                f"({'; '.join(differing)}); restore it or choose another workdir"
            )

    def _ensure_best_checkpoint(self, position: Position) -> None:
        """Verifies the checkpoint of the best epoch, and writes it again from the newest ones if it is damaged.

        A best checkpoint later than the position counts too: its epoch was finished, but its newest checkpoint was
        damaged, and the run will reach it again.

        Raises:
            BadInput: the best checkpoint is lost.
        """
        if not position.epochs or not validated(position.epochs):
            return
        best, latest, step = self._checkpoints.best, self._checkpoints.latest, best_of(position.epochs)["step"]
        for stored in best.all_steps():
            if stored < step:
                continue
            try:
                read(best, stored, self._like)
                return
            except Damaged as error:
                set_aside(best, stored, error)
        if _is_best(position):  # the run may have ended between the two checkpoints of an epoch
            self._keep_if_best(position)
            return
        try:
            if step in latest.all_steps():
                save(best, step, *read(latest, step, self._like))
                return
        except Damaged as error:
            set_aside(latest, step, error)
        raise BadInput(
            f"--workdir: the best checkpoint, step {step}, is damaged or missing and cannot be rebuilt; restore it in "
            f"{best.directory}, or choose another workdir to train from the start"
        )


def _is_best(position: Position) -> bool:
    """Whether the position is the end of the best epoch so far."""
    epochs = position.epochs
    return bool(epochs) and validated(epochs) and best_of(epochs)["step"] == position.step
