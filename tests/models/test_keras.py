"""The models give the same results as the reference's Keras models with the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_flax.models import MODELS, has_setting
from cifar_flax.ops import LOWERINGS
from cifar_flax.training.metrics import cross_entropy

pytestmark = pytest.mark.medium

BATCH, CLASSES = 32, 10
TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def keras():
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")

    tf.config.set_visible_devices([], "GPU")
    assert keras.backend.backend() == "tensorflow"
    return keras


def keras_model(keras, name):
    """The models of the reference notebook, without dropout."""
    layers = keras.layers

    def conv(features, size, name, strides=1):
        return layers.Conv2D(features, size, strides=strides, padding="same", activation="relu", name=name)

    if name == "mlp":
        parts = [
            layers.Flatten(),
            layers.Dense(1000, activation="relu", name="fc1"),
            layers.Dense(512, activation="relu", name="fc2"),
        ]
    elif name == "cnn":
        parts = [
            conv(16, 2, "conv1"),
            layers.MaxPooling2D(2),
            conv(32, 2, "conv2"),
            layers.MaxPooling2D(2),
            conv(64, 2, "conv3"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
        ]
    else:
        parts = [
            conv(96, 3, "conv1", strides=2),
            layers.MaxPooling2D(2, 2),
            layers.BatchNormalization(name="norm1"),
            conv(256, 5, "conv2"),
            layers.MaxPooling2D(3, 2),
            layers.BatchNormalization(name="norm2"),
            conv(384, 3, "conv3"),
            conv(384, 3, "conv4"),
            conv(256, 3, "conv5"),
            layers.MaxPooling2D(3, 2),
            layers.BatchNormalization(name="norm5"),
            layers.Flatten(),
            layers.Dense(4096, activation="relu", name="fc1"),
            layers.Dense(4096, activation="relu", name="fc2"),
        ]
    return keras.Sequential([layers.Input((32, 32, 3)), *parts, layers.Dense(CLASSES, name="output")])


# name of a Keras weight -> (collection, name) in Flax
WEIGHTS = {
    "kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}


def to_flax(model, values=None):
    """A Keras model's weights, or values in the order of the weights, as {"params": ..., "batch_stats": ...}."""
    variables = {"params": {}, "batch_stats": {}}
    named = [(layer.name, weight) for layer in model.layers for weight in layer.weights]
    values = [weight.numpy() for _, weight in named] if values is None else values
    for (layer, weight), value in zip(named, values, strict=True):
        collection, leaf = WEIGHTS[weight.name]
        variables[collection].setdefault(layer, {})[leaf] = np.asarray(value)
    return variables


def assert_close(result, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCES), dict(result), expected)


def train_without_dropout(model, variables, images, labels):
    """((loss, (logits, new statistics)), gradients) of a Flax model in training mode, with dropout disabled."""

    def identity(next_function, args, kwargs, context):
        is_dropout = type(context.module).__name__ == "Dropout"
        return args[0] if is_dropout else next_function(*args, **kwargs)

    def loss_fn(params):
        with nn.intercept_methods(identity):
            logits, updates = model.apply(
                {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, mutable=["batch_stats"]
            )
        return cross_entropy(logits, labels).mean(), (logits, updates.get("batch_stats", {}))

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])


@pytest.mark.parametrize("lowering", ["library", "patches"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "alexnet"])
def test_model_matches_keras_with_the_same_weights(keras, name, lowering):
    tf = pytest.importorskip("tensorflow")

    keras.utils.set_random_seed(0)
    reference = keras_model(keras, name)
    variables = to_flax(reference)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.float32) / 255
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)

    model = MODELS[name](CLASSES, **({"lowering": LOWERINGS[lowering]} if has_setting(name, "lowering") else {}))
    eval_logits = model.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(images), train=False)
    np.testing.assert_allclose(eval_logits, reference(images, training=False), **TOLERANCES)

    (loss, (logits, batch_stats)), grads = train_without_dropout(
        model, variables, jnp.asarray(images), jnp.asarray(labels)
    )
    cross_entropy_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        keras_logits = reference(images, training=True)  # updates the running statistics
        keras_loss = cross_entropy_of(np.eye(CLASSES, dtype=np.float32)[labels], keras_logits)
    keras_grads = tape.gradient(keras_loss, reference.trainable_variables)
    np.testing.assert_allclose(logits, keras_logits, **TOLERANCES)
    np.testing.assert_allclose(loss, keras_loss, **TOLERANCES)
    assert_close(batch_stats, to_flax(reference)["batch_stats"])
    grads_by_id = {id(v): g for v, g in zip(reference.trainable_variables, keras_grads, strict=True)}
    in_order = [grads_by_id.get(id(w), w) for layer in reference.layers for w in layer.weights]
    assert_close(grads, to_flax(reference, in_order)["params"])

    # Keras adds epsilon before its bias correction, optax after it
    step, b2, eps = 1, 0.999, 1e-7
    adam = optax.adam(1e-3, eps=eps / np.sqrt(1 - b2**step))
    if name == "alexnet":
        # Before BatchNorm, the gradients of some biases are zero up to rounding, and Adam's first step is their sign.
        # Therefore both optimizers get the same gradients.
        grads = to_flax(reference, in_order)["params"]
    updates, _ = adam.update(grads, adam.init(variables["params"]), variables["params"])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.apply(keras_grads, reference.trainable_variables)
    assert_close(optax.apply_updates(variables["params"], updates), to_flax(reference)["params"])
