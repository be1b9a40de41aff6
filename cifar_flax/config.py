"""Every field of a run, the experiment files that set them, and the checks before anything starts."""

import difflib
import math
import reprlib
import runpy
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.models import MODELS
from cifar_flax.ops.patches import LOWERINGS
from cifar_flax.training.augment import AUGMENTATIONS
from cifar_flax.training.optimizers import OPTIMIZERS, SCHEDULES
from cifar_flax.training.tta import TTA

# Fields that say where or how a run is computed, not which numbers come out (but for rounding).
NOT_PART_OF_THE_RECIPE = ("experiment", "data_dir", "lowering", "eval_batch_size", "tta", "save_seconds")

CHOICES: dict[str, Collection[str]] = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "dtype": ("float32", "bfloat16"),
    "lowering": ("auto", *LOWERINGS),
    "tta": TTA,
}

# Fields that are arguments of the network where they are set; it must have them.
MODEL_SETTINGS = ("dropout", "normalize")


def base_config() -> ConfigDict:
    """The reference's recipe with its plain CNN; locked, so that an unknown field is an error."""
    config = ConfigDict()
    # Name of the run and of its default folder: the experiment file's stem.
    config.experiment = "base"

    # `synthetic`, an image-classification set of TFDS by its name, or a path: cifar-10-python.tar.gz, the folder
    # cifar-10-batches-py, or a .npz with x_train y_train x_test y_test.
    config.dataset = "cifar10"
    # Folder of TFDS' prepared sets; unset: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    config.data_dir = config_dict.placeholder(str)
    # Validation images: the first so many of the training set. `synthetic` has 1,000 for it and gives no more. With 0
    # the network is trained on all images and tested as the last epoch leaves it.
    config.num_validation = 5_000

    # Network: mlp, cnn, alexnet or airbench.
    config.model = "cnn"
    # Type of the computation: float32 or bfloat16. Parameters are float32 always.
    config.dtype = "float32"
    # Convolutions and poolings by XLA (`library`) or as matrix products: `patches`, or `winograd` for those of 3x3.
    # auto: the library, and on CPUs patches, or winograd for airbench.
    config.lowering = "auto"

    # Whether images are normalised: minus the mean of the training images, over their standard deviation, by channel.
    config.normalize = False
    # Rate of every dropout layer, in [0, 1); unset: what the network's own layers say.
    config.dropout = config_dict.placeholder(float)

    # Passes over the training images; a fraction ends the run within the last one.
    config.num_epochs = 20.0
    # Images per training step, over all devices. An epoch's remainder is dropped, another one each time.
    config.batch_size = 32
    # Images per step of evaluation, over all devices.
    config.eval_batch_size = 200
    # Test-time augmentation, whose result stands beside the plain one: none, or mirror_translate, the mean over an
    # image, its moves by a pixel and their mirror images. See tta.py.
    config.tta = "none"
    # Random changes of training images: none; shift_flip, the reference's (a tenth of the side each way, bilinear, and
    # mirrored or not); translate_flip (whole pixels, reflected at the edges, and mirrored in every other epoch).
    config.augment = "none"
    # Pixels that translate_flip moves an image at most.
    config.max_translation = 4

    # adam or rmsprop (eps 1e-7 as in Keras), or sgd with Nesterov momentum.
    config.optimizer = "adam"
    # Share of the last direction that sgd keeps, in [0, 1).
    config.momentum = 0.9
    # Step size, at its highest.
    config.learning_rate = 1e-3
    # What follows the warm-up: constant, or down to the end by a cosine or in a straight line.
    config.schedule = "constant"
    # Share of the steps in which the step size rises in a straight line; in [0, 1].
    config.warmup = 0.0
    # Step size at the first step of a warm-up and at the last step of a schedule, as shares of the highest.
    config.start_scale = 0.0
    config.end_scale = 0.0
    # Decay per step, times the learning rate: of the kernels and decoupled from the gradient (AdamW); with sgd of all
    # parameters and within the gradient, as in PyTorch.
    config.weight_decay = 0.0
    # Step size of BatchNorm's biases, as a multiple of that of the other parameters.
    config.norm_bias_scale = 1.0
    # Epochs in which the bias of a whitening layer is trained; 0: all of them.
    config.whitening_epochs = 0.0
    # Steps from one averaging of the parameters and statistics to the next; 0: none. See averaging.py.
    config.average_every = 0
    # Share of the average that is kept per step of the network, at the end of the run; in [0, 1).
    config.average_decay = 0.95
    # Share of the label that is spread over all classes, in training only; in [0, 1).
    config.label_smoothing = 0.0

    # Seconds of training after which the position within an epoch is saved; the end of an epoch always is.
    config.save_seconds = 600.0

    # Decides everything random: initialisation, order, augmentation, dropout.
    config.seed = 0
    return config.lock()


def with_variant(config: ConfigDict, variant: str, smoke_epochs: float = 2.0) -> ConfigDict:
    """The config as `file.py:variant` asks for it.

    Args:
        config: an experiment's config; changed in place.
        variant: "" leaves it; "demo" is a first run on synthetic images; "smoke" only proves that everything works.
        smoke_epochs: how long "smoke" trains, to stay under a minute on two CPU cores.

    Raises:
        BadInput: another variant.
    """
    if variant not in ("", "demo", "smoke"):
        raise BadInput(f"--config: {config.experiment}.py has no variant {variant!r}; there are 'demo' and 'smoke'")
    if variant:
        config.dataset = "synthetic"
        config.num_epochs = 15.0 if variant == "demo" else smoke_epochs
    return config


