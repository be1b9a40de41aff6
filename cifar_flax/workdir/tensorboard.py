"""TensorBoard's events, below a workdir's `tensorboard/`, through clu: each once, however often a run was killed."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cifar_flax.workdir.atomic import replacing

HISTOGRAM_SIZE = 100_000  # numbers that show a distribution; AlexNet's millions would cost seconds an epoch
MARK = "train_loss"  # a scalar that every epoch has


class TensorBoard:
    """Events of one run; silent where TensorFlow is not installed.

    clu's writers import TensorFlow, which takes seconds: a thread does it while the programs are compiled, and the
    first event waits for it. Events that cannot be written raise OSError.
    """

    def __init__(self, workdir: Path, step: int):
        """Goes on after `step`: events from there on, of a run that was killed, are taken out of the files first."""
        self._step = step
        self._opening = ThreadPoolExecutor(1)
        self._opened = self._opening.submit(_open, workdir / "tensorboard", step)

    @property
    def _writer(self) -> Any:
        return self._opened.result()[0]

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _as_os_error():
                if self._writer:
                    self._writer.close()
        except OSError:
            if error is None:  # else that is what is to be reported
                raise
        finally:
            self._opening.shutdown()

    def write_config(self, config: dict[str, Any]) -> None:
        if self._writer:
            with _as_os_error():
                self._writer.write_hparams({field: "" if value is None else value for field, value in config.items()})

    def complete(self, epochs: list[dict[str, Any]], params: Any) -> None:
        """Writes those of the finished epochs that the files lack; `params` are those of the step to go on from.

        A run may have been killed between an epoch's checkpoint and its events.
        """
        for epoch in epochs:
            if epoch["step"] not in self._opened.result()[1]:
                self.write_epoch(epoch, params if epoch["step"] == self._step else {})

    def write_epoch(self, epoch: dict[str, Any], params: Any) -> None:
        """The scalars of a line of metrics.jsonl, and a histogram of every parameter (of evenly spread ones)."""
        if self._writer:
            step = epoch["step"]
            sampled = {name: _spread(array) for name, array in flatten_dict(params, sep="/").items()}
            with _as_os_error():
                self._writer.write_histograms(step, jax.device_get(sampled))
                self._writer.write_scalars(step, {name: value for name, value in epoch.items() if name != "step"})
                self._writer.flush()

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """`pixels` is [1, H, W, 3] uint8."""
        if self._writer:
            with _as_os_error():
                self._writer.write_images(step, {name: pixels})
                self._writer.flush()

    def write_test(self, step: int, measures: dict[str, float]) -> None:
        if self._writer:
            with _as_os_error():
                self._writer.write_scalars(step, measures)
                self._writer.flush()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """TensorFlow's errors of files as Python's."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"TensorBoard's events: {error.message}") from error


def _open(folder: Path, step: int) -> tuple[Any, set[int]]:
    """A writer of clu, and the steps whose epochs are in the files; (None, empty) where TensorFlow is not installed."""
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:
        print(f"no TensorBoard events are written: {error}", file=sys.stderr)
        return None, set()
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the whole accelerator
    with _as_os_error():
        recorded = [epoch for file in sorted(folder.glob("*tfevents*")) for epoch in _cut(file, step)]
        return metric_writers.SummaryWriter(str(folder)), set(recorded)


def _cut(file: Path, step: int) -> list[int]:
    """Takes the events from `step` on out of a file, and what is half written; the steps of the epochs that stay."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = [(record, Event.FromString(record)) for record in RawEventFileLoader(str(file)).Load()]
    # the first record is the format's version, which is of step 0
    kept = [(record, event) for record, event in records if event.step < step or event.HasField("file_version")]
    with replacing(file) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for record, _ in kept:
                writer.write(record)
        os.utime(temporary, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    return [event.step for _, event in kept for value in event.summary.value if value.tag == MARK]


def _spread(array: jax.Array) -> jax.Array:
    """All of the array's numbers, or HISTOGRAM_SIZE of them spread evenly over it: [N]."""
    if array.size <= HISTOGRAM_SIZE:
        return array.ravel()
    # not every k-th: such a stride shares factors with a kernel's width and would meet the same few units again
    return array.ravel()[np.linspace(0, array.size - 1, HISTOGRAM_SIZE).astype(np.int32)]
