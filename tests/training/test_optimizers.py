"""Optimizers and schedules, against optax and values computed by hand."""

import copy
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_flax.cli.experiment import load_experiment
from cifar_flax.config import base_config
from cifar_flax.training.optimizers import SCHEDULES, make_optimizer, make_schedule, update_in_one_pass, with_frozen

PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
GRADS = {"kernel": jnp.array([[0.5, 1e-6]]), "bias": jnp.array([-4.0])}


def base(**fields):
    config = base_config()
    config.update(fields)
    return config


def optimizer(num_steps, **fields):
    return make_optimizer(base(**fields), num_steps, steps_per_epoch=1)


def updates(transformation, steps):
    """The updates of the first steps with constant gradients."""
    state, all_updates = transformation.init(PARAMS), []
    for _ in range(steps):
        update, state = transformation.update(GRADS, state, PARAMS)
        all_updates.append(update)
    return all_updates


def test_adam_matches_optax_adam_with_the_epsilon_of_keras():
    adam, expected = (
        updates(transformation, 3)
        for transformation in (optimizer(10, optimizer="adam", learning_rate=1e-3), optax.adam(1e-3, eps=1e-7))
    )
    for a, b in zip(adam, expected, strict=True):
        np.testing.assert_array_equal(a["kernel"], b["kernel"])
        np.testing.assert_array_equal(a["bias"], b["bias"])
    # a gradient of 1e-6 reveals the epsilon: 1e-6 / (1e-6 + 1e-7)
    assert float(adam[0]["kernel"][0, 1]) == pytest.approx(-1e-3 / 1.1, rel=1e-4)


def test_rmsprop_matches_keras_rmsprop():
    """After n steps with gradient g the mean square is (1 - 0.9^n) g^2; Keras adds epsilon under the root."""
    for n, update in enumerate(updates(optimizer(10, optimizer="rmsprop", learning_rate=1e-3), 3), 1):
        for gradient, step in ((0.5, update["kernel"][0, 0]), (1e-6, update["kernel"][0, 1])):
            mean_square = (1 - 0.9**n) * gradient**2
            assert float(step) == pytest.approx(-1e-3 * gradient / np.sqrt(mean_square + 1e-7), rel=1e-4)


def test_sgd_has_nesterov_momentum():
    """With momentum m, the first steps are -lr g (1 + m) and -lr g (1 + m + m^2)."""
    first, second = updates(optimizer(10, optimizer="sgd", learning_rate=0.1), 2)
    assert float(first["bias"][0]) == pytest.approx(0.4 * 1.9)
    assert float(second["bias"][0]) == pytest.approx(0.4 * (1.9 + 0.81))


def test_cosine_schedule_ends_at_the_last_step():
    steps = updates(optimizer(4, schedule="cosine"), 5)
    rates = [abs(float(step["bias"][0])) for step in steps]  # with a constant gradient, Adam's step is the rate
    np.testing.assert_allclose(rates, 1e-3 * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, rtol=1e-5, atol=1e-9)


def test_learning_rate_warms_up_and_then_follows_the_schedule():
    """It rises from a fifth of the peak in 4 of 10 steps and falls to a tenth of the peak in the other 6."""
    fields = {"schedule": "linear", "learning_rate": 0.5, "warmup": 0.4, "start_scale": 0.2, "end_scale": 0.1}
    steps = updates(optimizer(10, **fields), 11)
    rates = [abs(float(step["bias"][0])) for step in steps]
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.425, 0.35, 0.275, 0.2, 0.125, 0.05]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_warmup_works_with_all_schedules_and_may_last_the_complete_run():
    for schedule in SCHEDULES:
        rates = [make_schedule(base(schedule=schedule, warmup=warmup), 4)(0) for warmup in (0.0, 0.5, 1.0)]
        np.testing.assert_allclose(rates, [1e-3, 0, 0], rtol=1e-5)


