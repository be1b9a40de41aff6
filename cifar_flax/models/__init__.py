"""The models by name. A new model is a file here and a line in MODELS.

A model is a linen module whose first field is `num_classes`. It declares which of these settings it supports, and
`make_model` passes those:

    dtype: of the computation; parameters and running statistics stay float32.
    lowering: an `ops.Lowering`, for a model with convolutions or poolings.
    dropout: the rate of its dropout layers.

It is called with images [B, H, W, C] float32, in [0, 1] or standardized (`config.normalize`), and `train`, and returns
logits [B, num_classes] float32. With `train=True` it gets a `dropout` rng and may update `batch_stats`. The fields
`norm_bias_scale` and `whitening_epochs` act on the biases of layers named `norm*` and `whiten`.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cifar_flax.models.airbench import Airbench, AirbenchMuon
from cifar_flax.models.alexnet import AlexNet
from cifar_flax.models.cnn import CNN
from cifar_flax.models.layers import Normalized
from cifar_flax.models.mlp import MLP
from cifar_flax.ops import LOWERINGS

MODELS = {"mlp": MLP, "cnn": CNN, "alexnet": AlexNet, "airbench": Airbench, "airbench_muon": AirbenchMuon}


def has_setting(name: str, setting: str) -> bool:
    """Whether the model `name` declares the field `setting`."""
    return setting in (field.name for field in dataclasses.fields(MODELS[name]))


def make_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The model of a config. In Python of one's own its `lowering` may be `auto`, which jax's platform decides."""
    lowering = config.lowering if config.lowering != "auto" else resolve_lowering(config, jax.default_backend())
    settings = {"dtype": jnp.dtype(config.dtype), "lowering": LOWERINGS[lowering]}
    if config.dropout is not None:
        settings["dropout"] = config.dropout
    supported = {name: value for name, value in settings.items() if has_setting(config.model, name)}
    model = MODELS[config.model](num_classes, **supported)
    return Normalized(model) if config.normalize else model


def takes_images(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether the model can be initialized for images [H, W, C] of this shape, without empty arrays in any layer.

    Nothing is computed.
    """
    init = partial(model.init, train=False, mutable=True, capture_intermediates=True)
    try:
        variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    except Exception:  # whether and how an empty feature map fails depends on the layer and on jax' version
        return False
    return all(array.size for array in jax.tree.leaves(variables))


def smallest_side(model: nn.Module, channels: int) -> int | None:
    """The height and width in pixels of the smallest square images that the model takes; None if above 64."""
    sides = (side for side in range(1, 65) if takes_images(model, (side, side, channels)))
    return next(sides, None)


def resolve_lowering(config: ConfigDict, platform: str) -> str:
    """The lowering that `auto` stands for: on CPUs the model's `cpu_lowering`, else patches; elsewhere library."""
    if config.lowering != "auto":
        return config.lowering
    return getattr(MODELS[config.model], "cpu_lowering", "patches") if platform == "cpu" else "library"
