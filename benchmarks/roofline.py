"""A lower bound on the time of a training step, from its operations and bytes and the rates of the machine."""

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cifar_flax.cli.experiment import load_experiment
from cifar_flax.models import make_model
from cifar_flax.models.airbench import Whiten
from cifar_flax.training.state import count_parameters

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# All are float32. Adam reads gradient, parameter and both moments and writes the last three; SGD and Muon have one.
OPTIMIZER_BYTES_PER_PARAMETER = {"adam": 28, "sgd": 20, "muon": 20}


class Work(NamedTuple):
    """The work of one training step.

    Attributes:
        operations: multiplications and additions of its matrix products and convolutions.
        bytes: bytes that its optimizer reads and writes.
    """

    operations: float
    bytes: float


class Rates(NamedTuple):
    """The rates of a machine.

    Attributes:
        operations_per_second: of a large matrix product.
        bytes_per_second: bytes read and written by a large copy.
    """

    operations_per_second: float
    bytes_per_second: float


@cache
def training_step(experiment: str, batch_size: int) -> Work:
    """The work of one training step of an experiment, counted from its shapes.

    It includes the forward pass, the gradients of trained kernels and the gradients of all layer inputs except the
    images. Each output of a convolution counts as a sum over the full kernel, padding included, however it is computed.
    """
    config = load_experiment(str(EXPERIMENTS / f"{experiment}.py"))
    config.lowering = "library"
    model = make_model(config, 10)
    products: dict[tuple[str, ...], float] = {}  # by layer; a subclass that calls its parent is seen twice

    def count(next_method: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = next_method(*args, **kwargs)
        path = context.module.path
        if isinstance(context.module, nn.Conv | nn.Dense | Whiten) and path not in products:
            trained = "kernel" in context.module.variables["params"]
            kernel = context.module.variables["params" if trained else "batch_stats"]["kernel"]
            gradients = trained + bool(products)
            sums = _conv_outputs(context.module, args[0], kernel) if isinstance(context.module, nn.Conv) else output
            products[path] = (1 + gradients) * 2 * sums.size / kernel.shape[-1] * kernel.size
        return output

    with nn.intercept_methods(count):
        images = jnp.zeros((batch_size, 32, 32, 3))
        variables: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return Work(
        sum(products.values()), OPTIMIZER_BYTES_PER_PARAMETER[config.optimizer] * count_parameters(variables["params"])
    )


def _conv_outputs(layer: nn.Conv, images: Array, kernel: Array) -> jax.ShapeDtypeStruct:
    """The outputs before any max-pooling that the layer's `conv_general_dilated` includes."""
    conv: Callable[..., Array] = lax.conv_general_dilated
    strides = np.broadcast_to(layer.strides or 1, 2).tolist()
    fields = {"window_strides": strides, "padding": layer.padding, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    outputs: jax.ShapeDtypeStruct = jax.eval_shape(partial(conv, **fields), images, kernel)
    return outputs


def min_seconds(work: Work, rates: Rates) -> float:
    return work.operations / rates.operations_per_second + work.bytes / rates.bytes_per_second


def measure_rates(repeats: int = 5) -> Rates:
    """The best of `repeats`: a product of two 4,096 x 4,096 matrices, and adding one to 64 Mi numbers in place."""
    square = jnp.ones((4096, 4096))
    array = jnp.ones(1 << 26)
    product, add = jax.jit(jnp.dot), jax.jit(lambda x: x + 1, donate_argnums=0)
    multiplying, copying = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        product(square, square).block_until_ready()
        multiplied = time.perf_counter()
        array = add(array).block_until_ready()
        multiplying.append(multiplied - start)
        copying.append(time.perf_counter() - multiplied)
    return Rates(2 * 4096**3 / min(multiplying), 2 * array.nbytes / min(copying))
