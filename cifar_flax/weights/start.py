"""Starts a run from trained weights (`config.init_from`), and recognizes them when it is resumed.

The arrays that a run started from belong to it, as its images do: run.json and all checkpoints hold their checksum.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cifar_flax.data.statistics import channel_statistics
from cifar_flax.errors import BadInput, warn
from cifar_flax.models.airbench import NUM_WHITENING_IMAGES
from cifar_flax.models.layers import Normalized
from cifar_flax.training.job import Job, init_state
from cifar_flax.training.optimizers import with_frozen
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState
from cifar_flax.weights import read
from cifar_flax.weights.contents import Weights, is_normalized
from cifar_flax.weights.trained import read_trained
from cifar_flax.weights.transfer import as_trees, by_name, checksum, chosen, plan
from cifar_flax.workdir.identity import refuse_replaced_data
from cifar_flax.workdir.records import Records

FIELD = "init_from"  # of config, run.json and the data in checkpoints


class Start(NamedTuple):
    """What a run starts from instead of random arrays. Without `config.init_from` all attributes are empty.

    Attributes:
        arrays: by their names, such as `params/conv1/kernel`.
        record: FIELD of run.json: the path and the checksum of the arrays, and the number of values of each layer that
            is taken from there and of each that begins anew.
        problem: why the arrays cannot be read now. A run with a checkpoint does not need them.
    """

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]
    problem: BadInput | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of run.json and of the data in checkpoints."""
        return {FIELD: self.record} if self.record else {}

    def init_state(self, job: Job, seed: int, images: np.ndarray) -> TrainState:
        """The state before the first step, on the devices of this process.

        Args:
            job: the run's model, optimizer and averaging.
            seed: of the arrays that are not taken.
            images: [N, H, W, C] uint8, the training images.

        Raises:
            BadInput: the arrays cannot be read.
        """
        if self.problem:
            raise self.problem
        create = jax.jit(partial(_create, job), out_shardings=replicated(job.mesh.local_mesh))
        return create(jax.random.key(seed), images[:NUM_WHITENING_IMAGES], _statistics(job, images), self.arrays)

    def restored(self, data: dict[str, Any]) -> "Start":
        """The start of a run with a checkpoint, which holds this data.

        Raises:
            BadInput: it started from other arrays.
        """
        stored = data.get(FIELD, {})
        if stored and self.record:
            _refuse_other_arrays(stored, self.record)
        return self._replace(record=self.record or stored)


def _statistics(job: Job, images: np.ndarray) -> dict[str, np.ndarray] | None:
    """The running statistics of `Normalize`, if the model has this layer. A large set is never all on the device."""
    if not isinstance(job.model, Normalized):
        return None
    mean, variance = channel_statistics(images)
    return {"mean": mean[None, None, None], "variance": variance[None, None, None]}


def _create(
    job: Job, rng: Array, images: Array, statistics: dict[str, Array] | None, arrays: dict[str, Array]
) -> TrainState:
    state = init_state(job, rng, images, statistics)
    if not arrays:
        return state
    own = by_name(state.params, state.batch_stats)
    params, batch_stats = as_trees(own | arrays)
    is_frozen = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") in arrays, {"params": params}
    )["params"]
    return replace(
        state,
        params=params,
        batch_stats=batch_stats,
        opt_state=with_frozen(state.opt_state, is_frozen),
        average=(params, batch_stats) if job.averaging else None,
    )


def find_start(config: ConfigDict, records: Records, network: TrainState, class_names: Sequence[str]) -> Start:
    """What a run starts from, or, if the workdir holds a checkpoint, what it started from.

    Args:
        config: of the run.
        records: of the workdir.
        network: shapes of the run's arrays.
        class_names: of the run.

    Raises:
        BadInput: the weights cannot be read, are of another network, or are not those that the run started from.
    """
    if config.init_from is None:
        return Start({}, {})
    if records.saved and FIELD in records.run:
        return _known_start(config, records)
    if Path(config.init_from).resolve() == records.workdir.resolve():
        raise BadInput(f"config.init_from: {config.init_from} is the workdir of this run; name another run or a file")
    try:
        return _new_start(config, network, class_names)
    except BadInput as error:
        if not _is_unchanged(config, records):
            raise
        return Start({}, {}, error)  # run.json is lost; if there is a checkpoint, it has the record


