"""Trains and evaluates on images that stay on the host: only those of the next steps are sent to the devices.

The classes here take the place of the functions in `steps` and `evaluation`, and give the same results to the last bit.
They divide their work into pieces of PIECE_BYTES. While the devices compute one piece, the host gathers the images of
the next, for example from a memory-mapped file. Pieces are split by image: a process of several gathers and sends only
the images of its own devices.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_flax.data import Split
from cifar_flax.training.evaluation import PlacedSplit, evaluate_batch, jit_evaluation
from cifar_flax.training.job import Job
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.sharding import replicated
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import Batch, Carry, train_on

# Of the images of a piece. Large enough to hide the cost of a call, small enough that the first piece of an epoch, for
# which the devices wait, arrives soon. Two pieces are in memory at a time.
PIECE_BYTES = 2**24


class Piece(NamedTuple):
    """The images of S consecutive batches, with the second axis of all arrays split over the devices.

    Attributes:
        images: [S, B, H, W, C] uint8.
        labels: [S, B] int32.
        indices: [S, B] int32, the row of each image in its split.
        first: int32 scalar, the number of the first batch, from the start of the epoch or of the split.
    """

    images: Array
    labels: Array
    indices: Array
    first: np.int32


def keep_split(split: Split) -> PlacedSplit:
    """A split that stays on the host."""
    return PlacedSplit(split.images, split.labels, np.int32(len(split)))


def batches_per_piece(batch_size: int, image_shape: tuple[int, ...]) -> int:
    """As many as PIECE_BYTES hold, but at least one."""
    return max(1, PIECE_BYTES // (batch_size * math.prod(image_shape)))


def abstract_piece(num_batches: int, batch_size: int, image_shape: tuple[int, ...], mesh: Mesh) -> Piece:
    """Shapes, dtypes and shardings of a piece."""
    shape = (num_batches, batch_size)
    abstract: Any = partial(jax.ShapeDtypeStruct, sharding=_by_batch(mesh))
    labels = abstract(shape, jnp.int32)
    return Piece(abstract((*shape, *image_shape), jnp.uint8), labels, labels, np.int32(0))


def gather(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, first: int, mesh: Mesh) -> Piece:
    """Sends the images and labels of rows [S, B] to the devices, and returns before they have arrived."""

    def send(array: np.ndarray) -> Array:
        def part(index: Any) -> np.ndarray:  # of a device of this process
            return np.take(array, rows[index[:2]], axis=0)

        return jax.make_array_from_callback(rows.shape + array.shape[1:], _by_batch(mesh), part)

    indices = jax.make_array_from_callback(rows.shape, _by_batch(mesh), rows.__getitem__)
    return Piece(send(images), send(labels), indices, np.int32(first))


def _by_batch(mesh: Mesh) -> NamedSharding:
    """The second axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


