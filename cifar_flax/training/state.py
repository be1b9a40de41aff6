"""What a training step changes, and the random keys of a run."""

from typing import Any, NamedTuple

import flax.struct
import jax
from jax import Array


@flax.struct.dataclass
class TrainState:
    """Everything that determines the following steps of a run.

    Attributes:
        step: number of finished training steps, int32 scalar.
        params: the trained parameters.
        batch_stats: BatchNorm's running statistics and other untrained arrays; empty if the model has none.
        opt_state: the optimizer's state.
        average: the averaged (params, batch_stats) of `averaging.py`; None without averaging.
        rng: the key of the run's seed. It never changes: epoch and step are folded into the keys derived from it.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    rng: Array


class RngKeys(NamedTuple):
    """One key for each use of randomness, so that no two uses share a key."""

    params: Array
    permutation: Array
    augmentation: Array
    dropout: Array


def split_rng(rng: Array) -> RngKeys:
    return RngKeys(*jax.random.split(rng, len(RngKeys._fields)))


def count_parameters(tree: Any) -> int:
    """Number of elements in a tree of arrays or of their shapes."""
    return sum(array.size for array in jax.tree.leaves(tree))
