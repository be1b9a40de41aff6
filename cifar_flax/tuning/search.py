"""The work of one worker of a search: trains trials until enough are finished, and tests the best."""

from pathlib import Path
from time import sleep
from typing import Any

from ml_collections import ConfigDict
from optuna.trial import FrozenTrial, TrialState

from cifar_flax.errors import BadInput, Diverged, Locked
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.tuning import report
from cifar_flax.tuning.space import Space
from cifar_flax.tuning.study import VALUES, SharedStudy, complete
from cifar_flax.tuning.trial import test_trial, train_trial

POLL_SECONDS = 1.0  # between two looks at the trials of other workers


def search(config: ConfigDict, space: Space, workdir: Path, num_trials: int, url: str | None) -> dict[str, Any]:
    """Trains trials until `num_trials` have ended, then tests the best one, and writes the report.

    Returns:
        The content of the best trial's run.json.

    Raises:
        BadInput: the workdir, the storage, the data or the space cannot be used, or no trial could be trained.
        Diverged: no trial has a finite loss.
        Interrupted, Unwritable: as in `train_and_evaluate`.
    """
    study = SharedStudy(config, space, workdir, url)
    with Interruption() as interruption:
        train_trials(study, num_trials, interruption)
        best = best_trial(study)
        run = test_best(study, best.number, interruption)
    found = report.write(study)
    console.say("\n" + "\n".join(report.sentences(found)))
    console.say(f"report      {workdir / 'report.html'}")
    console.say(f"train it    {space.command(best.user_attrs[VALUES])}")
    return run


def train_trials(study: SharedStudy, num_trials: int, interruption: Interruption) -> None:
    """Trains trials until `num_trials` have ended, by this worker or others."""
    announced: set[int] = set()
    while True:
        interruption.raise_if_received()
        if claimed := study.next_trial(num_trials):
            trial, config, claim = claimed
            with claim:
                values = report.values_text(trial.user_attrs[VALUES])
                console.say(f"trial {trial.number}, {trial.number + 1} of {num_trials}: {values}")
                train_trial(study, trial, config)
            console.say(report.trial_line(study, trial.number))
            report.write(study)
            continue
        running = {trial.number for trial in study.trials() if not trial.state.is_finished()}
        if not running:
            return
        if running - announced:
            console.say(f"waiting for trials of other workers: {', '.join(map(str, sorted(running)))}")
            announced |= running
        sleep(POLL_SECONDS)


def best_trial(study: SharedStudy) -> FrozenTrial:
    """The complete trial with the lowest validation loss.

    Raises:
        BadInput: no trial could be trained.
        Diverged: no trial has a finite loss.
    """
    trials = study.trials()
    if best := complete(trials):
        return best[0]
    if all(trial.state == TrialState.FAIL for trial in trials):
        raise BadInput(
            f"--space: none of the {len(trials)} trials could be trained; see {study.workdir / 'trials.json'}"
        )
    raise Diverged(f"none of the {len(trials)} trials has a finite loss")


def test_best(study: SharedStudy, number: int, interruption: Interruption) -> dict[str, Any]:
    """Tests the best trial, or waits until another worker has done so."""
    while True:
        interruption.raise_if_received()
        try:
            return test_trial(study, number)
        except Locked:
            sleep(POLL_SECONDS)
