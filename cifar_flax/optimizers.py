"""Optimizers and learning-rate schedules by name, all of them optax'."""

from collections.abc import Callable

import jax
import optax

# decay and eps are Keras' defaults, as the reference trained with; optax' own eps is 1e-8
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": lambda: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7),
    "rmsprop": lambda: optax.scale_by_rms(decay=0.9, eps=1e-7),
    "sgd": lambda: optax.trace(decay=0.9, nesterov=True),
}

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda learning_rate, _num_steps: optax.constant_schedule(learning_rate),
    "cosine": lambda learning_rate, num_steps: optax.cosine_decay_schedule(learning_rate, num_steps),
}


def make_optimizer(
    name: str, learning_rate: float, schedule: str, weight_decay: float, num_steps: int
) -> optax.GradientTransformation:
    """The optimizer of a run of `num_steps` steps.

    `weight_decay` is decoupled from the gradient and scaled by the learning rate (AdamW: Loshchilov and Hutter, 2019);
    biases and BatchNorm's scales are not decayed.
    """
    return optax.chain(
        OPTIMIZERS[name](),
        optax.add_decayed_weights(weight_decay, mask=_is_kernel) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(SCHEDULES[schedule](learning_rate, num_steps)),
    )


def _is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda array: array.ndim > 1, params)
