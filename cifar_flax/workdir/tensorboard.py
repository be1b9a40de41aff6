"""TensorBoard events in a workdir's `tensorboard/`, written by clu.

Each event is written exactly once, however often a run was killed. No other file imports clu or knows how events are
written, so another writer would change this file alone.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax.errors import import_problem, warn
from cifar_flax.workdir.atomic import atomic_write

MAX_HISTOGRAM_SIZE = 100_000  # elements that are enough for a histogram; AlexNet's millions would take seconds an epoch
EPOCH_TAG = "train_loss"  # a scalar that every epoch has
_warn_once = cache(warn)  # not for each seed of a sweep


class Opened(NamedTuple):
    """The files of a run, once they are opened.

    Attributes:
        writer: clu's; None without TensorFlow.
        epochs: the steps of the epochs in the files.
        problem: why there is no writer.
    """

    writer: Any
    epochs: set[int]
    problem: str | None = None


class TensorBoard:
    """The events of one run. Without TensorFlow nothing is written, and the events of earlier processes are kept.

    clu's writers import TensorFlow, which takes seconds. A thread does that while the first steps are trained, and then
    writes the events so far. An event that cannot be written raises OSError, at the latest at the end of the epoch.
    """

    def __init__(self, workdir: Path):
        self._folder, self._step = workdir / "tensorboard", 0
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Callable[[Any], None]] = []
        self._opened: Future[Opened] | None = None

    def begin(self, step: int) -> None:
        """Continues at `step`. The config and the inputs are written anew by each process."""
        self._step = step

    def start(self) -> None:
        """Imports TensorFlow and writes the events so far, in a thread."""
        if self._opened is None:
            self._opened = self._thread.submit(_open, self._folder, self._step, self._waiting)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._opened or (self._waiting and error is None):
                self._write_now(lambda writer: writer.close())
        except OSError:
            if error is None:  # otherwise `error` is the one to report
                raise
        finally:
            self._thread.shutdown()

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the hyperparameters. Each process does, because some fields may change when a run is resumed."""
        hyperparameters = {field: _hyperparameter(value) for field, value in config.items()}
        self._write(lambda writer: writer.write_hparams(hyperparameters))

    def complete(self, epochs: list[dict[str, Any]], params: Any) -> None:
        """Writes the finished epochs that are missing from the files; `params` belong to the step that was restored.

        A run may have been killed between an epoch's checkpoint and its events.
        """
        for epoch in epochs:
            if epoch["step"] not in self._wait().epochs:
                self.write_epoch(epoch, params if epoch["step"] == self._step else {})

    def write_epoch(self, epoch: dict[str, Any], params: Any) -> None:
        """Writes the scalars of a line of metrics.jsonl and a histogram of every parameter."""

        def write(writer: Any) -> None:
            sampled = {name: _sample(array) for name, array in flatten_dict(params, sep="/").items()}
            writer.write_histograms(epoch["step"], jax.device_get(sampled))
            writer.write_scalars(epoch["step"], {name: value for name, value in epoch.items() if name != "step"})

        self._write_now(write)  # the next step takes the memory of `params`

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """`image` is [H, W, 3] uint8."""
        self._write(lambda writer: writer.write_images(step, {name: image[None]}))

    def write_test(self, step: int, measures: dict[str, float]) -> None:
        self._write_now(lambda writer: writer.write_scalars(step, measures))

    def _write(self, write: Callable[[Any], None]) -> None:
        if self._opened is None:
            self._waiting.append(write)
        else:
            self._write_now(write)

    def _write_now(self, write: Callable[[Any], None]) -> None:
        if writer := self._wait().writer:
            _write_and_flush(writer, write)

    def _wait(self) -> Opened:
        """Waits until the thread has written the events before it."""
        self.start()
        assert self._opened
        opened = self._opened.result()
        if opened.problem:
            advice = "install tensorflow, clu and tensorboard for them, or see metrics.jsonl and figures/"
            _warn_once(f"no TensorBoard events are written: {opened.problem}; {advice}")
        return opened


def _write_and_flush(writer: Any, write: Callable[[Any], None]) -> None:
    with _as_os_error():
        write(writer)
        writer.flush()


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


def _open(folder: Path, step: int, waiting: list[Callable[[Any], None]]) -> Opened:
    """Opens a clu writer and writes the events that wait for it. Removes what a killed run left from `step` on."""
    if problem := _import_writers():
        return Opened(None, set(), problem)
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would claim all of its memory
    with _as_os_error():
        epochs = {epoch for file in sorted(folder.glob("*tfevents*")) for epoch in _cut(file, step)}
        writer = metric_writers.SummaryWriter(str(folder))
    for write in waiting:
        _write_and_flush(writer, write)
    waiting.clear()  # they hold the images
    return Opened(writer, epochs)


def _cut(file: Path, step: int) -> list[int]:
    """Removes from a file the events before the first step, those from `step` on, and a half-written one.

    Returns:
        The steps of the remaining epochs.
    """
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = [(record, Event.FromString(record)) for record in RawEventFileLoader(str(file)).Load()]
    # the first record is the format's version, with step 0
    kept = [(record, event) for record, event in records if event.HasField("file_version") or 0 < event.step < step]
    with atomic_write(file) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for record, _ in kept:
                writer.write(record)
        os.utime(temporary, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    return [event.step for _, event in kept for value in event.summary.value if value.tag == EPOCH_TAG]


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
