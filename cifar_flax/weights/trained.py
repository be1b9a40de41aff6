"""Reads the network of a run from its best checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput
from cifar_flax.models import resolve_lowering
from cifar_flax.training.job import abstract_state, make_job
from cifar_flax.training.state import TrainState
from cifar_flax.workdir.checkpoints import Checkpoints, Damaged, read
from cifar_flax.workdir.environment import find_devices
from cifar_flax.workdir.identity import differences, with_defaults
from cifar_flax.workdir.records import open_run

NEEDED_FIELDS = ("platform", "num_train_examples", "image_shape", "class_names")  # of run.json


class Trained(NamedTuple):
    """The network of a run.

    Attributes:
        config: of the run, with the values that take effect here.
        run: the content of run.json, with the class names that the parameters were trained for.
        epoch: number of finished epochs in the checkpoint.
        model: the network.
        params: its parameters.
        batch_stats: its running statistics; may be empty.
    """

    config: ConfigDict
    run: dict[str, Any]
    epoch: int
    model: nn.Module
    params: Any
    batch_stats: Any


def read_trained(workdir: str | Path) -> Trained:
    """The network of a workdir, from its best checkpoint; in an unfinished run, from the best so far.

    Without validation images it is the newest checkpoint.

    Raises:
        BadInput: there is no run or no checkpoint, or they are damaged.
    """
    records = open_run(workdir)
    workdir, run = records.workdir, records.run
    missing = [field for field in NEEDED_FIELDS if field not in run]
    if missing:
        raise BadInput(f"--workdir: {workdir / 'run.json'} lacks {', '.join(missing)}; train the run again")
    which = "best" if records.config.get("num_validation") else "latest"
    if not any(path.name.isdecimal() for path in (workdir / "checkpoints" / which).glob("*")):
        raise BadInput(f"--workdir: the run in {workdir} has no checkpoint yet; wait for the end of its first epoch")
    config, device = ConfigDict(with_defaults(records.config)), find_devices()[0]
    if run["platform"] != device.platform:
        config.lowering = "auto"
        config.lowering = resolve_lowering(config, device.platform)
    job = make_job(config, run["num_train_examples"], len(run["class_names"]), [device])
    state, progress = _read(workdir, which, abstract_state(job, tuple(run["image_shape"])))
    if differences(progress["config"], config):
        raise BadInput(f"--workdir: {workdir / 'config.json'} is not the config of the {which} checkpoint; restore it")
    run = run | progress.get("data", {})
    return Trained(config, run, job.finished_epochs(int(state.step)), job.model, state.params, state.batch_stats)


def _read(workdir: Path, which: str, like: Any) -> tuple[TrainState, dict[str, Any]]:
    """The state and the progress of the `best` or the `latest` checkpoint."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        manager = checkpoints.best if which == "best" else checkpoints.latest
        try:
            (state, _), progress = read(manager, manager.latest_step(), like)
        except Damaged as error:
            raise BadInput(
                f"--workdir: {error}; if the run is being trained, try again; else train it in another workdir"
            ) from error
    return state, progress
