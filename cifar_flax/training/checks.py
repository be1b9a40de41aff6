"""Checks a config before anything starts."""

import reprlib
import sys
from collections.abc import Collection

import flax.linen as nn
from ml_collections import ConfigDict

from cifar_flax.config import base_config
from cifar_flax.errors import BadInput, nearest
from cifar_flax.models import MODELS, has_setting, smallest_side, takes_images
from cifar_flax.ops import LOWERINGS
from cifar_flax.training.augment import AUGMENTATIONS
from cifar_flax.training.optimizers import OPTIMIZERS, SCHEDULES
from cifar_flax.training.tta import TTA

CHOICES: dict[str, Collection[str]] = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "dtype": ("float32", "bfloat16"),
    "lowering": ("auto", *LOWERINGS),
    "tta": TTA,
}

TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "True or False"}


def check_config(config: ConfigDict) -> None:
    """Checks everything that can be checked before the data is loaded.

    Raises:
        BadInput: names the field, its value and what is valid.
    """
    defaults = base_config()
    for field, default in defaults.items():
        if field not in config:
            raise BadInput(f"config.{field}: missing; start an experiment from base_config()")
        kind, value = defaults.get_type(field), config[field]
        fits = type(value) in ((int, float) if kind is float else (kind,)) or value is default is None
        _require(fits, config, field, TYPE_NAMES[kind])
    for field, choices in CHOICES.items():
        if config[field] not in choices:
            raise BadInput(f"config.{field}: no such {field} {config[field]!r}{nearest(config[field], list(choices))}")
    for field in ("dtype", "dropout"):
        supported = config[field] == defaults[field] or has_setting(config.model, field)
        _require(supported, config, field, f"its default, because the model {config.model} has no such setting")
    _require(bool(config.dataset), config, "dataset", "'synthetic', the name of a TFDS dataset or a path")
    _check_ranges(config)


def _check_ranges(config: ConfigDict) -> None:
    for field in ("batch_size", "eval_batch_size"):
        _require(config[field] >= 1, config, field, "an integer >= 1")
    _require(config.eval_batch_size <= 2**16, config, "eval_batch_size", "at most 65536")
    for field in ("num_epochs", "save_seconds"):
        _require(0 < config[field] <= sys.float_info.max, config, field, "a finite number > 0")
    for field in (
        "learning_rate",
        "bias_learning_rate",
        "dense_learning_rate",
        "weight_decay",
        "start_scale",
        "end_scale",
        "norm_bias_scale",
        "whitening_epochs",
        "frozen_epochs",
    ):
        _require(0 <= config[field] <= sys.float_info.max, config, field, "a finite number >= 0")
    for field in ("label_smoothing", "dropout", "momentum", "sgd_momentum", "average_decay", "test_share"):
        _require(0 <= (config[field] or 0) < 1, config, field, "a number in [0, 1)")
    _require(0 <= config.warmup <= 1, config, "warmup", "a number in [0, 1]")
    for field in ("num_validation", "max_translation", "average_every", "patience"):
        _require(config[field] >= 0, config, field, "an integer >= 0")
    _require(
        config.image_size is None or 1 <= config.image_size <= 1024, config, "image_size", "an integer from 1 to 1024"
    )
    _require(not config.patience or config.num_validation > 0, config, "patience", "0 without validation images")
    _require(not config.frozen_epochs or config.init_from is not None, config, "frozen_epochs", "0 without init_from")
    _require(0 <= config.seed < 2**32, config, "seed", "an integer from 0 to 4294967295")


def check_sizes(config: ConfigDict, num_train: int, image_shape: tuple[int, int, int], num_devices: int) -> None:
    """Checks the fields that depend on the training set and on the devices.

    Raises:
        BadInput: a batch is larger than the training set or not divided by the devices, there are no steps or too many,
            or a translation is as large as the image.
    """
    _require(
        config.batch_size <= num_train, config, "batch_size", f"at most the number of training images, {num_train}"
    )
    num_steps = config.num_epochs * (num_train // config.batch_size)
    _require(0.5e-6 < num_steps < 2**31, config, "num_epochs", "a number that gives 1 to 2147483647 training steps")
    if config.augment == "translate_flip":
        limit = min(image_shape[:2]) - 1
        _require(config.max_translation <= limit, config, "max_translation", f"at most {limit} for images of this size")
    for field in ("batch_size", "eval_batch_size"):
        _require(config[field] % num_devices == 0, config, field, f"a multiple of the {num_devices} devices")


def check_image_size(config: ConfigDict, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raises BadInput if the images are smaller than the model can take."""
    height, width, channels = image_shape
    if takes_images(model, image_shape):
        return
    side = smallest_side(model, channels)
    if side and side > min(height, width):  # otherwise the size is not the reason; the model raises its own error
        raise BadInput(
            f"config.dataset: the model {config.model} needs images of at least {side} x {side} pixels, and these are "
            f"{height} x {width}; use larger images or config.model=mlp, which takes any size"
        )


def _require(condition: bool, config: ConfigDict, field: str, possible: str) -> None:
    if not condition:
        value = " ".join(reprlib.repr(config[field]).split())
        raise BadInput(f"config.{field}: {value} is not valid; use {possible}")
