"""What a run writes beside its checkpoints: config.json, run.json, metrics.jsonl and TensorBoard's events."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput, Diverged, Interrupted

HISTOGRAM_SIZE = 100_000  # numbers that show a distribution; AlexNet's millions would cost seconds an epoch
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class Records:
    """The text files of a workdir. Each is written under another name and renamed, so none is ever half there."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.run: dict[str, Any] = self._read("run.json")
        self.config: dict[str, Any] = self._read("config.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.workdir / name
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise BadInput(f"--workdir: {path} cannot be read ({error}); choose another workdir") from error
        if not isinstance(stored, dict):
            raise BadInput(f"--workdir: {path} is damaged: not a JSON object; choose another workdir")
        return stored

    def begin(self, config: ConfigDict, fields: dict[str, Any]) -> None:
        """Makes the workdir, writes config.json and begins run.json anew with these fields."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self.config = config.to_dict()
            _write(self.workdir / "config.json", json.dumps(self.config, indent=2) + "\n")
        except OSError as error:
            raise BadInput(f"--workdir: {self.workdir} cannot be written ({error.strerror}); choose another") from error
        self.run = fields

    def update(self, **fields: Any) -> None:
        """Sets fields of run.json."""
        self.run |= fields
        _write(self.workdir / "run.json", json.dumps(self.run, indent=2, allow_nan=False) + "\n")

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """metrics.jsonl, a line per epoch, as a whole: what a checkpoint does not know of is cut off."""
        lines = "".join(json.dumps(epoch, allow_nan=False) + "\n" for epoch in epochs)
        _write(self.workdir / "metrics.jsonl", lines)

    @contextmanager
    def status(self) -> Iterator[None]:
        """Keeps run.json's `status`: running, and then how the block ended, with the `reason` if it failed.

        The block itself sets it to done.
        """
        self.update(status="running")
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            self.update(status="interrupted")
            raise
        except Diverged as error:
            self.update(status="diverged", reason=str(error))
            raise
        except BaseException as error:
            self.update(status="failed", reason=f"{type(error).__name__}: {error}")
            raise


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def environment(devices: list[jax.Device]) -> dict[str, Any]:
    """On what a run is computed, in run.json's fields."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    """The commit of this code, with -dirty where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _spread(array: jax.Array) -> jax.Array:
    """All of the array's numbers, or HISTOGRAM_SIZE of them spread evenly over it: [N]."""
    if array.size <= HISTOGRAM_SIZE:
        return array.ravel()
    # not every k-th: such a stride shares factors with a kernel's width and would meet the same few units again
    return array.ravel()[np.linspace(0, array.size - 1, HISTOGRAM_SIZE).astype(np.int32)]


class TensorBoard:
    """Events below a workdir's `tensorboard/`, through clu; silent where TensorFlow is not installed."""

    def __init__(self, workdir: Path):
        # imported here because clu's writers import TensorFlow, which takes seconds
        try:
            import tensorflow as tf
            from clu import metric_writers
        except ImportError as error:
            print(f"no TensorBoard events are written: {error}", file=sys.stderr)
            self._writer = None
        else:
            tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the whole accelerator
            self._writer = metric_writers.SummaryWriter(str(workdir / "tensorboard"))

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    def write_config(self, config: dict[str, Any]) -> None:
        if self._writer:
            self._writer.write_hparams({field: "" if value is None else value for field, value in config.items()})

    def write_epoch(self, epoch: dict[str, Any], params: Any) -> None:
        """The scalars of a line of metrics.jsonl, and a histogram of every parameter (of evenly spread ones)."""
        if self._writer:
            step = epoch["step"]
            self._writer.write_scalars(step, {name: value for name, value in epoch.items() if name != "step"})
            sampled = {name: _spread(array) for name, array in flatten_dict(params, sep="/").items()}
            self._writer.write_histograms(step, jax.device_get(sampled))
            self._writer.flush()

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """`pixels` is [1, H, W, 3] uint8."""
        if self._writer:
            self._writer.write_images(step, {name: pixels})
            self._writer.flush()

    def write_test(self, step: int, loss: float, accuracy: float) -> None:
        if self._writer:
            self._writer.write_scalars(step, {"test_loss": loss, "test_accuracy": accuracy})
            self._writer.flush()
