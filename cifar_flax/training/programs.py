"""The compiled functions of a run and its images."""

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import Dataset
from cifar_flax.errors import Diverged
from cifar_flax.training.conducting import conducted
from cifar_flax.training.evaluation import PlacedSplit, evaluate_split, make_evaluate, place_split
from cifar_flax.training.job import Job
from cifar_flax.training.memory import batch_fits, images_fit
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import make_train_steps
from cifar_flax.training.streaming import StreamedEvaluation, StreamedSteps, keep_split


class Programs(NamedTuple):
    """The functions that a run calls, and their data.

    Attributes:
        train_steps: compiled function of `make_train_steps`, or `StreamedSteps`.
        evaluate: compiled function of `make_evaluate`, or `StreamedEvaluation`.
        evaluate_tta: the same with test-time augmentation, or None. It is used once, at the end, and compiled then.
        train, validation, test: the splits, on the devices or, if they are streamed, on the host.
        batch_size, eval_batch_size: images that the functions process at once.
        compile_seconds: time spent compiling.
    """

    train_steps: Any
    evaluate: Any
    evaluate_tta: Any
    train: PlacedSplit
    validation: PlacedSplit
    test: PlacedSplit
    batch_size: int
    eval_batch_size: int
    compile_seconds: float


def make_programs(job: Job, state: TrainState, metrics: Metrics, dataset: Dataset, config: ConfigDict) -> Programs:
    """Copies the images to the devices and compiles each function once, for the shapes of `state` and `metrics`.

    With `config.stream` the images stay on the host, and the functions are those of `streaming`. Of several processes,
    all must call it at the same time. In process 0, the functions then conduct the others, which follow (`conducting`).

    Raises:
        BadInput: the images or a batch do not fit into memory.
    """
    splits = dataset.train, dataset.validation, dataset.test
    train, validation, test = map(keep_split, splits) if config.stream else _place(dataset, job)
    evaluate: Any = partial(
        StreamedEvaluation if config.stream else make_evaluate,
        job.model,
        num_classes=dataset.num_classes,
        batch_size=config.eval_batch_size,
        mesh=job.mesh,
    )
    state, metrics = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(job.mesh)), (state, metrics)
    )
    start = time.perf_counter()
    with batch_fits("config.batch_size", job.batch_size):
        make_steps: Any = StreamedSteps if config.stream else make_train_steps
        train_steps = make_steps(job).lower(state, metrics, train.images, train.labels, np.int32(0)).compile()
    with batch_fits("config.eval_batch_size", config.eval_batch_size):
        compiled_evaluate = evaluate().lower(state.params, state.batch_stats, *validation).compile()
    compile_seconds = time.perf_counter() - start
    programs = Programs(
        train_steps=train_steps,
        evaluate=compiled_evaluate,
        evaluate_tta=None if config.tta == "none" else evaluate(tta=config.tta),
        train=train,
        validation=validation,
        test=test,
        batch_size=job.batch_size,
        eval_batch_size=config.eval_batch_size,
        compile_seconds=compile_seconds,
    )
    return conducted(programs, job) if job.mesh.is_multi_process and jax.process_index() == 0 else programs


def _place(dataset: Dataset, job: Job) -> Iterator[PlacedSplit]:
    """The training, validation and test images on the devices."""
    num_rows = max(len(dataset.validation), len(dataset.test))  # one shape, so that one compilation serves both
    with images_fit(dataset):
        yield place_split(dataset.train, len(dataset.train), job.mesh)
        for split in (dataset.validation, dataset.test):
            yield place_split(split, num_rows, job.mesh)


def evaluate_test(programs: Programs, network: Any) -> tuple[dict[str, float], np.ndarray]:
    """The fields of run.json about the test images, and the classes [N] int32 predicted without TTA.

    Raises:
        Diverged: a test loss is not finite.
        BadInput: a batch does not fit into memory.
    """
    with batch_fits("config.eval_batch_size", programs.eval_batch_size):
        test = evaluate_split(programs.evaluate, network, programs.test)
        test_tta = programs.evaluate_tta and evaluate_split(programs.evaluate_tta, network, programs.test)
    fields = {"test_loss": test.loss, "test_accuracy": test.accuracy}
    if test_tta:
        fields |= {"tta_test_loss": test_tta.loss, "tta_test_accuracy": test_tta.accuracy}
    if not all(math.isfinite(value) for value in fields.values()):
        raise Diverged("the test loss is not finite")
    return fields, test.predicted
