"""The loop of most Flax examples: one jitted step per batch from the host, with XLA's own convolutions."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from benchmarks.contestants import Images, Settings
from benchmarks.machine import peak_device_bytes
from cifar_flax.models import MODELS
from cifar_flax.training.state import count_parameters

EVAL_BATCH_SIZE = 200


class State(TrainState):
    """Flax's TrainState with BatchNorm's running statistics."""

    batch_stats: Any


@partial(jax.jit, donate_argnums=0)
def train_step(state: State, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(key, state.step)},
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, updates.get("batch_stats", {})

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss


@jax.jit
def count_correct(state: State, images: jax.Array, labels: jax.Array) -> jax.Array:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return (state.apply_fn(variables, images, train=False).argmax(-1) == labels).sum()


class FlaxLoop:
    """The host gathers each batch and passes it to the jitted step."""

    def __init__(self, network: str, images: Images, batch_size: int) -> None:
        self.batch_size = batch_size
        self.train_images = images.train_images.astype(np.float32) / 255
        self.test_images = images.test_images.astype(np.float32) / 255
        self.train_labels, self.test_labels = images.train_labels, images.test_labels
        model = MODELS[network](10, dtype=jnp.float32)
        variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        self.state = State.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=optax.adam(1e-3, eps=1e-7),
            batch_stats=variables.get("batch_stats", {}),
        )
        self.num_parameters = count_parameters(self.state.params)
        self.key = jax.random.key(1)
        self.random = np.random.default_rng(0)
        start = time.perf_counter()
        self.train(1)
        self.compile_seconds = time.perf_counter() - start

    def train(self, num_steps: int) -> None:
        loss = jnp.float32(0)
        for step in range(num_steps):
            per_epoch = len(self.train_labels) // self.batch_size
            if step % per_epoch == 0:
                order = self.random.permutation(len(self.train_labels))
            rows = order[step % per_epoch * self.batch_size :][: self.batch_size]
            self.state, loss = train_step(self.state, self.train_images[rows], self.train_labels[rows], self.key)
        assert np.isfinite(loss)  # waits for the device

    def evaluate(self) -> float:
        counts = [
            count_correct(
                self.state, self.test_images[i : i + EVAL_BATCH_SIZE], self.test_labels[i : i + EVAL_BATCH_SIZE]
            )
            for i in range(0, len(self.test_labels), EVAL_BATCH_SIZE)
        ]
        return sum(map(int, counts)) / len(self.test_labels)

    def peak_device_bytes(self) -> int | None:
        return peak_device_bytes()


def build(network: str, images: Images, settings: Settings) -> FlaxLoop:
    """Computes with the framework's default precision and evaluates in batches of EVAL_BATCH_SIZE."""
    return FlaxLoop(network, images, settings.batch_size)