def test_weight_decay_of_adam_is_decoupled_and_skips_biases():
    plain, decayed = (updates(optimizer(10, learning_rate=0.1, weight_decay=decay), 1)[0] for decay in (0.0, 0.5))
    np.testing.assert_allclose(decayed["kernel"] - plain["kernel"], -0.1 * 0.5 * PARAMS["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])


def test_weight_decay_of_sgd_is_added_to_all_gradients():
    """As in torch.optim.SGD(nesterov=True), whose first step is -lr (1 + m) (g + decay p)."""
    first = updates(optimizer(10, optimizer="sgd", momentum=0.85, learning_rate=0.1, weight_decay=0.5), 1)[0]
    for name, params in PARAMS.items():
        np.testing.assert_allclose(first[name], -0.1 * 1.85 * (GRADS[name] + 0.5 * params), rtol=1e-5)


# fields of config and the arrays that an update of one parameter writes
UPDATES = {
    "adam": ({"optimizer": "adam", "weight_decay": 0.1}, 3),
    "rmsprop": ({"optimizer": "rmsprop", "weight_decay": 0.1}, 2),
    "sgd": ({"optimizer": "sgd", "momentum": 0.85, "weight_decay": 0.1}, 2),
    "frozen": ({"optimizer": "adam", "weight_decay": 0.1, "frozen_epochs": 5.0}, 3),
}


def random_arrays(shape, transformation):
    """The gradient, the optimizer state and the parameter of one kernel, after an update from random values."""
    keys = jax.random.split(jax.random.key(0), 3)
    params, earlier, grads = ({"conv1": {"kernel": jax.random.normal(key, shape)}} for key in keys)
    return grads, transformation.update(earlier, transformation.init(params), params)[1], params


@pytest.mark.parametrize("name", UPDATES)
def test_update_is_compiled_to_one_pass_over_memory(name):
    """One fusion writes the parameter and its moments, and nothing else writes an array of their shape.

    This holds only if jaxlib knows the option `xla_cpu_use_multi_output_fusion`, which the tests and the
    commands set, and if it keeps the two computations of `update_in_one_pass` apart up to fusion.
    """
    fields, num_arrays = UPDATES[name]
    transformation = optimizer(10, **fields)
    update = jax.jit(partial(update_in_one_pass, transformation), donate_argnums=(1, 2))
    text = update.lower(*random_arrays((256, 384), transformation)).compile().as_text()
    entry = text[text.index("\nENTRY ") :]
    written = [
        (operation, result.count("f32[256,384]"))
        for result, operation in re.findall(r" = (\(.*?\)|\S+) ([a-z-]+)\(", entry)
        if "f32[256,384]" in result and operation not in ("parameter", "get-tuple-element", "tuple")
    ]
    assert written == [("fusion", num_arrays)]


@pytest.mark.parametrize("name", UPDATES)
def test_update_in_one_pass_has_the_bits_of_a_single_update(name):
    transformation = optimizer(10, **UPDATES[name][0])
    arrays = random_arrays((64, 48), transformation)

    def single(grads, opt_state, params):
        updates, opt_state = transformation.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    once, twice = jax.jit(single)(*arrays), jax.jit(partial(update_in_one_pass, transformation))(*arrays)
    for expected, array in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_array_equal(array, expected)


NETWORK = {
    "whiten": {"bias": jnp.array([1.0])},
    "conv1": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([3.0])},
    "norm1": {"bias": jnp.array([4.0])},
}


def steps_of(num_steps, **fields):
    """The first updates of NETWORK with gradients of one and five steps per epoch."""
    transformation, grads = make_optimizer(base(**fields), 100, 5), jax.tree.map(jnp.ones_like, NETWORK)
    state, all_updates = transformation.init(NETWORK), []
    for _ in range(num_steps):
        update, state = transformation.update(grads, state, NETWORK)
        all_updates.append(jax.tree.map(float, jax.tree.map(jnp.squeeze, update)))
    return all_updates


def test_batch_norm_biases_take_scaled_steps_with_unscaled_decay():
    sgd = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1, "weight_decay": 0.5}
    update = steps_of(1, **sgd, norm_bias_scale=64.0)[0]
    assert update["conv1"]["bias"] == pytest.approx(-0.1 * (1 + 0.5 * 3))
    assert update["norm1"]["bias"] == pytest.approx(-0.1 * (64 + 0.5 * 4))
    update = steps_of(1, optimizer="adam", learning_rate=0.1, norm_bias_scale=64.0)[0]
    assert update["conv1"]["bias"] == pytest.approx(-0.1, rel=1e-5)
    assert update["norm1"]["bias"] == pytest.approx(-6.4, rel=1e-5)


