"""The compiled functions of a run and its images."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import Dataset
from cifar_flax.errors import Diverged
from cifar_flax.training.conducting import conducted
from cifar_flax.training.evaluation import PlacedSplit, evaluate_split, make_evaluate, place_split
from cifar_flax.training.job import Job, abstract_state
from cifar_flax.training.memory import batch_fits, images_fit
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import make_epoch_order, make_train_steps
from cifar_flax.training.streaming import StreamedEvaluation, StreamedSteps, keep_split


class Programs(NamedTuple):
    """The functions that a run calls, and their data.

    Attributes:
        epoch_order: compiled function of `make_epoch_order`.
        train_steps: compiled function of `make_train_steps`, or `StreamedSteps`.
        evaluate: compiled function of `make_evaluate`, or `StreamedEvaluation`.
        evaluate_tta: the same with test-time augmentation, or None. It is used once, at the end, and compiled then.
        train, validation, test: the splits, on the devices or, if they are streamed, on the host.
        batch_size, eval_batch_size: images that the functions process at once.
        compile_seconds: time spent compiling.
    """

    epoch_order: Any
    train_steps: Any
    evaluate: Any
    evaluate_tta: Any
    train: PlacedSplit
    validation: PlacedSplit
    test: PlacedSplit
    batch_size: int
    eval_batch_size: int
    compile_seconds: float


def make_programs(job: Job, dataset: Dataset, config: ConfigDict) -> Programs:
    """`start_compiling`, and waits until it is done."""
    return start_compiling(job, dataset, config)()


def start_compiling(job: Job, dataset: Dataset, config: ConfigDict) -> Callable[[], Programs]:
    """Starts to compile each function once, in threads, and copies the images to the devices.

    With `config.stream` the images stay on the host, and the functions are those of `streaming`. Of several processes,
    all must call it at the same time. In process 0, the functions then conduct the others, which follow (`conducting`).

    Returns:
        A function that waits for the programs and returns them. It raises BadInput too.

    Raises:
        BadInput: the images or a batch do not fit into memory.
    """
    return _Compilation(job, dataset, config).result


class _Compilation:
    def __init__(self, job: Job, dataset: Dataset, config: ConfigDict):
        self._job, self._config = job, config
        splits = dataset.train, dataset.validation, dataset.test
        self._splits: list[Any] = list(map(keep_split, splits) if config.stream else _place(dataset, job))
        train, validation, _ = self._splits
        settings = {"num_classes": dataset.num_classes, "batch_size": config.eval_batch_size, "mesh": job.mesh}
        self._evaluate: Any = partial(StreamedEvaluation if config.stream else make_evaluate, job.model, **settings)
        make_steps: Any = StreamedSteps if config.stream else make_train_steps
        state, metrics, order = shapes(job, dataset)
        self._start = time.perf_counter()
        # of several processes, all compile in the same order
        pool = ThreadPoolExecutor(1 if job.mesh.is_multi_process else 3)
        with self._batch_fits("batch_size"):
            steps = make_steps(job).lower(state, metrics, order, train.images, train.labels, np.int32(0))
            self._steps = pool.submit(self._compile, steps)
        drawing = make_epoch_order(job, len(dataset.train)).lower(state.rng, np.int32(0))
        self._order = pool.submit(self._compile, drawing)
        with self._batch_fits("eval_batch_size"):
            evaluation = self._evaluate().lower(state.params, state.batch_stats, *validation)
            self._evaluation = pool.submit(self._compile, evaluation)
        pool.shutdown(wait=False)

    def _batch_fits(self, field: str) -> AbstractContextManager[None]:
        return batch_fits(f"config.{field}", self._config[field])

    def _compile(self, lowered: Any) -> tuple[Any, float]:
        """The compiled function and the seconds since the start."""
        return lowered.compile(), time.perf_counter() - self._start

    def result(self) -> Programs:
        with self._batch_fits("batch_size"):
            train_steps, seconds_of_steps = self._steps.result()
        with self._batch_fits("eval_batch_size"):
            evaluate, seconds_of_evaluation = self._evaluation.result()
        epoch_order, seconds_of_order = self._order.result()
        train, validation, test = self._splits
        programs = Programs(
            epoch_order=epoch_order,
            train_steps=train_steps,
            evaluate=evaluate,
            evaluate_tta=None if self._config.tta == "none" else self._evaluate(tta=self._config.tta),
            train=train,
            validation=validation,
            test=test,
            batch_size=self._job.batch_size,
            eval_batch_size=self._config.eval_batch_size,
            compile_seconds=max(seconds_of_steps, seconds_of_evaluation, seconds_of_order),
        )
        is_conductor = self._job.mesh.is_multi_process and jax.process_index() == 0
        return conducted(programs, self._job) if is_conductor else programs


def shapes(job: Job, dataset: Dataset) -> tuple[TrainState, Metrics, jax.ShapeDtypeStruct]:
    """Of the state, the metrics and the order of an epoch, on all devices of the run."""
    place = partial(jax.ShapeDtypeStruct, sharding=replicated(job.mesh))
    order = place((len(dataset.train),), np.int32)
    return *jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), abstract_state(job, dataset.image_shape)), order


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
