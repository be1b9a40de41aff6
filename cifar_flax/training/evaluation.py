"""One pass over a split, compiled: each image is counted exactly once."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from cifar_flax.data import Split
from cifar_flax.ops.xla_options import evaluation_options
from cifar_flax.training.metrics import Metrics, cross_entropy
from cifar_flax.training.sharding import place, replicated, split_by_image
from cifar_flax.training.tta import TTA


class PlacedSplit(NamedTuple):
    """A split on the devices, padded with zeros; or on the host, not padded, for the functions of `streaming`.

    Attributes:
        images: [N, H, W, C] uint8.
        labels: [N] int32.
        num_images: the first `num_images` rows are images, the rest is padding.
    """

    images: Array | np.ndarray
    labels: Array | np.ndarray
    num_images: np.int32


def place_split(split: Split, num_rows: int, mesh: Mesh) -> PlacedSplit:
    """Copies a split to the devices, padded to `num_rows`. On CPUs, memory-mapped images are used without a copy."""
    padding = num_rows - len(split)
    images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else split.images
    images, labels = place((images, np.pad(split.labels, (0, padding))), replicated(mesh))
    return PlacedSplit(images, labels, np.int32(len(split)))


def make_evaluate(model: nn.Module, *, num_classes: int, batch_size: int, mesh: Mesh, tta: str = "none") -> Any:
    """The jitted function `evaluate(params, batch_stats, images, labels, num_images) -> (Metrics, logits)`.

    It counts each of the first `num_images` (int32 scalar) of images [N, H, W, C] uint8 exactly once; the last batch
    is padded and masked. Of the logits [M, num_classes] float32, the first `num_images` rows are valid. One
    compilation serves all splits that are padded to the same N. `tta` is a key of `tta.TTA`.
    """

    def evaluate(
        params: Any, batch_stats: Any, images: Array, labels: Array, num_images: Array
    ) -> tuple[Metrics, Array]:
        def add_batch(i: Array, carry: tuple[Metrics, Array]) -> tuple[Metrics, Array]:
            metrics, all_logits = carry
            indices = i * batch_size + jnp.arange(batch_size)
            rows = jnp.minimum(indices, num_images - 1)
            added, logits = evaluate_batch(
                partial(model.apply, {"params": params, "batch_stats": batch_stats}, train=False),
                lax.with_sharding_constraint(images[rows], split_by_image(mesh)),
                labels[rows],
                indices < num_images,
                tta,
            )
            return metrics + added, lax.dynamic_update_slice_in_dim(all_logits, logits, i * batch_size, axis=0)

        num_batches = (num_images + batch_size - 1) // batch_size
        all_logits = jnp.zeros((-(-images.shape[0] // batch_size) * batch_size, num_classes), jnp.float32)
        return lax.fori_loop(0, num_batches, add_batch, (Metrics.zero(), all_logits))

    return jit_evaluation(evaluate, mesh)


def jit_evaluation(evaluate: Callable[..., Any], mesh: Mesh) -> Any:
    """Jits a function for evaluation on the devices of the mesh, with its own options for XLA."""
    options = evaluation_options(mesh.devices.flat[0].platform)
    return jax.jit(evaluate, out_shardings=replicated(mesh), compiler_options=options)


def evaluate_batch(
    predict: Callable[[Array], Any], images: Array, labels: Array, mask: Array, tta: str
) -> tuple[Metrics, Array]:
    """The sums over a batch and its logits [B, K] float32.

    Args:
        predict: the network, called with images [B, H, W, C] float32 in [0, 1].
        images: [B, H, W, C] uint8.
        labels: [B] int32.
        mask: [B] bool, whether an image counts.
        tta: a key of `tta.TTA`.
    """
    # XLA must neither fuse what follows with where the images come from, nor move it out of a loop: that could change
    # how it is rounded
    images, labels, mask = lax.optimization_barrier((images, labels, mask))
    batch = images.astype(jnp.float32) / 255
    logits = TTA[tta](predict, batch)
    return Metrics.from_batch(cross_entropy(logits, labels), logits, labels, mask), logits


class Evaluation(NamedTuple):
    """The result of one pass over a split.

    Attributes:
        loss: mean over all images, in nats.
        accuracy: in [0, 1].
        predicted: classes [N] int32.
        logits: [N, num_classes] float32.
    """

    loss: float
    accuracy: float
    predicted: np.ndarray
    logits: np.ndarray


def evaluate_split(evaluate: Any, network: Any, split: PlacedSplit) -> Evaluation:
    """Runs a function of `make_evaluate` on a split.

    Args:
        evaluate: the function, compiled or not.
        network: an object with `params` and `batch_stats`: a TrainState or a Classifier.
        split: the images.
    """
    metrics, logits = evaluate(network.params, network.batch_stats, *split)
    count = int(split.num_images)
    if int(metrics.num_images) != count:
        raise AssertionError(f"evaluation counted {int(metrics.num_images)} of {count} images")
    loss, accuracy = metrics.means()
    logits = np.asarray(logits)[:count]
    return Evaluation(loss, accuracy, logits.argmax(-1).astype(np.int32), logits)