def refuse_replaced(records: Records, config: ConfigDict) -> None:
    """Raises BadInput if the dataset of a finished run, or what it started from, was replaced.

    An unchanged path that can no longer be read is not an error.
    """
    refuse_replaced_data(records, config)
    if FIELD in records.run:
        _known_start(config, records)


def _new_start(config: ConfigDict, network: TrainState, class_names: Sequence[str]) -> Start:
    name, weights = f"config.init_from: {config.init_from}", _read(config)
    metadata = weights.metadata
    _refuse_other_network(name, config, weights)
    are_numbers = list(class_names) == [str(label) for label in range(len(class_names))]  # of classes without names
    same_classes = metadata.get("class_names") == list(class_names) and not are_numbers
    taken, new = plan(weights.arrays, by_name(network.params, network.batch_stats), same_classes, name)
    if config.frozen_epochs and not new:
        raise BadInput(
            f"config.frozen_epochs: {config.frozen_epochs} is not valid; use 0, because all parameters are taken from "
            f"{config.init_from}, and none remains to be trained"
        )
    if metadata.get("status", "done") != "done":
        warn(
            f"config.init_from: the run in {config.init_from} is {metadata['status']}; this run starts from its best "
            f"epoch so far, {metadata['epoch']}"
        )
    arrays = chosen(weights.arrays, taken)
    return Start(arrays, _record(config, arrays, taken, new))


def _known_start(config: ConfigDict, records: Records) -> Start:
    """The start that run.json describes."""
    stored = records.run[FIELD]
    try:
        weights = _read(config)
    except BadInput as error:
        if not _is_unchanged(config, records):
            raise
        return Start({}, stored, error)
    arrays = chosen(weights.arrays, stored["taken"])
    record = _record(config, arrays, stored["taken"], stored["new"])
    _refuse_other_arrays(stored, record)
    return Start(arrays, record)


def _record(config: ConfigDict, arrays: dict[str, np.ndarray], taken: Any, new: Any) -> dict[str, Any]:
    return {"path": config.init_from, "sha256": checksum(arrays), "taken": taken, "new": new}


def _is_unchanged(config: ConfigDict, records: Records) -> bool:
    return records.saved and records.config.get(FIELD) == config.init_from


def _refuse_other_arrays(stored: dict[str, Any], now: dict[str, Any]) -> None:
    if stored["sha256"] != now["sha256"]:
        raise BadInput(
            f"config.init_from: {now['path']} is not what the run started from (other arrays); name the original "
            "weights, wherever they are now, or choose another workdir"
        )


def _refuse_other_network(name: str, config: ConfigDict, weights: Weights) -> None:
    """Raises BadInput if the weights are of another model or for inputs that are standardized otherwise."""
    model = weights.metadata.get("model", config.model)
    if model != config.model:
        raise BadInput(f"{name} is of the model {model}, and config.model is {config.model}; use the same model")
    normalized = is_normalized(weights.arrays)
    if normalized != config.normalize:
        raise BadInput(
            f"{name} was trained with normalize={normalized}, and config.normalize is {config.normalize}; use the same"
        )


def _read(config: ConfigDict) -> Weights:
    """The arrays of a run or of a file, with what is known about them.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    path = Path(config.init_from)
    try:
        exists, is_run = path.exists(), path.is_dir()
    except OSError:  # for example, a name that is too long, which `read` reports
        exists, is_run = True, False
    if not exists:
        raise BadInput(f"config.init_from: {path} does not exist; name the workdir of a run, or a file of weights")
    if not is_run:
        return read(path, "config.init_from", config.model)
    try:
        trained = read_trained(path)
    except BadInput as error:
        raise BadInput(f"config.init_from: {str(error).removeprefix('--workdir: ')}") from error
    arrays = by_name(*jax.device_get((trained.params, trained.batch_stats)))
    metadata = {"model": trained.config.model, "class_names": trained.run["class_names"]}
    return Weights(arrays, metadata | {"status": trained.run["status"], "epoch": trained.epoch})
