"""TensorBoard events in a workdir's `tensorboard/`, written by clu.

Each event is written exactly once, however often a run was killed. No other file imports clu or knows how events are
written, so another writer would change this file alone.
"""

import importlib.util
import os
import re
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


Write = Callable[[Opened], None]


class TensorBoard:
    """The events of one run. Without TensorFlow nothing is written, and the events of earlier processes are kept.

    clu's writers import TensorFlow, which takes seconds. A thread does that after the first step, while others are
    trained, and then writes the events so far. Events that cannot be written raise OSError in one of the next calls.
    """

    def __init__(self, workdir: Path):
        self._folder, self._step = workdir / "tensorboard", 0
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Write] = []
        self._opened: Future[Opened] | None = None

    def begin(self, step: int) -> None:
        """Continues at `step`: later events in the files will be removed. Each process writes those of step 0 anew."""
        self._step = step

    def start(self) -> None:
        """Begins to import TensorFlow and to write the events so far, in a thread, unless that has begun."""
        if self._opened is None:
            self._opened = self._thread.submit(_open, self._folder, self._step, self._waiting)
        elif self._opened.done():
            self._opened.result()  # raises its error

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._opened or (self._waiting and error is None):
                self._write_now(lambda files: files.writer.close())
        except OSError:
            if error is None:  # otherwise `error` is the one to report
                raise
        finally:
            self._thread.shutdown()

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the hyperparameters. Each process does, because some fields may change when a run is resumed."""
        hyperparameters = {field: _hyperparameter(value) for field, value in config.items()}
        self._write(lambda files: files.writer.write_hparams(hyperparameters))

    def complete(self, epochs: list[dict[str, Any]], params: Any) -> None:
        """Writes the finished epochs that are missing from the files; `params` belong to the step that was restored.

        A run may have been killed between an epoch's checkpoint and its events.
        """
        if not epochs:
            return
        restored = {self._step: _sample_all(params)}  # now, because the next step takes their memory

        def write(files: Opened) -> None:
            for epoch in epochs:
                if epoch["step"] not in files.epochs:
                    _write_epoch(files.writer, epoch, restored.get(epoch["step"], {}))

        self._write(write)

    def write_epoch(self, epoch: dict[str, Any], params: Any) -> None:
        """Writes the scalars of a line of metrics.jsonl and a histogram of every parameter."""
        self._write_now(lambda files: _write_epoch(files.writer, epoch, _sample_all(params)))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """`image` is [H, W, 3] uint8."""
        self._write(lambda files: files.writer.write_images(step, {name: image[None]}))

    def write_test(self, step: int, measures: dict[str, float]) -> None:
        self._write_now(lambda files: files.writer.write_scalars(step, measures))

    def _write(self, write: Write) -> None:
        if self._opened is None:
            self._waiting.append(write)
        else:
            self._write_now(write)

    def _write_now(self, write: Write) -> None:
        """Waits until the thread has written the events so far. Warns once if none can be written."""
        self.start()
        assert self._opened
        files = self._opened.result()
        if files.problem:
            advice = "install tensorflow, clu and tensorboard for them, or see metrics.jsonl and figures/"
            _warn_once(f"no TensorBoard events are written: {files.problem}; {advice}")
        else:
            _write_and_flush(files, write)


def _write_and_flush(files: Opened, write: Write) -> None:
    with _as_os_error():
        write(files)
        files.writer.flush()


def _write_epoch(writer: Any, epoch: dict[str, Any], sampled: dict[str, np.ndarray]) -> None:
    writer.write_histograms(epoch["step"], sampled)
    writer.write_scalars(epoch["step"], {name: value for name, value in epoch.items() if name != "step"})


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raises TensorFlow's file errors as OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        message = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)  # without the names of TensorFlow's operations
        raise OSError(f"TensorBoard's events: {message}") from error


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


def _open(folder: Path, step: int, waiting: list[Write]) -> Opened:
    """Opens a clu writer and writes the events that wait for it, after `_cut`."""
    if problem := _import_writers():
        waiting.clear()
        return Opened(None, set(), problem)
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would claim all of its memory
    with _as_os_error():
        epochs = {epoch for file in sorted(folder.glob("*tfevents*")) for epoch in _cut(file, step)}
        files = Opened(metric_writers.SummaryWriter(str(folder)), epochs)
    while waiting:
        _write_and_flush(files, waiting.pop(0))
    return files


def _cut(file: Path, step: int) -> list[int]:
    """Removes from a file the events of step 0, those from `step` on, and a half-written one.

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


def _sample_all(params: Any) -> dict[str, np.ndarray]:
    sampled: dict[str, np.ndarray] = jax.device_get(
        {name: _sample(array) for name, array in flatten_dict(params, sep="/").items()}
    )
    return sampled


def _sample(array: jax.Array) -> jax.Array:
    """All elements of the array, or MAX_HISTOGRAM_SIZE evenly spaced ones: [N]."""
    if array.size <= MAX_HISTOGRAM_SIZE:
        return array.ravel()
    # not every k-th: such a stride shares factors with the kernel's width and would sample only a few units
    return array.ravel()[np.linspace(0, array.size - 1, MAX_HISTOGRAM_SIZE).astype(np.int32)]
