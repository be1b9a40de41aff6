"""Optimizers and learning-rate schedules by name, all from optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

# decay and eps are Keras' defaults, which the reference used; optax's own eps is 1e-8
OPTIMIZERS: dict[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
    "adam": lambda _config: optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7),
    "rmsprop": lambda _config: optax.scale_by_rms(decay=0.9, eps=1e-7),
    "sgd": lambda config: optax.trace(decay=config.momentum, nesterov=True),
    # The author's momentum is a sum. That of scale_by_muon is a mean with bias correction, which differs at first.
    "muon": lambda config: optax.chain(
        optax.trace(decay=config.momentum, nesterov=True),
        optax.contrib.scale_by_muon(ns_steps=3, beta=0.0, nesterov=False, weight_dimension_numbers=_as_matrices),
    ),
}

# the learning rate from `peak` to `end` over `num_steps` steps, after the warm-up
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": lambda peak, _end, _num_steps: optax.constant_schedule(peak),
    "cosine": lambda peak, end, num_steps: optax.cosine_decay_schedule(peak, num_steps, end / peak if peak else 0.0),
    "linear": lambda peak, end, num_steps: optax.linear_schedule(peak, end, num_steps),
}


def make_schedule(config: ConfigDict, num_steps: float, peak: float | None = None) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then `config.schedule`.

    `start_scale` and `end_scale` are multiples of the peak, which is `learning_rate` unless it is given; `warmup` is a
    fraction of `num_steps`, the length of the schedule.
    """
    peak = config.learning_rate if peak is None else peak
    warmup_steps = round(config.warmup * num_steps)
    end = config.end_scale * peak
    after = SCHEDULES[config.schedule](peak, end, max(1, num_steps - warmup_steps))
    if not warmup_steps:
        return after
    before = optax.linear_schedule(config.start_scale * peak, peak, warmup_steps)
    return optax.join_schedules([before, after], [warmup_steps])


