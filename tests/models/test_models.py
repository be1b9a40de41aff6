"""The models: shapes, parameters, statistics, and the number of parameters of each experiment."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.cli.experiment import load_experiment
from cifar_flax.config import base_config
from cifar_flax.models import MODELS, has_setting, make_model, resolve_lowering
from cifar_flax.models.airbench import Whiten, dirac_init
from cifar_flax.ops import LOWERINGS
from cifar_flax.reporting.console import model_table
from cifar_flax.training.job import resolve_config
from cifar_flax.training.state import count_parameters

EXPERIMENTS = sorted(Path(__file__).parents[2].glob("experiments/*.py"))

# (trainable, statistics) on 32x32x3 images and ten classes, as in the reference's model.summary(), sections 1.4.1,
# 1.5.1 and 1.7.1
PARAMETER_COUNTS = {
    "mlp": (3_590_642, 0),
    "cnn": (528_054, 0),
    "cnn_augmented": (528_054, 0),
    "cnn_finetuned": (528_054, 0),
    "cnn_translated": (528_054, 0),
    "cnn_tuned": (528_054, 2 * 3),  # mean and variance of each color
    "alexnet": (21_591_114, 1_216),
    "airbench94": (1_971_640 - 288, 288 + 2_304 + 2 * 3),  # the fixed kernel, BatchNorm, and the inputs
    "airbench94_muon": (1_971_640 - 288, 288 + 2_304 + 2 * 3),
    "alexnet_tuned": (21_591_114, 1_216 + 2 * 3),
}

LAYERS = {
    "mlp": {"fc1", "fc2", "output"},
    "cnn": {"conv1", "conv2", "conv3", "fc1", "output"},
    "alexnet": {"conv1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "norm5", "fc1", "fc2", "output"},
    "airbench": {"whiten", *(f"{layer}{i}" for layer in ("conv", "norm") for i in range(1, 7)), "output"},
}
LAYERS["airbench_muon"] = LAYERS["airbench"]


@functools.cache
def init(name, lowering="library"):
    model = MODELS[name](10, **({"lowering": LOWERINGS[lowering]} if has_setting(name, "lowering") else {}))
    return model, jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def compiled(model, **arguments):
    """`model.apply` as one program. Without it, each operation is compiled by itself."""
    return jax.jit(functools.partial(model.apply, **arguments))


def random_images(count):
    return jax.random.uniform(jax.random.key(1), (count, 32, 32, 3))


def test_all_models_and_experiments_have_a_parameter_count():
    assert {path.stem for path in EXPERIMENTS} == set(PARAMETER_COUNTS)
    assert {load_experiment(str(path)).model for path in EXPERIMENTS} == set(MODELS)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_parameter_count_is_as_recorded(path):
    model = make_model(resolve_config(load_experiment(str(path)), jax.devices()), 10)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    counts = count_parameters(variables["params"]), count_parameters(variables.get("batch_stats", {}))
    assert counts == PARAMETER_COUNTS[path.stem]


def test_model_table_shows_outputs_and_parameter_counts():
    rows = [re.split(r"\s{2,}", line.strip()) for line in model_table(MODELS["alexnet"](10), (32, 32, 3)).splitlines()]
    assert ["conv1", "16 x 16 x 96", "2,688"] in rows
    assert ["norm5", "1 x 1 x 256", "512", "512"] in rows
    assert ["total", "21,591,114", "1,216"] in rows


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_layer_names_are_stable(name):
    _, variables = init(name)
    assert set(variables["params"]) == LAYERS[name]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("shape", "classes"), [((32, 32, 3), 10), ((32, 32, 3), 100), ((28, 28, 1), 10)])
def test_logits_match_the_number_of_classes_of_the_dataset(name, shape, classes):
    model = MODELS[name](classes)

    def logits():
        images = jnp.zeros((3, *shape))
        return model.apply(model.init(jax.random.key(0), images, train=False), images, train=False)

    out = jax.eval_shape(logits)
    assert out.shape == (3, classes)
    assert out.dtype == jnp.float32


@pytest.mark.medium
@pytest.mark.parametrize("name", ["mlp", "cnn", "alexnet"])
def test_kernels_are_glorot_uniform_and_biases_zero(name):
    _, variables = init(name)
    for layer, leaves in variables["params"].items():
        np.testing.assert_array_equal(leaves["bias"], 0, err_msg=layer)
        if "kernel" in leaves:
            kernel = np.asarray(leaves["kernel"])
            receptive_field = np.prod(kernel.shape[:-2], dtype=int)
            limit = np.sqrt(6 / (receptive_field * (kernel.shape[-2] + kernel.shape[-1])))
            assert 0.98 * limit < np.abs(kernel).max() <= limit, layer
            assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1), layer


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_initialization_depends_on_the_key(name):
    model = MODELS[name](10)
    initialize = jax.jit(functools.partial(model.init, train=False))
    images = jnp.zeros((1, 32, 32, 3))
    kernels = [initialize(jax.random.key(k), images)["params"]["output"]["kernel"] for k in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_statistics_change_in_training_only(name):
    model, variables = init(name)
    images = random_images(4)
    rngs = {"dropout": jax.random.key(2)}
    _, trained = compiled(model, train=True, mutable=["batch_stats"])(variables, images, rngs=rngs)
    _, evaluated = compiled(model, train=False, mutable=["batch_stats"])(variables, images)
    before = variables.get("batch_stats", {})
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, trained.get("batch_stats", {}))
    assert all(all(leaves.values()) == layer.startswith("norm") for layer, leaves in changed.items())
    assert bool(before) == any(layer.startswith("norm") for layer in LAYERS[name])
    jax.tree.map(np.testing.assert_array_equal, before, evaluated.get("batch_stats", {}))


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in MODELS if has_setting(name, "dropout")])
def test_dropout_is_active_in_training_only(name):
    model, variables = init(name)
    images = random_images(4)
    programs = [compiled(model, train=train, mutable=["batch_stats"]) for train in (False, True)]

    def logits(train, key):
        return np.asarray(programs[train](variables, images, rngs={"dropout": jax.random.key(key)})[0])

    assert not np.array_equal(logits(True, 0), logits(True, 1))
    np.testing.assert_array_equal(logits(True, 0), logits(True, 0))
    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))


@pytest.mark.medium
@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_of_an_image_do_not_depend_on_its_batch(name, lowering):
    model, variables = init(name, lowering)
    images = random_images(5)
    logits = compiled(model, train=False)
    in_batch = logits(variables, images)
    in_other_batch = logits(variables, images.at[1:].set(0.5))
    alone = logits(variables, images[:1])
    np.testing.assert_array_equal(in_batch[0], in_other_batch[0])
    # matrix products of another size may round differently
    np.testing.assert_allclose(in_batch[0], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_gradients_and_statistics_of_identical_images_are_finite():
    model, variables = init("alexnet")

    def loss(params):
        logits, updates = model.apply(
            {**variables, "params": params},
            jnp.full((4, 32, 32, 3), 0.7),
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return (logits**2).sum(), updates

    grads, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, updates)))


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_close_to_float32_and_returns_float32(name):
    model, variables = init(name)
    bfloat16_model = MODELS[name](10, dtype=jnp.bfloat16)
    images = random_images(2)
    exact, rounded = (compiled(m, train=False)(variables, images) for m in (model, bfloat16_model))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(np.abs(exact).max()) + 1e-3)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize(
    ("model", "lowering", "on_cpu", "on_others"),
    [
        ("cnn", "auto", "patches", "library"),
        ("airbench", "auto", "winograd", "library"),
        ("airbench", "patches", "patches", "patches"),
        ("cnn", "library", "library", "library"),
    ],
)
def test_auto_lowering_depends_on_the_platform_and_the_model(model, lowering, on_cpu, on_others):
    config = base_config()
    config.update(model=model, lowering=lowering)
    assert [resolve_lowering(config, platform) for platform in ("cpu", "gpu", "tpu")] == [on_cpu, *[on_others] * 2]


@pytest.mark.medium
def test_airbench_does_not_compute_pixels_that_pooling_drops():
    """On feature maps of side 31, 15 and 7, the first convolution of a group skips the last row and column."""
    model, variables = init("airbench")
    program = jax.make_jaxpr(lambda images: model.apply(variables, images, train=False))(random_images(1))
    convs = [equation for equation in program.eqns if equation.primitive.name == "conv_general_dilated"]
    sides = [31, 30, 15, 14, 7, 6, 3]
    assert [conv.outvars[0].aval.shape[1:3] for conv in convs] == [(side, side) for side in sides]


def test_airbench_has_the_parameter_count_of_the_paper():
    """1,971,640, of which the 288 of the whitening kernel are stored as statistics because they are not trained."""
    variables = init("airbench")[1]
    assert variables["batch_stats"]["whiten"]["kernel"].shape == (2, 2, 3, 24)
    assert count_parameters(variables["params"]) + 288 == 1_971_640


@pytest.mark.medium
def test_the_head_for_muon_has_kernels_of_deviation_1_and_divides_by_its_inputs():
    (model, variables), (plain, _) = init("airbench_muon"), init("airbench")
    assert np.std(variables["params"]["output"]["kernel"], ddof=1) == pytest.approx(1, rel=1e-5)
    logits, nine = (compiled(network, train=False)(variables, random_images(2)) for network in (model, plain))
    np.testing.assert_allclose(logits * 256, nine * 9, rtol=1e-5)


def test_whitened_patches_are_uncorrelated_and_of_unit_variance():
    """Output 12 + i is the negative of output i. The 5e-4 added to the eigenvalues damps the small ones."""
    images = np.asarray(random_images(200))
    images = images + images[:, :, :, :1] + np.roll(images, 1, axis=1)  # correlated neighbors and colors
    outputs = Whiten(jnp.float32).init_with_output(jax.random.key(0), jnp.asarray(images))[0].reshape(-1, 24)
    np.testing.assert_allclose(outputs[:, 12:], -outputs[:, :12], atol=1e-5)
    patches = np.concatenate([images[:, i : 31 + i, j : 31 + j] for i in (0, 1) for j in (0, 1)], axis=-1)
    eigenvalues = np.linalg.eigvalsh(np.cov(patches.reshape(-1, 12), rowvar=False))
    expected = np.diag(eigenvalues / (eigenvalues + 5e-4))
    np.testing.assert_allclose(np.cov(outputs[:, :12], rowvar=False), expected, atol=1e-3)


def test_whitening_depends_on_the_images_given_to_init():
    kernels = [
        Whiten(jnp.float32).init(jax.random.key(0), images)["batch_stats"]["kernel"]
        for images in (random_images(3), random_images(3) ** 2)
    ]
    assert not np.allclose(*kernels, rtol=0.1)


@pytest.mark.medium
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (8, 3)])
def test_dirac_kernel_copies_the_first_channels(inputs, outputs):
    kernel = dirac_init(jax.random.key(0), (3, 3, inputs, outputs))
    images = jax.random.normal(jax.random.key(1), (2, 6, 5, inputs))
    convolved = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    num_copied = min(inputs, outputs)
    np.testing.assert_array_equal(convolved[..., :num_copied], images[..., :num_copied])
    others = np.asarray(kernel[..., num_copied:])
    assert others.size == 0 or 0.9 < np.abs(others).max() * np.sqrt(9 * inputs) <= 1