def split_spec(spec: str) -> tuple[str, str]:
    """`file.py:variant` as (file, variant), and `file.py` as (file, "")."""
    file, found, variant = spec.rpartition(".py:")
    return (f"{file}.py", variant) if found else (spec, "")


def load_experiment(spec: str) -> ConfigDict:
    """The config of `experiments/cnn.py` or `experiments/cnn.py:smoke`.

    Raises:
        BadInput: no such file, an error in it (with its own line), or no config returned.
    """
    file, variant = split_spec(spec)
    path = Path(file)
    try:
        found = path.is_file()
    except OSError as error:  # such as too long a name
        raise BadInput(f"--config: no experiment file ({in_one_line(error)})") from error
    if not found:
        raise BadInput(f"--config: no experiment file {str(path)!r}{_nearest_file(path)}")
    try:
        config = runpy.run_path(str(path))["get_config"](*([variant] if variant else []))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"--config: {_place(path, error)}: {in_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise BadInput(f"--config: get_config() of {path} returns {type(config).__name__}, not a ConfigDict")
    return config.lock()


def _nearest_file(path: Path) -> str:
    here = [str(other) for other in sorted(path.parent.glob("*.py"))]
    return nearest(str(path), here) if here else "; name a file such as experiments/cnn.py"


def _place(path: Path, error: Exception) -> str:
    """Where in the experiment file an error arose."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def nearest(name: str, known: list[str]) -> str:
    """What to say of an unknown name: the most similar known one, or else all of them."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; possible: {', '.join(known)}"


KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}


def validate(config: ConfigDict) -> None:
    """Checks every field that can be checked before the data is there.

    Raises:
        BadInput: names the field, what was found and what is possible.
    """
    known = base_config()
    for field, default in known.items():
        if field not in config:
            raise BadInput(f"config.{field}: missing; begin an experiment with base_config()")
        kind, value = known.get_type(field), config[field]
        fits = type(value) in ((int, float) if kind is float else (kind,)) or value is default is None
        _require(fits, config, field, KINDS[kind])
    for field, choices in CHOICES.items():
        if config[field] not in choices:
            raise BadInput(f"config.{field}: no such {field} {config[field]!r}{nearest(config[field], list(choices))}")
    for field in MODEL_SETTINGS:
        usual = config[field] == known[field] or hasattr(MODELS[config.model], field)
        _require(usual, config, field, f"no value, as the network {config.model} has no such setting")
    _require(bool(config.dataset), config, "dataset", "'synthetic', the name of a TFDS set or a path")
    _validate_numbers(config)


def _validate_numbers(config: ConfigDict) -> None:
    for field in ("batch_size", "eval_batch_size"):
        _require(config[field] >= 1, config, field, "a whole number from 1")
    _require(config.eval_batch_size <= 2**16, config, "eval_batch_size", "at most 65536")
    for field in ("num_epochs", "save_seconds"):
        _require(0 < config[field] <= sys.float_info.max, config, field, "a finite number above 0")
    for field in ("learning_rate", "weight_decay", "start_scale", "end_scale", "norm_bias_scale", "whitening_epochs"):
        _require(0 <= config[field] <= sys.float_info.max, config, field, "a finite number from 0")
    for field in ("label_smoothing", "dropout", "momentum", "average_decay"):
        _require(0 <= (config[field] or 0) < 1, config, field, "a number from 0 to below 1")
    _require(0 <= config.warmup <= 1, config, "warmup", "a number from 0 to 1")
    for field in ("num_validation", "max_translation", "average_every"):
        _require(config[field] >= 0, config, field, "a whole number from 0")
    _require(0 <= config.seed < 2**32, config, "seed", "a whole number from 0 to 4294967295")


def validate_sizes(config: ConfigDict, num_train: int, image_shape: tuple[int, int, int], num_devices: int) -> None:
    """Checks the fields that depend on the training set and the devices.

    Raises:
        BadInput: a batch larger than the set or one that the devices do not divide, or a translation beyond the image.
    """
    _require(
        config.batch_size <= num_train, config, "batch_size", f"at most the number of training images, {num_train}"
    )
    if config.augment == "translate_flip":
        most = min(image_shape[:2]) - 1
        _require(config.max_translation <= most, config, "max_translation", f"at most {most} for images of this size")
    for field in ("batch_size", "eval_batch_size"):
        _require(config[field] % num_devices == 0, config, field, f"a multiple of the {num_devices} devices")


def _require(condition: bool, config: ConfigDict, field: str, possible: str) -> None:
    if not condition:
        found = " ".join(reprlib.repr(config[field]).split())
        raise BadInput(f"config.{field}: {found} is not possible; give {possible}")


def differences(stored: dict[str, Any], config: ConfigDict) -> list[str]:
    """The fields that change a run's numbers and differ, each as `field: stored -> asked for`.

    More epochs are no difference where nothing before the stored end depends on their number. A field that came into
    being after the run has its default.
    """
    stored = with_defaults(stored)
    fields = sorted({*stored, *config} - set(NOT_PART_OF_THE_RECIPE))
    differing = [field for field in fields if stored.get(field) != config.get(field)]
    if "num_epochs" in differing and extends(stored, config):
        differing.remove("num_epochs")
    return [f"{field}: {stored.get(field)!r} -> {config.get(field)!r}" for field in differing]


def with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config, and the fields that it was written without."""
    return {**base_config().to_dict(), **stored}


def extends(stored: dict[str, Any], config: ConfigDict) -> bool:
    """Whether the config asks for more epochs of a run that would begin with the stored one, step by step."""
    before, now = stored.get("num_epochs"), config.num_epochs
    constant = config.schedule == "constant" and config.warmup == 0 and config.average_every == 0
    whole = isinstance(before, int | float) and math.isfinite(before) and before == int(before)
    return whole and now > before and constant
