"""What a run left behind, as tests compare it; and a signal in the middle of one."""

import json
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from cifar_flax.reporting import console
from cifar_flax.workdir import checkpoints

TIMING = {"epoch_seconds", "images_per_second"}
ONE = jax.devices()[:1]


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def run_of(workdir):
    return json.loads((workdir / "run.json").read_text())


def final_arrays(workdir, kind="latest"):
    """The arrays of the newest checkpoint, or of the best one, by their path, as stored."""
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
    """(step, value) of a scalar, over all event files of a workdir in their order."""
    files = sorted((workdir / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    every = [EventAccumulator(str(file)).Reload() for file in files]
    found = [event for events in every if tag in events.Tags()["tensors"] for event in events.Tensors(tag)]
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).tolist()) for event in found]


def interrupt_after(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal when so many steps of the run are done."""
    update = console.EpochProgress.update
    done = []

    def counting(self, *arguments):
        update(self, *arguments)
        done.append(None)
        if len(done) == step:
            signal.raise_signal(number)

    monkeypatch.setattr(console.EpochProgress, "update", counting)
