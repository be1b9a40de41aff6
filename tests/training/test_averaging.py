"""Weight averaging, against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.config import base_config
from cifar_flax.training.averaging import make_averaging
from cifar_flax.training.state import TrainState


def state_at(step, network, average):
    """A state whose parameter and statistic both equal `network`, and whose averages equal `average`."""
    params, batch_stats = {"w": jnp.array([float(network)])}, {"m": jnp.array([float(network)])}
    mean = {"w": jnp.array([float(average)])}, {"m": jnp.array([float(average)])}
    return TrainState(jnp.int32(step), params, batch_stats, {"moment": jnp.zeros(1)}, mean, jax.random.key(0))


def averaged(step, network=1.0, average=0.0, num_steps=20, average_every=5):
    config = base_config()
    config.update(average_every=average_every, average_decay=0.95)
    state = jax.jit(make_averaging(config, num_steps))(state_at(step, network, average))
    values = [state.params["w"], state.batch_stats["m"], state.average[0]["w"], state.average[1]["m"]]
    assert int(state.step) == step
    return [float(value[0]) for value in values]


@pytest.mark.parametrize("step", [5, 10, 15])
def test_network_and_average_become_their_weighted_mean(step):
    weight = 0.95**5 * (step / 20) ** 3
    np.testing.assert_allclose(averaged(step), [1 - weight] * 4, rtol=1e-6)


@pytest.mark.parametrize("step", [1, 4, 6, 19])
def test_state_is_unchanged_between_averaging_steps(step):
    assert averaged(step) == [1, 1, 0, 0]


def test_network_is_the_average_after_the_last_step():
    """Even if `average_every` does not divide the number of steps."""
    assert averaged(20) == [0] * 4
    assert averaged(23, num_steps=23) == [0] * 4


def test_averaging_of_equal_values_is_exact():
    value = float(np.float32(0.4734))
    assert averaged(15, network=value, average=value) == [value] * 4


def test_averaging_is_off_by_default():
    assert make_averaging(base_config(), 20) is None
