"""One training step: forward pass, loss, gradient, update."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from cifar_flax.training.job import Job
from cifar_flax.training.metrics import Metrics, cross_entropy
from cifar_flax.training.optimizers import update_in_one_pass
from cifar_flax.training.state import TrainState


def train_step(
    job: Job, state: TrainState, images: Array, labels: Array, dropout_key: Array
) -> tuple[TrainState, Metrics, Array]:
    """Takes one gradient step on a batch.

    Args:
        job: the model, the optimizer, the label smoothing and the averaging of the weights.
        state: before the step.
        images: [B, H, W, C] float32 in [0, 1], augmented.
        labels: [B] int32.
        dropout_key: the key of this step's dropout.

    Returns:
        The state after the step, the batch's metrics, and whether the loss is finite (bool scalar). If it is not, the
        state is returned unchanged.
    """

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Array, Any]]:
        logits, updates = job.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        losses = cross_entropy(logits, labels, job.label_smoothing)
        return losses.mean(), (losses, logits, updates.get("batch_stats", {}))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (losses, logits, batch_stats)), grads = grad_fn(state.params)

    def update(state: TrainState) -> TrainState:
        # optimizer.update and optax.apply_updates, arranged for XLA's CPU backend
        params, opt_state = update_in_one_pass(job.optimizer, grads, state.opt_state, state.params)
        state = replace(state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        return job.averaging(state) if job.averaging else state

    finite = jnp.isfinite(loss)
    metrics = Metrics.from_batch(losses, logits, labels, jnp.ones_like(labels, bool))
    # lax.cond, not jnp.where on every leaf: selecting would copy all parameters and moments in every step
    state = lax.cond(finite, update, lambda state: state, state)
    return state, metrics, finite
