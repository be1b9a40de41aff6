"""One run over several processes, conducted by process 0.

Process 0 runs the training loop as a single process does. Before it calls one of the compiled functions, it tells the
others which one and with what, and all call it at the same time. So nothing that processes could see differently, such
as a clock, a signal or a file, is decided twice.

What the loop of process 0 holds, such as the state, is a copy on its own devices of what all processes hold. A state
that the others do not have, such as a restored one, is sent to them bit by bit.
"""

import json
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from cifar_flax.random_keys import as_data, with_keys
from cifar_flax.training.job import Job
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import place, replicated
from cifar_flax.training.state import TrainState

BLOCK_SIZE = 1024  # bytes of a message that are exchanged at once
FUNCTIONS = ("epoch_order", "train_steps", "evaluate", "evaluate_tta")  # of Programs
SPLITS = ("train", "validation", "test")


def gather(message: Any) -> list[Any]:
    """The messages of all processes, which JSON must be able to hold, in the order of the processes.

    All processes must call it; it waits for the last one.
    """
    rest, received, is_unfinished = json.dumps(message).encode(), [b""] * jax.process_count(), True
    while is_unfinished:
        block, rest = rest[:BLOCK_SIZE], rest[BLOCK_SIZE:]
        header = np.array([len(block), bool(rest)], np.uint16).view(np.uint8)
        row = np.concatenate([header, np.frombuffer(block.ljust(BLOCK_SIZE, b" "), np.uint8)])
        rows = np.asarray(multihost_utils.process_allgather(row)).reshape(len(received), -1)
        lengths, unfinished = np.ascontiguousarray(rows[:, : header.size]).view(np.uint16).T
        blocks = [row[header.size :][:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
        received = [start + block for start, block in zip(received, blocks, strict=True)]
        is_unfinished = unfinished.any()
    return [json.loads(text) for text in received]


def send(tree: Any, like: Any, job: Job) -> Any:
    """Copies the arrays of process 0 to all devices of all processes. All processes must call it.

    Args:
        tree: the arrays; ignored in the other processes.
        like: a tree of arrays or of `jax.ShapeDtypeStruct` of the same shapes and dtypes.
        job: of the run.
    """
    shapes, structure = jax.tree.flatten(jax.eval_shape(as_data, like))
    if not shapes:  # the statistics of a network without BatchNorm
        return jax.tree.unflatten(structure, [])
    ends = np.cumsum([shape.size * shape.dtype.itemsize for shape in shapes])
    if jax.process_index() == 0:
        leaves = jax.tree.leaves(jax.device_get(as_data(tree)))
        content = np.concatenate([np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves])
    else:
        content = np.zeros(ends[-1], np.uint8)
    # as bytes, because the broadcast adds zeros to what it sends, which would turn -0.0 into 0.0
    content = np.array(multihost_utils.broadcast_one_to_all(content))
    parts = np.split(content, ends[:-1])
    leaves = [part.view(shape.dtype).reshape(shape.shape) for part, shape in zip(parts, shapes, strict=True)]
    return with_keys(place(jax.tree.unflatten(structure, leaves), replicated(job.mesh)), like)


class SharedArrays:
    """The arrays that all processes hold, by name: the splits, the order of the epoch, the state and the metrics."""

    def __init__(self, programs: Any):
        self._shared = {f"{name}.{field}": array for name in SPLITS for field, array in _fields(programs, name)}
        self._own = dict(self._shared)  # the same as the loop of process 0 has them

    def __getitem__(self, name: str) -> Any:
        return self._shared[name]

    def name_of(self, argument: Any) -> str | None:
        """The name of what the loop of process 0 passes to a function; None if only process 0 has it."""
        return next((name for name, own in self._own.items() if own is argument), None)

    def keep(self, function: str, outputs: Any) -> Any:
        """Keeps the outputs of a function. Returns them as the loop of process 0 gets them."""
        own = jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, outputs)
        self._shared |= _named(function, outputs)
        self._own |= _named(function, own)
        return own


def _fields(programs: Any, split: str) -> list[tuple[str, Any]]:
    return [(field, getattr(getattr(programs, split), field)) for field in ("images", "labels")]


def _named(function: str, outputs: Any) -> dict[str, Any]:
    """What later calls may be given, by name."""
    if function == "epoch_order":
        return {"order": outputs}
    if function == "train_steps":
        state, metrics, _ = outputs
        named = {name: getattr(state, name) for name in ("rng", "params", "batch_stats")}
        return {"state": state, "metrics": metrics, **named}
    return {}


class Conducted:
    """A function of process 0 that is called in all processes."""

    def __init__(self, name: str, function: Any, shared: SharedArrays, job: Job):
        self._name, self._function, self._shared, self._job = name, function, shared, job

    def __call__(self, *arguments: Any) -> Any:
        described = [
            int(value) if isinstance(value, np.integer) else self._shared.name_of(value) for value in arguments
        ]
        gather({"function": self._name, "arguments": described})
        values = [
            _value(what, argument, argument, self._shared, self._job)
            for what, argument in zip(described, arguments, strict=True)
        ]
        return self._shared.keep(self._name, self._function(*values))

    def as_text(self) -> str:
        """The text of the compiled function, for profiles."""
        return self._function.as_text()


def conducted(programs: Any, job: Job) -> Any:
    """The `Programs` of process 0, with functions that are called in all processes."""
    shared = SharedArrays(programs)
    functions = {name: getattr(programs, name) for name in FUNCTIONS}
    return programs._replace(
        **{name: function and Conducted(name, function, shared, job) for name, function in functions.items()}
    )


def follow(programs: Any, job: Job, state: TrainState, metrics: Metrics) -> NoReturn:
    """Calls in this process what process 0 calls, until the process is ended.

    Args:
        programs: the compiled functions and the images, as in process 0.
        job: of the run.
        state: its shapes and dtypes.
        metrics: their shapes and dtypes.
    """
    shared = SharedArrays(programs)
    network = (state.params, state.batch_stats)
    shapes: dict[str, tuple[Any, ...]] = {
        "epoch_order": (state.rng,),
        "train_steps": (state, metrics),
        "evaluate": network,
        "evaluate_tta": network,
    }
    while True:
        message = gather(None)[0]
        name, described = message["function"], message["arguments"]
        like = [*shapes[name], *[None] * len(described)]
        values = [_value(what, None, like[i], shared, job) for i, what in enumerate(described)]
        shared.keep(name, getattr(programs, name)(*values))


def _value(described: str | int | None, argument: Any, like: Any, shared: SharedArrays, job: Job) -> Any:
    """An argument in all processes: a number, an array that all have, or one that process 0 sends."""
    if isinstance(described, int):
        return np.int32(described)
    return send(argument, like, job) if described is None else shared[described]
