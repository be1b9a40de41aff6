"""Trains one trial of a search, as a run that ends before its test."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput, Diverged, Stopped, Unwritable
from cifar_flax.reporting.run_log import RunLog
from cifar_flax.resume import Position
from cifar_flax.train import Parts, train_and_evaluate
from cifar_flax.tuning.study import SharedStudy
from cifar_flax.workdir.identity import DATA_FIELDS

SCREEN = "screen.txt"  # in the workdir of a trial: what its run would print on the screen


class TrialLog(RunLog):
    """The log of a trial's run. Reports each epoch to the study, which ends the run before its test by Stopped."""

    def __init__(self, study: SharedStudy, trial: optuna.Trial, *run: Any):
        """`run` are the arguments of RunLog."""
        super().__init__(*run)
        self._study, self._trial = study, trial

    def begin(self, position: Position) -> None:
        super().begin(position)
        self._watch(position)  # the worker before may have died between an epoch and its report

    def epoch(self, position: Position) -> None:
        super().epoch(position)
        self._watch(position)

    def _watch(self, position: Position) -> None:
        data = {field: self._data[field] for field in DATA_FIELDS}
        self._study.watch(self._trial, position.epochs, self._job.num_epochs, data)


def train_trial(study: SharedStudy, trial: optuna.Trial, config: ConfigDict) -> None:
    """Trains a trial until the study ends it, and tells the study how it failed if it does.

    Raises:
        Interrupted: a signal arrived; the state is saved.
        BadInput, Unwritable: the run cannot be trained, and the trial's values are not the reason.
    """
    folder = study.folder(trial.number)
    try:
        with screen(folder):
            train_and_evaluate(config, folder, parts=Parts(partial(TrialLog, study, trial)))
    except Stopped:
        pass
    except Diverged as error:
        study.diverge(trial, error)
    except BadInput as error:
        if not study.space.is_reason(error):
            raise
        study.fail(trial, error)


def test_trial(study: SharedStudy, number: int) -> dict[str, Any]:
    """Tests the best checkpoint of a complete trial, unless that was done before. Returns the content of run.json.

    Raises:
        Locked: another worker tests it.
        Interrupted, BadInput, Unwritable: as in `train_and_evaluate`.
    """
    folder = study.folder(number)
    with screen(folder):
        return train_and_evaluate(study.config_of(number), folder)


@contextmanager
def screen(folder: Path) -> Iterator[None]:
    """Appends what is printed on stdout in the block to SCREEN."""
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / SCREEN).open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise Unwritable(f"{folder / SCREEN} cannot be written ({error.strerror})") from error
    with file, redirect_stdout(file):
        yield