def test_whitening_bias_is_trained_only_in_its_epochs():
    """Its weight decay ends as well. 1.4 epochs of five steps are seven steps."""
    fields = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.5}
    changed = [step["whiten"]["bias"] != 0 for step in steps_of(10, **fields, whitening_epochs=1.4)]
    assert changed == [True] * 7 + [False] * 3
    assert all(step["conv1"]["bias"] != 0 for step in steps_of(10, **fields, whitening_epochs=1.4))
    assert all(step["whiten"]["bias"] != 0 for step in steps_of(10, **fields))


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_frozen_parameters_keep_their_bits_until_their_epochs_end(name):
    """1.4 epochs of five steps are seven steps. All kinds of parameters can be frozen, and those that are not train."""
    transformation = make_optimizer(base(optimizer=name, weight_decay=0.5, frozen_epochs=1.4), 100, 5)
    params = {"conv1": {"kernel": jnp.array([[2.0, -0.0, 1e-45]]), "bias": jnp.array([0.0])}}
    is_frozen = {"conv1": {"kernel": True, "bias": False}}
    state = with_frozen(transformation.init(params), is_frozen)
    grads, first = jax.tree.map(jnp.ones_like, params), params["conv1"]["kernel"]
    unchanged = []
    for _ in range(8):
        bias = params["conv1"]["bias"]
        params, state = jax.jit(partial(update_in_one_pass, transformation))(grads, state, params)
        assert params["conv1"]["bias"] != bias
        unchanged.append(np.asarray(params["conv1"]["kernel"]).tobytes() == np.asarray(first).tobytes())
    assert unchanged == [True] * 7 + [False]


def test_without_frozen_epochs_nothing_can_be_frozen():
    state = optimizer(10).init(PARAMS)
    assert with_frozen(state, jax.tree.map(lambda _: True, PARAMS)) is state


def test_airbench94_has_the_hyperparameters_of_the_paper():
    """The paper gives learning rate and decoupled weight decay per 1,024 examples, for the sum of the losses."""
    config = load_experiment(str(Path(__file__).parents[2] / "experiments" / "airbench94.py"))
    per_1024 = 1024 * (1 + 1 / (1 - 0.85))
    step, decay = 11.5 / per_1024, 0.0153 * 1024 / per_1024
    assert config.learning_rate == pytest.approx(step * 1024)  # the mean's gradient is a 1024th of the sum's
    assert config.learning_rate * config.weight_decay == pytest.approx(decay)
    rates = [float(make_schedule(config, 476)(n)) / config.learning_rate for n in (0, 109, 476)]
    np.testing.assert_allclose(rates, [0.2, 1, 0.07], rtol=1e-6)


def test_muon_takes_the_steps_of_its_author():
    """airbench94_muon.py of github.com/KellerJordan/cifar10-airbench, in float64. Its gradients are of sums."""
    config = load_experiment(str(Path(__file__).parents[2] / "experiments" / "airbench94_muon.py"))
    num_steps, steps_per_epoch = 8, 1
    transformation = make_optimizer(config, num_steps, steps_per_epoch)
    draw = np.random.default_rng(0).normal
    names = {
        "conv1": {"kernel": (3, 3, 2, 4)},
        "conv2": {"kernel": (1, 1, 6, 4)},
        "norm1": {"bias": (4,)},
        "whiten": {"bias": (3,)},
        "output": {"kernel": (4, 5)},
    }
    params = {layer: {name: draw(size=shape) for name, shape in arrays.items()} for layer, arrays in names.items()}
    expected, momenta = copy.deepcopy(params), {}
    state = transformation.init(params)
    update = jax.jit(partial(update_in_one_pass, transformation))
    for step in range(num_steps):
        grads = jax.tree.map(lambda array: 1e-3 * draw(size=array.shape), params)
        params, state = update(grads, state, params)
        for layer, arrays in expected.items():
            for name, array in arrays.items():
                length = 3 if layer == "whiten" else num_steps
                if step < length:
                    authors_step(layer, array, grads[layer][name] * 2000, momenta, 1 - step / length)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), params, expected)


def authors_step(layer: str, array: np.ndarray, gradient: np.ndarray, momenta: dict, fraction: float) -> None:
    """Changes the array in place."""
    is_kernel = array.ndim == 4
    rate = {"conv": 0.24, "outp": 0.67}.get(layer[:4], 0.053)
    momentum = 0.6 if is_kernel else 0.85
    gradient = gradient if is_kernel else gradient + 2e-6 * 2000 / rate * array
    momenta[layer] = momentum * momenta.get(layer, 0) + gradient
    update = gradient + momentum * momenta[layer]
    if is_kernel:
        array *= (array.shape[-1] / (array**2).sum()) ** 0.5
        matrix = update.reshape(-1, update.shape[-1]).T  # outputs by inputs, as in PyTorch
        matrix = matrix / np.linalg.norm(matrix)
        for _ in range(3):
            square = matrix @ matrix.T
            matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
        update = matrix.T.reshape(array.shape)
    array -= rate * fraction * update
