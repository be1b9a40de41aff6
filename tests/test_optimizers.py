"""The optimizers and schedules by name, against optax' own and numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_flax.optimizers import make_optimizer

PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
GRADS = {"kernel": jnp.array([[0.5, 1e-6]]), "bias": jnp.array([-4.0])}


def updates(optimizer, steps):
    """The update of each step, at constant gradients."""
    state, every = optimizer.init(PARAMS), []
    for _ in range(steps):
        update, state = optimizer.update(GRADS, state, PARAMS)
        every.append(update)
    return every


def test_adam_is_optax_adam_with_keras_epsilon():
    ours, expected = (
        updates(optimizer, 3)
        for optimizer in (make_optimizer("adam", 1e-3, "constant", 0.0, 10), optax.adam(1e-3, eps=1e-7))
    )
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a["kernel"], b["kernel"])
        np.testing.assert_array_equal(a["bias"], b["bias"])
    # a gradient of 1e-6 shows the epsilon: 1e-6 / (1e-6 + 1e-7)
    assert float(ours[0]["kernel"][0, 1]) == pytest.approx(-1e-3 / 1.1, rel=1e-4)


def test_rmsprop_is_that_of_keras():
    """The mean square after n steps at a gradient g is (1 - 0.9^n) g^2; Keras adds its epsilon below the root."""
    for n, update in enumerate(updates(make_optimizer("rmsprop", 1e-3, "constant", 0.0, 10), 3), 1):
        for gradient, step in ((0.5, update["kernel"][0, 0]), (1e-6, update["kernel"][0, 1])):
            mean_square = (1 - 0.9**n) * gradient**2
            assert float(step) == pytest.approx(-1e-3 * gradient / np.sqrt(mean_square + 1e-7), rel=1e-4)


def test_sgd_has_nesterov_momentum():
    """With momentum m the first steps are -lr g (1 + m) and -lr g (1 + m + m^2)."""
    first, second = updates(make_optimizer("sgd", 0.1, "constant", 0.0, 10), 2)
    assert float(first["bias"][0]) == pytest.approx(0.4 * 1.9)
    assert float(second["bias"][0]) == pytest.approx(0.4 * (1.9 + 0.81))


def test_the_cosine_ends_at_the_last_step():
    steps = updates(make_optimizer("adam", 1e-3, "cosine", 0.0, 4), 5)
    rates = [abs(float(step["bias"][0])) for step in steps]  # Adam's step at a constant gradient is the rate
    np.testing.assert_allclose(rates, 1e-3 * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, rtol=1e-5, atol=1e-9)


def test_weight_decay_is_decoupled_and_spares_biases():
    plain, decayed = (updates(make_optimizer("adam", 0.1, "constant", decay, 10), 1)[0] for decay in (0.0, 0.5))
    np.testing.assert_allclose(decayed["kernel"] - plain["kernel"], -0.1 * 0.5 * PARAMS["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
