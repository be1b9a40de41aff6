"""The study that the workers of a search share: who trains which trial, and how each has ended."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.trial import FrozenTrial, TrialState

from cifar_flax.errors import BadInput, Locked, Stopped
from cifar_flax.tuning import identity
from cifar_flax.tuning.space import Space
from cifar_flax.tuning.storage import Storage
from cifar_flax.workdir.identity import refuse_other_data
from cifar_flax.workdir.lock import lock_workdir

TURN_SECONDS = 60.0  # a turn takes a second or two; a lock that is held longer was left behind
CLAIMS = ".claims"  # in the workdir: the locks of the trials in progress
UNPRUNED = 0.25  # share of a trial's epochs in which it is not pruned: many schedules warm up there

# User attributes of trials, of Optuna's study.
VALUES, ACCURACY, SECONDS, PROBLEM = "config", "validation_accuracy", "train_seconds", "problem"
RECIPE = "recipe"  # marks the trial with the values of the experiment


class Claimed(NamedTuple):
    """A trial that this worker is to train, with its config, until it closes the claim."""

    trial: optuna.Trial
    config: ConfigDict
    claim: ExitStack


class SharedStudy:
    """The study of a search, and the workdir with the runs of its trials. Minimizes the validation loss.

    A trial belongs to the worker that holds its claim, which is a lock. When a worker dies, its claim is free, and
    another worker continues the trial. Workers take turns to look for a trial.
    """

    def __init__(self, config: ConfigDict, space: Space, workdir: Path, url: str | None):
        """Opens the study or creates it.

        Args:
            config: of the experiment, with absolute paths.
            space: over its fields.
            workdir: of the search.
            url: of the database, where the study has the name of the workdir; None: the study lies in the workdir.

        Raises:
            BadInput: the workdir or the storage cannot be used, or holds another search.
        """
        self.workdir, self._config, self.space = workdir, config, space
        self._storage = Storage(workdir, url)
        with self.turn():
            stored = identity.stored_search(workdir)
            identity.refuse_other_search(workdir, stored, config, space)
            storage = self._storage.open()
            with self._storage.errors():
                self._study = optuna.create_study(
                    storage=storage,
                    study_name="search" if url is None else workdir.name,  # a workdir may be renamed
                    load_if_exists=True,
                    pruner=optuna.pruners.MedianPruner(n_warmup_steps=1 + int(UNPRUNED * config.num_epochs)),
                )
                identity.join(workdir, stored, config, space, self._study)
                if not self._study.get_trials() and (recipe := space.recipe()):
                    self._study.enqueue_trial(recipe, user_attrs={RECIPE: True})

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other worker is in such a block.

        Raises:
            Locked: another process has held the lock of the workdir for too long.
            BadInput: the workdir cannot be written.
        """
        start = monotonic()
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(lock_workdir(self.workdir))
                    break
                except Locked:
                    if monotonic() - start > TURN_SECONDS:
                        raise
                    sleep(0.05)
            yield

    def next_trial(self, num_trials: int) -> Claimed | None:
        """A trial to train: one whose worker died, else a new one. None: `num_trials` have begun and have workers.

        Raises:
            BadInput: the space raised an error or returned a value that is not valid; the trial counts as failed.
        """
        with self.turn(), self._storage.errors(), ExitStack() as claim:
            trial = self._abandoned(claim) or self._new_trial(claim, num_trials)
            if trial is None:
                return None
            try:
                values = self.space.values(trial)
            except BadInput as error:
                self.fail(trial, error)
                raise
            trial.set_user_attr(VALUES, values)
            return Claimed(trial, self.space.config(values), claim.pop_all())

    def _abandoned(self, claim: ExitStack) -> optuna.Trial | None:
        """A trial whose worker died or was interrupted."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._enter(claim, trial.number):
                self._seed_sampler(trial.number)
                return optuna.Trial(self._study, trial._trial_id)
        return None

    def _new_trial(self, claim: ExitStack, num_trials: int) -> optuna.Trial | None:
        number = len(self.trials())
        if number >= num_trials:
            return None
        self._enter(claim, number)
        self._seed_sampler(number)
        return self._study.ask()

    def _enter(self, claim: ExitStack, number: int) -> bool:
        """Claims a trial, unless another worker holds it."""
        folder = self.workdir / CLAIMS / f"trial{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)  # what exists is not removed when the lock is released
            claim.enter_context(lock_workdir(folder))
        except Locked:
            return False
        return True

    def _seed_sampler(self, number: int) -> None:
        """Gives each trial a seed of its own.

        So a resumed search goes on as if it had not been interrupted, and no two workers draw the same values.
        """
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def folder(self, number: int) -> Path:
        """The workdir of a trial."""
        return self.workdir / f"trial{number}"

    def watch(self, trial: optuna.Trial, epochs: list[dict[str, Any]], num_epochs: int, data: dict[str, Any]) -> None:
        """Reports the finished epochs of a trial, and tells the study if it ends with them.

        Args:
            trial: a claimed one.
            epochs: the lines of metrics.jsonl.
            num_epochs: of the whole run.
            data: the DATA_FIELDS of the run.

        Raises:
            Stopped: the trial is complete or pruned.
            BadInput: the images are not those of the other trials.
        """
        with self._storage.errors():
            self._refuse_other_data(data)
            for line in epochs[len(self.trial(trial.number).intermediate_values) :]:
                trial.report(line["validation_loss"], line["epoch"])
            is_complete = len(epochs) >= num_epochs
            if is_complete or (epochs and trial.should_prune()):
                best = min(epochs, key=lambda line: line["validation_loss"])
                trial.set_user_attr(ACCURACY, best["validation_accuracy"])
                trial.set_user_attr(SECONDS, sum(line["epoch_seconds"] for line in epochs))
                loss, state = (best["validation_loss"], None) if is_complete else (None, TrialState.PRUNED)
                self._study.tell(trial, loss, state=state)
                raise Stopped

    def _refuse_other_data(self, data: dict[str, Any]) -> None:
        known = self._study.user_attrs.get("data")
        if known is None:
            self._study.set_user_attr("data", data)
        else:
            refuse_other_data(known, data, f"config.dataset: {self._config.dataset}")

    def diverge(self, trial: optuna.Trial, error: Exception) -> None:
        """Ends a trial with an infinite loss, from which the sampler learns."""
        with self._storage.errors():
            trial.set_user_attr(PROBLEM, f"diverged: {error}")
            self._study.tell(trial, math.inf)

    def fail(self, trial: optuna.Trial, error: Exception) -> None:
        """Ends a trial that cannot be trained."""
        with self._storage.errors():
            trial.set_user_attr(PROBLEM, str(error))
            self._study.tell(trial, state=TrialState.FAIL)

    def config_of(self, number: int) -> ConfigDict:
        """The config of a trial that has begun."""
        return self.space.config(self.trial(number).user_attrs[VALUES])

    def trial(self, number: int) -> FrozenTrial:
        return self.trials()[number]

    def trials(self) -> list[FrozenTrial]:
        """All trials that have begun, by number."""
        with self._storage.errors():
            trials = self._study.get_trials(deepcopy=False)
            return [trial for trial in trials if trial.state != TrialState.WAITING]

    def draw(self, plot: Callable[..., Any], **options: Any) -> Any:
        """What a function of optuna.visualization returns for the study."""
        with self._storage.errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about too few trials to compare
            return plot(self._study, **options)


def complete(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained to the end with a finite loss, the best first."""
    finite = [trial for trial in trials if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])]
    return sorted(finite, key=lambda trial: (trial.values[0], trial.number))
