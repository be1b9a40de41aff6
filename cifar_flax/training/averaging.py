"""An average of the network that is written back into it while it trains.

Every few steps parameters and running statistics are drawn towards their average, the more the further the run is:
`average = d average + (1 - d) network; network = average`, with `d = decay^every (t / T)^3` in step t of T. At first
the network goes its own way, in the end it follows its average. It is the Lookahead of Zhang et al., 2019, as in
Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.4.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from cifar_flax.training.state import TrainState

Averaging = Callable[[TrainState], TrainState]


def keep(state: TrainState) -> TrainState:
    """The state as it is."""
    return state


def make_averaging(config: ConfigDict, num_steps: int) -> Averaging:
    """What is done to the state after each step: with `config.average_every` 0, nothing.

    In the last step the network becomes its average, which then knows nothing of the steps since it was last drawn.
    """
    every, decay = config.average_every, config.average_decay
    if not every:
        return keep

    def average(state: TrainState) -> TrainState:
        share = decay**every * (state.step / num_steps) ** 3
        network = state.params, state.batch_stats
        mean = _towards(state.average, network, jnp.where(state.step == num_steps, 1.0, share))
        params, batch_stats = mean
        return replace(state, params=params, batch_stats=batch_stats, average=mean)

    def averaging(state: TrainState) -> TrainState:
        due = (state.step % every == 0) | (state.step == num_steps)
        return lax.cond(due, average, keep, state)

    return averaging


def _towards(average: Any, network: Any, share: Array) -> Any:
    """`share` of the average and the rest of the network."""
    return jax.tree.map(lambda a, n: n + share * (a - n), average, network)