class StreamedSteps:
    """Called, and compiled, as the jitted `train_steps`, with the training set on the host."""

    def __init__(self, job: Job):
        self._job = job
        jit = partial(jax.jit, donate_argnums=(0, 1), out_shardings=replicated(job.mesh))
        self._program: Any = jit(partial(train_piece, job))
        self._length = 0  # batches per piece
        self._order: Array | None = None  # of the current epoch
        self._rows = np.empty((0, job.batch_size), np.int32)  # [steps, B], the same on the host
        self._sent: dict[int, Piece] = {}  # the newest piece, by the number of its first batch

    def lower(
        self, state: TrainState, metrics: Metrics, _order: Any, images: np.ndarray, _labels: np.ndarray, stop: np.int32
    ) -> "StreamedSteps":
        """Lowers the program for arguments of these shapes."""
        self._length = min(batches_per_piece(self._job.batch_size, images.shape[1:]), self._job.steps_per_epoch)
        piece = abstract_piece(self._length, self._job.batch_size, images.shape[1:], self._job.mesh)
        self._program = self._program.lower(state, metrics, np.False_, piece, stop)
        return self

    def compile(self) -> "StreamedSteps":
        self._program = self._program.compile()
        return self

    def as_text(self) -> str:
        """The compiled program."""
        return self._program.as_text() or ""

    def __call__(
        self, state: TrainState, metrics: Metrics, order: Array, images: np.ndarray, labels: np.ndarray, stop: np.int32
    ) -> tuple[TrainState, Metrics, Any]:
        """As `train_steps`, but checks the parameters after each piece. Returns before they are computed."""
        step = int(state.step)
        start = step - step % self._job.steps_per_epoch
        end = start + self._job.steps_per_epoch
        last = min(int(stop), end)
        if order is not self._order:
            self._begin(order)
        diverged: Any = np.False_
        while step < last:
            piece = self._send(step - start, images, labels)
            before, step = diverged, min(last, start + int(piece.first) + self._length)
            state, metrics, diverged = self._program(state, metrics, diverged, piece, np.int32(step))
            jax.block_until_ready(before)  # the piece before the last one: two are in memory at a time
            if step < end:
                self._send(step - start, images, labels)  # for the next piece of this call, or for the next call
        return state, metrics, diverged

    def _begin(self, order: Array) -> None:
        num_used = self._job.steps_per_epoch * self._job.batch_size
        self._order, self._sent = order, {}
        self._rows = np.asarray(order)[:num_used].reshape(-1, self._job.batch_size)

    def _send(self, batch: int, images: np.ndarray, labels: np.ndarray) -> Piece:
        """The piece with this batch of the epoch. It is sent, unless it is the newest one."""
        # the last piece of an epoch overlaps the one before it, because all have the same shape
        first = min(batch // self._length * self._length, len(self._rows) - self._length)
        if first not in self._sent:
            rows = self._rows[first : first + self._length]
            self._sent = {first: gather(images, labels, rows, first, self._job.mesh)}
        return self._sent[first]


def train_piece(job: Job, state: TrainState, metrics: Metrics, diverged: Array, piece: Piece, stop: Array) -> Carry:
    """Trains up to step `stop` (int32 scalar) on the batches of a piece, or not at all if `diverged` (bool scalar)."""

    def batch_of(step: Array) -> Batch:
        row = step - piece.first
        return Batch(*(lax.dynamic_index_in_dim(array, row, keepdims=False) for array in piece[:3]))

    return train_on(job, (state, metrics, diverged), batch_of, stop)


class StreamedEvaluation:
    """Called, and compiled, as the function of `make_evaluate`, with images, labels and logits on the host."""

    def __init__(self, model: nn.Module, *, num_classes: int, batch_size: int, mesh: Mesh, tta: str = "none"):
        self._model, self._num_classes, self._tta = model, num_classes, tta
        self._batch_size, self._mesh = batch_size, mesh
        self._program = jit_evaluation(self._add_piece, mesh)

    def lower(
        self, params: Any, batch_stats: Any, images: np.ndarray, _labels: np.ndarray, num_images: np.int32
    ) -> "StreamedEvaluation":
        """Lowers the program for images of this shape."""
        shape = images.shape[1:]
        piece = abstract_piece(batches_per_piece(self._batch_size, shape), self._batch_size, shape, self._mesh)
        self._program = self._program.lower(params, batch_stats, _no_images(), piece, num_images)
        return self

    def compile(self) -> "StreamedEvaluation":
        self._program = self._program.compile()
        return self

    def __call__(
        self, params: Any, batch_stats: Any, images: np.ndarray, labels: np.ndarray, num_images: np.int32
    ) -> tuple[Metrics, np.ndarray]:
        metrics, logits = _no_images(), []
        length = batches_per_piece(self._batch_size, images.shape[1:])
        rows = np.arange(length * self._batch_size, dtype=np.int32).reshape(length, self._batch_size)
        for first in range(0, -(-int(num_images) // self._batch_size), length):
            numbers = np.minimum(rows + first * self._batch_size, num_images - 1)
            piece = gather(images, labels, numbers, first, self._mesh)
            metrics, computed = self._program(params, batch_stats, metrics, piece, num_images)
            logits.append(computed)
            logits[:-1] = map(np.asarray, logits[:-1])  # waits for the piece before: two are in memory at a time
        return metrics, np.concatenate(list(map(np.asarray, logits)))

    def _add_piece(
        self, params: Any, batch_stats: Any, metrics: Metrics, piece: Piece, num_images: Array
    ) -> tuple[Metrics, Array]:
        """Adds the images of a piece, up to number `num_images` of the split. Also returns the logits [S * B, K]."""
        num_batches, batch_size = piece.labels.shape
        predict = partial(self._model.apply, {"params": params, "batch_stats": batch_stats}, train=False)

        def add_batch(i: Array, carry: tuple[Metrics, Array]) -> tuple[Metrics, Array]:
            metrics, all_logits = carry
            images, labels, _ = (lax.dynamic_index_in_dim(array, i, keepdims=False) for array in piece[:3])
            is_image = (piece.first + i) * batch_size + jnp.arange(batch_size) < num_images
            added, logits = evaluate_batch(predict, images, labels, is_image, self._tta)
            return metrics + added, lax.dynamic_update_slice_in_dim(all_logits, logits, i * batch_size, axis=0)

        num_left = (num_images + batch_size - 1) // batch_size - piece.first
        all_logits = jnp.zeros((num_batches * batch_size, self._num_classes), jnp.float32)
        return lax.fori_loop(0, jnp.minimum(num_left, num_batches), add_batch, (metrics, all_logits))


def _no_images() -> Any:
    """`Metrics.zero`, on the host."""
    return Metrics(loss_sum=np.float32(0), num_correct=np.int32(0), num_images=np.int32(0))  # type: ignore[arg-type]