def make_optimizer(config: ConfigDict, num_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of a run of `num_steps` steps.

    With adam and rmsprop the weight decay is decoupled from the gradient and applies to kernels only (AdamW:
    Loshchilov and Hutter, 2019). With sgd it is added to the gradient of all parameters, as in PyTorch. Either way it
    is multiplied by the learning rate. muon trains the kernels of convolutions, without decay, and sgd the rest.

    The biases of layers named `norm*` take `config.norm_bias_scale` times the step; their decay is not scaled (Jordan,
    2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.4). The bias of a whitening layer is trained for
    the first `config.whitening_epochs` epochs only, unless that is 0 (section 3.2).

    In the first `config.frozen_epochs` epochs the parameters that `with_frozen` marks do not change. The optimizer's
    moments follow their gradients meanwhile, so that their training starts with steps of the usual size.
    """
    schedule = optax.scale_by_learning_rate(make_schedule(config, num_steps))
    norms = _scale(config.norm_bias_scale, _is_norm_bias)
    if config.optimizer == "sgd":
        parts = [norms, _decay(config.weight_decay, _is_any), OPTIMIZERS["sgd"](config), schedule]
    elif config.optimizer == "muon":
        parts = [norms, _muon_and_sgd(config, num_steps, config.whitening_epochs * steps_per_epoch)]
    else:
        parts = [OPTIMIZERS[config.optimizer](config), norms, _decay(config.weight_decay, _is_kernel), schedule]
    if config.whitening_epochs:
        end = config.whitening_epochs * steps_per_epoch
        stop = optax.scale_by_schedule(lambda step: step < end)
        parts.append(optax.masked(stop, _where(_is_whitening_bias)))
    if config.frozen_epochs:
        parts.append(_freeze(config.frozen_epochs * steps_per_epoch))
    return optax.chain(*parts)


def _muon_and_sgd(config: ConfigDict, num_steps: int, whitening_steps: float) -> optax.GradientTransformation:
    """Muon for the kernels of convolutions, sgd for biases and dense kernels, each with a learning rate of its own.

    The learning rate of a whitening layer's bias has its schedule within the steps in which that is trained. The
    recipe is that of Jordan, 2024, github.com/KellerJordan/cifar10-airbench, airbench94_muon.py.
    """

    def sgd(peak: float, num_steps: float = num_steps) -> optax.GradientTransformation:
        schedule = optax.scale_by_learning_rate(make_schedule(config, num_steps, peak=1.0))
        decay = _decay(config.weight_decay, _is_any)
        return optax.chain(optax.scale(peak), decay, optax.trace(config.sgd_momentum, nesterov=True), schedule)

    muon = optax.scale_by_learning_rate(make_schedule(config, num_steps))
    groups = {
        "convolution": optax.chain(OPTIMIZERS["muon"](config), muon, optax.stateless(_scale_kernels)),
        "dense": sgd(config.dense_learning_rate),
        "whitening": sgd(config.bias_learning_rate, whitening_steps or num_steps),
        "bias": sgd(config.bias_learning_rate),
    }

    def group_of(path: tuple[Any, ...], array: jax.Array) -> str:
        if array.ndim > 1:
            return "convolution" if array.ndim > 2 else "dense"
        return "whitening" if _is_whitening_bias(_names(path), array) else "bias"

    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(group_of, params))


def _as_matrices(kernels: optax.Params) -> optax.Params:
    """For each kernel [h, w, I, O], the axes of the matrix [h w I, O] that Muon makes orthogonal."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), kernels)


def _scale_kernels(updates: optax.Updates, kernels: optax.Params) -> optax.Updates:
    """Adds to each update what first scales its kernel [h, w, I, O] to a Frobenius norm of sqrt(O)."""

    def add_scaling(update: jax.Array, kernel: jax.Array) -> jax.Array:
        return update + (kernel.shape[-1] ** 0.5 / jnp.linalg.norm(kernel.reshape(-1)) - 1) * kernel

    return jax.tree.map(add_scaling, updates, kernels)


class Freeze(NamedTuple):
    """The part of the optimizer's state that freezes parameters.

    It is known only at the start of a run which ones; as a part of the state they are in every checkpoint.

    Attributes:
        step: number of finished steps, int32 scalar.
        is_frozen: a bool scalar for each parameter.
    """

    step: jax.Array
    is_frozen: optax.Params


def _freeze(num_steps: float) -> optax.GradientTransformation:
    """Leaves the frozen parameters unchanged in the first `num_steps` steps. At first none is frozen."""

    def init(params: optax.Params) -> Freeze:
        return Freeze(jnp.int32(0), jax.tree.map(lambda _: jnp.array(False), params))

    def update(updates: optax.Updates, state: Freeze, _params: object = None) -> tuple[optax.Updates, Freeze]:
        # adding -0.0 changes no bit of any number, whereas 0.0 turns -0.0 into 0.0
        updates = jax.tree.map(
            lambda update, is_frozen: jnp.where(is_frozen & (state.step < num_steps), -0.0, update),
            updates,
            state.is_frozen,
        )
        return updates, state._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def with_frozen(opt_state: optax.OptState, is_frozen: optax.Params) -> optax.OptState:
    """The state with these parameters frozen, a bool for each; unchanged without `config.frozen_epochs`."""
    if optax.tree_utils.tree_get(opt_state, "is_frozen") is None:
        return opt_state
    return optax.tree_utils.tree_set(opt_state, is_frozen=jax.tree.map(jnp.array, is_frozen))


def update_in_one_pass(
    optimizer: optax.GradientTransformation, grads: optax.Params, opt_state: optax.OptState, params: optax.Params
) -> tuple[optax.Params, optax.OptState]:
    """One optimizer update, in a form that XLA's CPU backend writes in a single pass over memory.

    The update is computed twice, so that the new parameters and the new moments each depend on the old arrays only.
    With one computation, XLA writes the moments first and reads them back in a second pass. It would merge two equal
    computations, so one of them selects the old arrays under a condition that XLA does not know to be true. A selection
    changes no bits: a multiplication by one would change which products are rounded before they are added. A barrier on
    the arrays themselves copies them from jaxlib 0.11.2 on.

    Returns:
        The new params and the new opt_state.
    """
    true = lax.optimization_barrier(jnp.array(True))
    old = grads, opt_state, params
    updates, _ = optimizer.update(*jax.tree.map(lambda array: jnp.where(true, array, jnp.zeros_like(array)), old))
    _, opt_state = optimizer.update(*old)
    return optax.apply_updates(params, updates), opt_state


Which = Callable[[tuple[str, ...], jax.Array], bool]  # takes a parameter's path, such as ("conv1", "kernel"), and value


def _scale(factor: float, which: Which) -> optax.GradientTransformation:
    return optax.masked(optax.scale(factor), _where(which)) if factor != 1 else optax.identity()


def _decay(weight_decay: float, which: Which) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay, mask=_where(which)) if weight_decay else optax.identity()


def _where(which: Which) -> Callable[[optax.Params], optax.Params]:
    """A mask for optax: the parameters for which `which` is true."""

    def mask(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(lambda path, array: which(_names(path), array), params)

    return mask


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(entry.key) for entry in path)


def _is_any(_path: tuple[str, ...], _array: jax.Array) -> bool:
    return True


def _is_kernel(_path: tuple[str, ...], array: jax.Array) -> bool:
    return array.ndim > 1


def _is_norm_bias(path: tuple[str, ...], _array: jax.Array) -> bool:
    return path[-1] == "bias" and path[-2].startswith("norm")


def _is_whitening_bias(path: tuple[str, ...], _array: jax.Array) -> bool:
    return path[-2:] == ("whiten", "bias")
