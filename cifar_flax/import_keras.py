"""`python -m cifar_flax.import_keras FILE --config alexnet --workdir runs/keras`: a run from the weights of Keras.

FILE holds the weights of the config's network, mlp, cnn or alexnet, as the reference notebook or another program saved
them with Keras 2 or 3: `.hdf5`, `.h5`, `.weights.h5` or `.keras`. The network is validated and tested once on the
config's dataset. The other commands take the workdir as that of a finished run, in which no step was trained.
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.cli import flags
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data import Dataset, load
from cifar_flax.data.paths import read_path
from cifar_flax.data.remarks import remarks
from cifar_flax.errors import BadInput, printable, warn
from cifar_flax.reporting import console
from cifar_flax.resume import Position, SavedPositions
from cifar_flax.training.checks import check_config
from cifar_flax.training.evaluation import evaluate_split
from cifar_flax.training.job import Job, abstract_state, make_job_for, resolve_config
from cifar_flax.training.memory import batch_fits
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState, count_parameters
from cifar_flax.training.streaming import StreamedEvaluation, keep_split
from cifar_flax.weights import keras_files
from cifar_flax.weights.transfer import as_trees, by_name
from cifar_flax.workdir import identity
from cifar_flax.workdir.environment import environment, find_devices
from cifar_flax.workdir.lock import lock_workdir
from cifar_flax.workdir.records import Records

Arrays = Mapping[str, np.ndarray]


def import_keras(path: Path, config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Writes a workdir with the network in a file of Keras, validated and tested on the config's dataset.

    Returns:
        The content of run.json.

    Raises:
        BadInput: the file holds another network than the config's, or the config, the dataset or the workdir cannot be
            used.
    """
    check_config(config)
    if config.init_from is not None:
        raise BadInput(f"config.init_from: {config.init_from!r} is not valid; leave it unset, FILE holds the weights")
    arrays, source = keras_files.read(path, "FILE", config.model).arrays, _source(path)
    devices = find_devices()
    config = resolve_config(identity.with_absolute_paths(config), devices)
    records = Records(workdir)
    with lock_workdir(records.workdir):
        records.read()
        if records.saved:
            raise BadInput(f"--workdir: {records.workdir} holds a run; choose another workdir")
        _import(arrays, config, records, devices, source)
    return records.run


def _import(
    arrays: Arrays, config: ConfigDict, records: Records, devices: list[jax.Device], source: dict[str, str]
) -> None:
    """Imports into a workdir that is locked. Arrays that are refused change nothing there."""
    dataset = load(config)
    job = make_job_for(config, dataset, devices)
    refuse_other_shapes(arrays, job, dataset, f"FILE: {source['file']}")
    for remark in remarks(dataset):
        warn(remark)
    data = identity.describe_data(dataset)
    with records.status(), SavedPositions(job, config, records, data) as saved:
        position = saved.restore_or_init(dataset.train.images)
        fields = identity.describe_run(config) | saved.data | environment(devices) | {identity.IMPORTED: source}
        records.begin(config, fields, step=0)
        saved.reset_records(position)
        state = with_arrays(position.state, arrays, job)
        console.say(f"imported    {source['file']}: {config.model}, {count_parameters(state.params):,} parameters")
        line, test = evaluate_splits(job, state, dataset, config)
        position = Position(state, position.metrics, epochs=[line], seconds=0.0)
        saved.save(position)
        saved.end_epoch(position)
        records.finish(**test)


def refuse_other_shapes(arrays: Arrays, job: Job, dataset: Dataset, file: str) -> None:
    """Raises BadInput if the arrays are not those of the job's network for the dataset's images and classes."""
    network = abstract_state(job, dataset.image_shape)[0]
    expected = {name: leaf.shape for name, leaf in by_name(network.params, network.batch_stats).items()}
    for name in [*expected, *arrays]:
        found = arrays[name].shape if name in arrays else None
        if found != expected.get(name):
            described = ["nothing" if shape is None else list(shape) for shape in (found, expected.get(name))]
            raise BadInput(
                printable(
                    f"{file}: {name} is {described[0]} in the file, and {described[1]} in the config's network for "
                    f"images {list(dataset.image_shape)} of {dataset.num_classes} classes; use the config and the "
                    "dataset that the file was trained with"
                )
            )


def with_arrays(state: TrainState, arrays: Arrays, job: Job) -> TrainState:
    """The state with these parameters and running statistics, on the devices."""
    params, batch_stats = jax.device_put(as_trees(arrays), replicated(job.mesh))
    average = (params, batch_stats) if job.averaging else None
    return replace(state, params=params, batch_stats=batch_stats, average=average)


def evaluate_splits(
    job: Job, state: TrainState, dataset: Dataset, config: ConfigDict
) -> tuple[dict[str, Any], dict[str, float]]:
    """A line of metrics.jsonl for epoch 0, and the fields of run.json about the test images.

    The line's training loss and accuracy are those of the imported network, without augmentation and dropout.

    Raises:
        BadInput: a loss is not finite, or a batch does not fit into memory.
    """
    passes = {"train_": (dataset.train, "none"), "validation_": (dataset.validation, "none")}
    passes |= {"test_": (dataset.test, "none")}
    if config.tta != "none":
        passes["tta_test_"] = (dataset.test, config.tta)
    results: dict[str, float] = {}
    programs: dict[str, Any] = {}
    for name, (split, tta) in passes.items():
        programs[tta] = programs.get(tta) or StreamedEvaluation(
            job.model, num_classes=dataset.num_classes, batch_size=config.eval_batch_size, mesh=job.mesh, tta=tta
        )
        if len(split):
            with batch_fits("config.eval_batch_size", config.eval_batch_size):
                result = evaluate_split(programs[tta], state, keep_split(split))
            results |= {f"{name}loss": result.loss, f"{name}accuracy": result.accuracy}
    if not all(map(math.isfinite, results.values())):
        raise BadInput("FILE: its network gives losses that are not finite; save the weights again")
    test = {name: value for name, value in results.items() if "test_" in name}
    line = {"epoch": 0, "step": 0, "epoch_seconds": 0.0, "images_per_second": 0.0}
    return line | {name: value for name, value in results.items() if name not in test}, test


def _source(path: Path) -> dict[str, str]:
    """The field of run.json about the file."""
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.import_keras", description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("file", metavar="FILE", help="what Keras saved: .hdf5, .h5, .weights.h5 or .keras")
    config, workdir, arguments = flags.parse(parser, argv)
    run = import_keras(read_path(arguments.file, "FILE"), config, workdir)
    console.result(run, workdir)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
