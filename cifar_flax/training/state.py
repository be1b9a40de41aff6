"""Everything that a training step changes, and the seed's way into it."""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array


@flax.struct.dataclass
class TrainState:
    """A run at one step. Saved whole, it is all that is needed to go on to the same numbers.

    Attributes:
        step: finished training steps, int32 scalar.
        params: the trained parameters.
        batch_stats: running statistics of BatchNorm; empty where the model has none.
        opt_state: optax' state.
        average: (params, batch_stats) that `averaging.py` draws the network towards; None where it does not.
        rng: the seed's key, never changed: epoch and step are folded into its roots.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    rng: Array


class Roots(NamedTuple):
    """The seed split once, so that no two uses of randomness ever share a key."""

    params: Array
    permutation: Array
    augmentation: Array
    dropout: Array


def split_roots(rng: Array) -> Roots:
    return Roots(*jax.random.split(rng, len(Roots._fields)))


def create_train_state(
    model: nn.Module, optimizer: optax.GradientTransformation, rng: Array, images: Array, *, averaged: bool = False
) -> TrainState:
    """The state before the first step. Pure: can be jitted, or only its shapes taken.

    Args:
        model: the network.
        optimizer: optax' transformation.
        rng: a jax.random key, the seed's.
        images: [B, H, W, C] uint8, what the network may learn of the training images before its first step, as
            `layers.Normalize` does. Jitted, nothing else is computed of them; for most networks only the shape counts.
        averaged: whether the state has an average.
    """
    variables = model.init(split_roots(rng).params, images.astype(jnp.float32) / 255, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        average=(params, batch_stats) if averaged else None,
        rng=rng,
    )


def count_parameters(tree: Any) -> int:
    """Numbers in a tree of arrays (or of their shapes)."""
    return sum(array.size for array in jax.tree.leaves(tree))
