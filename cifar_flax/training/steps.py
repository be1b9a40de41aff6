"""The compiled functions: many training steps, and one pass of evaluation.

Both take the whole set as an argument on the device and gather their batches there. They are sharded over the mesh
axis `data`: parameters and images lie on every device, each batch is split between them.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_flax.training.augment import Augmentation
from cifar_flax.training.averaging import Averaging, keep
from cifar_flax.training.metrics import Metrics, cross_entropy
from cifar_flax.training.state import Roots, TrainState, split_roots
from cifar_flax.training.tta import TTA


def data_mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    augmentation: Augmentation,
    *,
    batch_size: int,
    steps_per_epoch: int,
    label_smoothing: float,
    mesh: Mesh,
    averaging: Averaging = keep,
) -> Any:
    """A jitted `train_steps(state, metrics, images, labels, stop) -> (state, metrics, diverged)`.

    It trains from `state.step` up to, not including, step `stop` (int32 scalar) of the same epoch, on images
    [N, H, W, C] uint8 and labels [N] int32, and adds the losses to `metrics`. One compilation serves every `stop`, and
    the result has the same bits wherever an epoch is cut. At the first loss that is not finite it stops, with the state
    as it was before that step and `diverged` True; also if a parameter of the state that it returns is not finite. The
    old `state` and `metrics` are donated.
    """
    by_image = NamedSharding(mesh, PartitionSpec("data"))

    def train_step(state: TrainState, batch: Array, labels: Array, dropout: Array) -> tuple[TrainState, Metrics, Array]:
        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Array, Any]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch,
                train=True,
                rngs={"dropout": dropout},
                mutable=["batch_stats"],
            )
            losses = cross_entropy(logits, labels, label_smoothing)
            return losses.mean(), (losses, logits, updates.get("batch_stats", {}))

        def update(state: TrainState) -> TrainState:
            # The same update twice: new parameters and new moments both come from the old arrays alone, and XLA's CPU
            # backend writes them in one pass over memory; it would read new moments back in a second one.
            old = grads, state.opt_state, state.params
            updates, _ = optimizer.update(*lax.optimization_barrier(old))
            _, opt_state = optimizer.update(*old)
            params = optax.apply_updates(state.params, updates)
            step = state.step + 1
            return averaging(replace(state, step=step, params=params, batch_stats=batch_stats, opt_state=opt_state))

        (loss, (losses, logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        finite = jnp.isfinite(loss)
        of_batch = Metrics.of_batch(losses, logits, labels, jnp.ones_like(labels, bool))
        return lax.cond(finite, update, lambda state: state, state), of_batch, finite

    def train_steps(
        state: TrainState, metrics: Metrics, images: Array, labels: Array, stop: Array
    ) -> tuple[TrainState, Metrics, Array]:
        epoch = state.step // steps_per_epoch
        roots: Roots = split_roots(state.rng)
        order = jax.random.permutation(jax.random.fold_in(roots.permutation, epoch), images.shape[0])

        def unfinished(carry: tuple[TrainState, Metrics, Array]) -> Array:
            state, _, diverged = carry
            return (state.step < stop) & ~diverged

        def step(carry: tuple[TrainState, Metrics, Array]) -> tuple[TrainState, Metrics, Array]:
            state, metrics, _ = carry
            first = (state.step - epoch * steps_per_epoch) * batch_size
            indices = lax.dynamic_slice_in_dim(order, first, batch_size)
            batch = lax.with_sharding_constraint(images[indices].astype(jnp.float32), by_image)
            batch = augmentation(roots.augmentation, batch, indices, epoch) / 255
            dropout = jax.random.fold_in(roots.dropout, state.step)
            trained, of_batch, finite = train_step(state, batch, labels[indices], dropout)
            metrics = jax.tree.map(lambda new, old: jnp.where(finite, new, old), metrics + of_batch, metrics)
            return trained, metrics, ~finite

        state, metrics, diverged = lax.while_loop(unfinished, step, (state, metrics, jnp.array(False)))
        # once a piece: in every step it would cost one to four per cent, and a bad parameter shows in the next loss
        finite = [jnp.isfinite(array).all() for array in jax.tree.leaves(state.params)]
        return state, metrics, diverged | ~jnp.stack(finite).all()

    return jax.jit(train_steps, donate_argnums=(0, 1), out_shardings=replicated(mesh))


def make_evaluate(model: nn.Module, *, num_classes: int, batch_size: int, mesh: Mesh, tta: str = "none") -> Any:
    """A jitted `evaluate(params, batch_stats, images, labels, num_images) -> (Metrics, logits)`.

    It counts each of the first `num_images` (int32 scalar) of images [N, H, W, C] uint8 exactly once; the last batch is
    filled up and masked. Of the logits [M, num_classes] float32 only the first `num_images` rows mean something. One
    compilation serves every split that is padded to the same N. `tta` is a key of `tta.TTA`.
    """
    by_image = NamedSharding(mesh, PartitionSpec("data"))

    def evaluate(
        params: Any, batch_stats: Any, images: Array, labels: Array, num_images: Array
    ) -> tuple[Metrics, Array]:
        def predict(batch: Array) -> Array:
            logits: Any = model.apply({"params": params, "batch_stats": batch_stats}, batch, train=False)
            return logits

        def add_batch(i: Array, carry: tuple[Metrics, Array]) -> tuple[Metrics, Array]:
            metrics, every = carry
            places = i * batch_size + jnp.arange(batch_size)
            rows = jnp.minimum(places, num_images - 1)
            batch = lax.with_sharding_constraint(images[rows].astype(jnp.float32), by_image) / 255
            logits = TTA[tta](predict, batch)
            losses = cross_entropy(logits, labels[rows])
            metrics = metrics + Metrics.of_batch(losses, logits, labels[rows], places < num_images)
            return metrics, lax.dynamic_update_slice_in_dim(every, logits, i * batch_size, axis=0)

        num_batches = (num_images + batch_size - 1) // batch_size
        every = jnp.zeros((-(-images.shape[0] // batch_size) * batch_size, num_classes), jnp.float32)
        return lax.fori_loop(0, num_batches, add_batch, (Metrics.zero(), every))

    return jax.jit(evaluate, out_shardings=replicated(mesh))
