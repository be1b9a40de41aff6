"""What a run reports while it trains: on the screen, in TensorBoard and in figures."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import Dataset
from cifar_flax.reporting import console
from cifar_flax.reporting.run_figures import RunFigures
from cifar_flax.resume import Position
from cifar_flax.training.job import Job
from cifar_flax.training.programs import Programs
from cifar_flax.training.state import split_rng
from cifar_flax.workdir.records import Records
from cifar_flax.workdir.tensorboard import TensorBoard


class RunLog:
    """The loop calls `begin`, `compiled`, `epoch` and `end` in this order, and `progress` within each epoch."""

    def __init__(self, job: Job, dataset: Dataset, config: ConfigDict, records: Records, data: dict[str, Any]):
        """`data` are the fields of run.json about what the run starts from and is trained on."""
        self._job, self._dataset, self._config, self._records, self._data = job, dataset, config, records, data
        self._open = ExitStack()

    def __enter__(self) -> "RunLog":
        """Shows what is trained."""
        devices = list(self._job.mesh.devices.flat)
        start = self._data.get("init_from")
        console.first_screen(self._config, self._dataset, devices, self._records.workdir, start)
        self._tensorboard = self._open.enter_context(TensorBoard(self._records.workdir))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def begin(self, position: Position) -> None:
        """Shows the model and where the run starts. Draws the inputs, and writes the events that are missing.

        The programs are compiled meanwhile.
        """
        job = self._job
        if position.step:
            console.say(f"resuming after step {position.step:,} of {job.num_steps:,}\n")
        console.say(console.model_table(job.model, self._dataset.image_shape))
        self._tensorboard.begin(position.step)
        self._figures = RunFigures(self._records.workdir / "figures", self._tensorboard)
        self._tensorboard.complete(position.epochs, position.state.params)
        self._tensorboard.write_config(self._config.to_dict())
        self._figures.add_training_images(self._dataset)
        if self._config.augment != "none":
            key = split_rng(position.state.rng).augmentation
            self._figures.add_augmented_images(self._dataset, self._job.augmentation, key)

    def compiled(self, programs: Programs) -> None:
        console.say(f"compiled in {programs.compile_seconds:.1f} s\n")

    def progress(self, position: Position) -> console.EpochProgress:
        """The progress bar of the epoch that the position is in."""
        job, epoch = self._job, len(position.epochs) + 1
        first, last = job.steps_after(epoch - 1), job.steps_after(epoch)
        steps = (position.step - first, last - first, job.num_steps - last)
        done, total, later = (number * job.batch_size for number in steps)
        return console.EpochProgress(self._title(epoch), done, total, later, updated=self._tensorboard.start)

    def epoch(self, position: Position) -> None:
        """Shows the epoch that has just ended."""
        is_constant = self._config.schedule == "constant" and not self._config.warmup
        console.epoch_line(self._title(len(position.epochs)), position.epochs, with_learning_rate=not is_constant)
        self._tensorboard.write_epoch(position.epochs[-1], position.state.params)

    def end(self, position: Position, test: dict[str, float], predicted: np.ndarray) -> None:
        """Draws the curves and the test predictions.

        Args:
            position: the last one.
            test: the fields of run.json about the test images.
            predicted: the class of each test image, [N] int32.
        """
        self._tensorboard.write_test(position.step, test)
        self._figures.add_curves(position.epochs, position.step)
        self._figures.add_predictions(self._dataset, predicted, position.step, self._config.seed)

    def _title(self, epoch: int) -> str:
        return f"Epoch {epoch}/{self._job.num_epochs}"
