"""Reads the records of a run, compares two runs, and interrupts a run with a signal."""

import json
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from cifar_flax.reporting import console
from cifar_flax.workdir import checkpoints

TIMING_FIELDS = {"epoch_seconds", "images_per_second"}
ONE_DEVICE = jax.devices()[:1]


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING_FIELDS} for line in lines]


def run_of(workdir):
    return json.loads((workdir / "run.json").read_text())


def final_arrays(workdir, kind="latest"):
    """The arrays of the newest checkpoint (or of the best one, with `kind="best"`) by their path, as stored."""
    with checkpoints.Checkpoints(workdir) as stored:
        as_stored = ocp.args.Composite(arrays=ocp.args.StandardRestore())
        manager = getattr(stored, kind)
        tree = manager.restore(manager.latest_step(), args=as_stored)["arrays"]
    flat = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(jax.random.key_data(x) if "key" in str(x.dtype) else x)
        for path, x in flat
    }


def assert_same_run(workdir, other):
    assert metrics_of(workdir) == metrics_of(other)
    a, b = final_arrays(workdir), final_arrays(other)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
    for field in ("test_loss", "test_accuracy", "best_epoch", "best_validation_loss"):
        assert run_of(workdir)[field] == run_of(other)[field]


def events_of(workdir, tag):
    """(step, value) of all events with this tag, from all event files of a workdir in order of modification.

    Skips the test if there is no TensorFlow to write them with.
    """
    pytest.importorskip("tensorflow")
    files = sorted((workdir / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    accumulators = [EventAccumulator(str(file)).Reload() for file in files]
    events = [event for stored in accumulators if tag in stored.Tags()["tensors"] for event in stored.Tensors(tag)]
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).tolist()) for event in events]


def interrupt_after(monkeypatch, num_updates, signal_number=signal.SIGTERM):
    """Sends this process a signal after a number of progress updates. With chunks of one step, each is one step."""
    update = console.EpochProgress.update
    updates = []

    def counting(self, *arguments):
        update(self, *arguments)
        updates.append(None)
        if len(updates) == num_updates:
            signal.raise_signal(signal_number)

    monkeypatch.setattr(console.EpochProgress, "update", counting)
