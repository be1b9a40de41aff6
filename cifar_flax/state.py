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
        rng: the seed's key, never changed: epoch and step are folded into its roots.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
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
    model: nn.Module, optimizer: optax.GradientTransformation, rng: Array, image_shape: tuple[int, int, int]
) -> TrainState:
    """The state before the first step, for images [B, *image_shape]. Pure: can be jitted, or only its shapes taken."""
    variables = model.init(split_roots(rng).params, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        rng=rng,
    )


def count_parameters(tree: Any) -> int:
    """Numbers in a tree of arrays (or of their shapes)."""
    return sum(array.size for array in jax.tree.leaves(tree))
