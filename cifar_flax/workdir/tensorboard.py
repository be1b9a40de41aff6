"""TensorBoard events in a workdir's `tensorboard/`, written by clu.

Each event is written exactly once, however often a run was killed. No other file imports clu or knows how events are
written, so another writer would change this file alone.
"""

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax.errors import import_problem, warn
from cifar_flax.workdir.atomic import atomic_write

MAX_HISTOGRAM_SIZE = 100_000  # elements that are enough for a histogram; AlexNet's millions would take seconds an epoch
EPOCH_TAG = "train_loss"  # a scalar that every epoch has
CONFIG_TAGS = "_hparams_/"  # the start of the tags of the hyperparameters
_warn_once = cache(warn)  # not for each seed of a sweep


class TensorBoard:
    """The events of one run. Without TensorFlow nothing is written, and the events of earlier processes are kept.

    clu's writers import TensorFlow, which takes seconds. A thread does that while the run is prepared, and the first
    event waits for the thread. Events that cannot be written raise OSError.
    """

    def __init__(self, workdir: Path):
        self._folder, self._step = workdir / "tensorboard", 0
        self._opening = ThreadPoolExecutor(1)
        self._problem = self._opening.submit(_import_writers)
        self._opened: Future[tuple[Any, set[int]]] | None = None

    def begin(self, step: int) -> None:
        """Continues at `step`. Removes the config, and the events from there on that a killed run left."""
        self._step = step
        self._opened = self._opening.submit(_open, self._folder, step, self._problem)

    @property
    def _writer(self) -> Any:
        return self._opened.result()[0] if self._opened else None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer:
                with _as_os_error():
                    self._writer.close()
        except OSError:
            if error is None:  # otherwise `error` is the one to report
                raise
        finally:
            self._opening.shutdown()

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the hyperparameters. Each process does, because some fields may change when a run is resumed."""
        if self._writer:
            with _as_os_error():
                self._writer.write_hparams({field: _hyperparameter(value) for field, value in config.items()})
                self._writer.flush()

    def complete(self, epochs: list[dict[str, Any]], params: Any) -> None:
        """Writes the finished epochs that are missing from the files; `params` belong to the step that was restored.

        A run may have been killed between an epoch's checkpoint and its events.
        """
        assert self._opened
        for epoch in epochs:
            if epoch["step"] not in self._opened.result()[1]:
                self.write_epoch(epoch, params if epoch["step"] == self._step else {})

    def write_epoch(self, epoch: dict[str, Any], params: Any) -> None:
        """Writes the scalars of a line of metrics.jsonl and a histogram of every parameter."""
        if self._writer:
            step = epoch["step"]
            sampled = {name: _sample(array) for name, array in flatten_dict(params, sep="/").items()}
            with _as_os_error():
                self._writer.write_histograms(step, jax.device_get(sampled))
                self._writer.write_scalars(step, {name: value for name, value in epoch.items() if name != "step"})
                self._writer.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """`image` is [H, W, 3] uint8."""
        if self._writer:
            with _as_os_error():
                self._writer.write_images(step, {name: image[None]})
                self._writer.flush()

    def write_test(self, step: int, measures: dict[str, float]) -> None:
        if self._writer:
            with _as_os_error():
                self._writer.write_scalars(step, measures)
                self._writer.flush()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raises TensorFlow's file errors as OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"TensorBoard's events: {error.message}") from error


def can_write_events() -> bool:
    """Whether the packages for it are installed. Imports none of them, so that a broken one is not noticed."""
    return all(importlib.util.find_spec(name) for name in ("tensorflow", "clu", "tensorboard"))


def _import_writers() -> str | None:
    """Imports the packages for the events. Returns the problem, if there is one."""
    try:
        import tensorboard  # noqa: F401
        import tensorflow  # noqa: F401
        from clu import metric_writers  # noqa: F401
    except Exception as error:  # a version that does not fit numpy or protobuf can raise any error
        return import_problem(error, "tensorflow, clu or tensorboard")
    return None


def _open(folder: Path, step: int, problem: Future[str | None]) -> tuple[Any, set[int]]:
    """A clu writer and the steps of the epochs in the files; (None, empty set) without TensorFlow."""
    if problem.result():
        advice = "install tensorflow, clu and tensorboard for them, or see metrics.jsonl and figures/"
        _warn_once(f"no TensorBoard events are written: {problem.result()}; {advice}")
        return None, set()
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would claim all of its memory
    with _as_os_error():
        recorded = [epoch for file in sorted(folder.glob("*tfevents*")) for epoch in _cut(file, step)]
        return metric_writers.SummaryWriter(str(folder)), set(recorded)


def _cut(file: Path, step: int) -> list[int]:
    """Removes from a file the config, the events from `step` on, and a half-written one.

    Returns:
        The steps of the remaining epochs.
    """
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = [(record, Event.FromString(record)) for record in RawEventFileLoader(str(file)).Load()]
    # the first record is the format's version, with step 0
    kept = [
        (record, event)
        for record, event in records
        if event.HasField("file_version") or (event.step < step and not _is_config(event))
    ]
    with atomic_write(file) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for record, _ in kept:
                writer.write(record)
        os.utime(temporary, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    return [event.step for _, event in kept for value in event.summary.value if value.tag == EPOCH_TAG]


def _is_config(event: Any) -> bool:
    return any(value.tag.startswith(CONFIG_TAGS) for value in event.summary.value)


def _hyperparameter(value: Any) -> Any:
    """The value as TensorBoard can store it: "" for None, and escapes in a file name that is not valid UTF-8."""
    if value is None:
        return ""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _sample(array: jax.Array) -> jax.Array:
    """All elements of the array, or MAX_HISTOGRAM_SIZE evenly spaced ones: [N]."""
    if array.size <= MAX_HISTOGRAM_SIZE:
        return array.ravel()
    # not every k-th: such a stride shares factors with the kernel's width and would sample only a few units
    return array.ravel()[np.linspace(0, array.size - 1, MAX_HISTOGRAM_SIZE).astype(np.int32)]
