"""Restores or initializes the position of a run, saves it in checkpoints, and keeps the best one."""

from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput, warn
from cifar_flax.training.job import Job, abstract_state, zero_metrics
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.state import TrainState, count_parameters
from cifar_flax.weights.start import find_start
from cifar_flax.workdir.checkpoints import Checkpoints, Damaged, damaged_folder, newest, read, save, set_aside
from cifar_flax.workdir.epochs import best_of, validated
from cifar_flax.workdir.identity import differences, refuse_other_data
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

    def __init__(self, job: Job, config: ConfigDict, records: Records, data: dict[str, Any]):
        """`data` are the fields of `identity.describe_data`. Raises BadInput if `config.init_from` cannot be used."""
        self.interval = config.save_seconds
        self._last_saved = 0.0  # seconds into the current epoch
        self._job, self._config, self._records, self._data = job, config, records, data
        self._like = abstract_state(job, tuple(data["image_shape"]))
        self._start = find_start(config, records, self._like[0], data["class_names"])
        self._checkpoints = Checkpoints(records.workdir)

    def __enter__(self) -> "SavedPositions":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpoints.close()

    @property
    def data(self) -> dict[str, Any]:
        """The fields of run.json and of checkpoints about what the run starts from and is trained on."""
        return self._data | self._start.fields

    def restore_or_init(self, images: np.ndarray) -> Position:
        """The newest intact position, or the one before the first step. Changes no record.

        Args:
            images: [N, H, W, C] uint8, the training images, as `init_state` takes them.

        Raises:
            BadInput: there are checkpoints, but none is intact, or they have another config, dataset or start.
        """
        restored = newest(self._checkpoints.latest, self._like)
        if restored is None:
            self._refuse_lost_checkpoints()
            state = self._start.init_state(self._job, self._config.seed, images)
            return Position(state, zero_metrics(self._job), epochs=[], seconds=0.0)
        (state, metrics), progress = restored
        self._refuse_other_run(progress)
        position = self._with_recorded_epoch(Position(state, metrics, progress["epochs"], progress["seconds"]))
        self._refuse_other_length(position)
        self._ensure_best_checkpoint(position)
        self._last_saved = position.seconds
        return position

    def reset_records(self, position: Position) -> None:
        """Makes the records agree with the position that the run starts from."""
        self._records.update(
            trainable_parameters=count_parameters(position.state.params),
            non_trainable_parameters=count_parameters(position.state.batch_stats),
        )
        self._records.write_epochs(position.epochs, self._job.batch_size)

    def is_due(self, position: Position) -> bool:
        """Whether `interval` has passed since the last save."""
        return position.seconds - self._last_saved >= self.interval

    def save(self, position: Position) -> None:
        """Saves the position as the newest."""
        save(self._checkpoints.latest, *self._content(position))
        self._records.update(checkpoint_step=position.step)
        self._last_saved = position.seconds

    def end_epoch(self, position: Position) -> None:
        """Saves the position as the best if it ends the best epoch so far, and records the epoch.

        The position before `finish_epoch` must have been saved; the newest checkpoint does not contain the validation.

        Raises:
            BadInput: an earlier epoch was better, and its checkpoint is lost.
        """
        self._keep_if_best(position)
        best = best_of(position.epochs)
        if validated(position.epochs) and best["step"] not in self._best.all_steps():
            raise self._best_is_lost(best["step"])
        self._records.write_epochs(position.epochs, self._job.batch_size)
        self._last_saved = 0.0

    def state_to_test(self, position: Position) -> TrainState:
        """The state of the best checkpoint; without validation images, the current one.

        Raises:
            BadInput: the best checkpoint is missing or damaged.
        """
        if not validated(position.epochs):
            return position.state
        step = best_of(position.epochs)["step"]
        if step not in self._best.all_steps():
            raise self._best_is_lost(step)
        try:
            (state, _), _ = read(self._best, step, self._like)
        except Damaged as error:
            raise BadInput(f"--workdir: {error}; it cannot be tested") from error
        return state

    def _content(self, position: Position) -> tuple[int, Any, dict[str, Any]]:
        """The arguments (step, arrays, progress) of `checkpoints.save`."""
        progress = {"epochs": position.epochs, "seconds": position.seconds, "config": self._config.to_dict()}
        return position.step, (position.state, position.metrics), progress | {"data": self.data}

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

    def _with_recorded_epoch(self, position: Position) -> Position:
        """The position with the recorded validation of its epoch, if it was saved before the validation.

        If metrics.jsonl does not contain the epoch, the position is returned unchanged, and the epoch is validated.
        """
        number, recorded = len(position.epochs), self._records.intact_epochs()
        if len(recorded) <= number and position.step in self._best.all_steps():
            with suppress(Damaged):  # the run was killed after it had saved the best, and before it recorded the epoch
                recorded = read(self._best, position.step, self._like)[1]["epochs"]
        known = len(recorded) > number and recorded[:number] == position.epochs
        if known and recorded[number]["step"] == position.step:
            return Position(position.state, zero_metrics(self._job), recorded[: number + 1], seconds=0.0)
        return position

    def _refuse_other_length(self, position: Position) -> None:
        """Raises BadInput if the position is not within the epoch that follows its finished ones."""
        first, last = (self._job.steps_after(len(position.epochs) + number) for number in (0, 1))
        if not first <= position.step <= last:
            raise BadInput(
                f"--workdir: the newest checkpoint of {self._records.workdir} is step {position.step}, but epoch "
                f"{len(position.epochs) + 1} of this command has the steps {first} to {last}; choose another workdir"
            )

    def _refuse_other_run(self, progress: dict[str, Any]) -> None:
        refuse_other_data(progress.get("data", {}), self._data, f"config.dataset: {self._config.dataset}")
        self._start = self._start.restored(progress.get("data", {}))
        if "data" not in progress:
            warn("the images are not checked, because this run was started by an older version; from now on they are")
        if differing := differences(progress["config"], self._config):
            raise BadInput(
                f"--workdir: {self._records.workdir / 'config.json'} is not the config of the checkpoints "
                f"({'; '.join(differing)}); restore it or choose another workdir"
            )

    def _ensure_best_checkpoint(self, position: Position) -> None:
        """Verifies the checkpoint of the best epoch, and writes it again from the newest ones if it is damaged.

        Raises:
            BadInput: the best checkpoint is lost.
        """
        epochs = position.epochs
        step = best_of(epochs)["step"] if epochs else 0
        if self._has_intact_best(step) or not epochs or not validated(epochs):
            return
        if _is_best(position):  # the run may have been killed between the two checkpoints of an epoch
            self._keep_if_best(position)
            return
        latest = self._checkpoints.latest
        try:
            if step in latest.all_steps():
                arrays, progress = read(latest, step, self._like)
                save(self._best, step, arrays, progress | {"epochs": epochs[: best_of(epochs)["epoch"]]})
                return
        except Damaged as error:
            set_aside(latest, step, error)
        awaits_validation = position.step == self._job.steps_after(len(epochs) + 1)  # and may turn out to be the best
        if not awaits_validation:
            raise self._best_is_lost(step)

    def _has_intact_best(self, step: int) -> bool:
        """Whether the best checkpoint is of this step or a later one, and intact. A damaged one is set aside.

        A later one counts too: its epoch was finished, but its newest checkpoint was damaged or does not contain the
        validation, and the run will reach it again.
        """
        for stored in self._best.all_steps():
            try:
                if stored >= step:
                    read(self._best, stored, self._like)
                    return True
            except Damaged as error:
                set_aside(self._best, stored, error)
        return False

    @property
    def _best(self) -> ocp.CheckpointManager:
        return self._checkpoints.best

    def _best_is_lost(self, step: int) -> BadInput:
        return BadInput(
            f"--workdir: the best checkpoint, step {step}, is damaged or missing and cannot be rebuilt; restore it in "
            f"{self._best.directory}, or choose another workdir to train from the start"
        )


def _is_best(position: Position) -> bool:
    """Whether the position is the end of the best epoch so far."""
    epochs = position.epochs
    return bool(epochs) and validated(epochs) and best_of(epochs)["step"] == position.step
