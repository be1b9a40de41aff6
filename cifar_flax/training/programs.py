"""What a run computes with: its model and optimizer, the compiled programs, and the images in the devices' memory."""

import math
import time
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, Sharding
from ml_collections import ConfigDict

from cifar_flax.config import MODEL_SETTINGS, base_config
from cifar_flax.data import Dataset, Split
from cifar_flax.models import MODELS
from cifar_flax.training.augment import AUGMENTATIONS, Augmentation
from cifar_flax.training.averaging import make_averaging
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.optimizers import make_optimizer
from cifar_flax.training.state import TrainState
from cifar_flax.training.steps import data_mesh, make_evaluate, make_train_steps, replicated


class Job(NamedTuple):
    """What stays the same all through a run."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: Mesh
    batch_size: int
    steps_per_epoch: int
    num_steps: int

    @property
    def num_epochs(self) -> int:
        """Epochs begun: 10 for 9.9."""
        return math.ceil(self.num_steps / self.steps_per_epoch)


class Programs(NamedTuple):
    """The two compiled programs of a run, and the images they work on, in the devices' memory.

    `evaluate_tta`, None where `config.tta` is none, is used once, after the training, and compiled then.
    """

    train_steps: Any
    evaluate: Any
    evaluate_tta: Any
    train: tuple[Array, Array]
    validation: tuple[Array, Array, np.int32]
    test: tuple[Array, Array, np.int32]
    compile_seconds: float


def make_job(config: ConfigDict, dataset: Dataset, devices: list[jax.Device]) -> Job:
    steps_per_epoch = len(dataset.train) // config.batch_size
    num_steps = math.ceil(round(config.num_epochs * steps_per_epoch, 6))  # 476 for 9.9 epochs of 48, as airbench94
    return Job(
        model=make_model(config, dataset.num_classes),
        optimizer=make_optimizer(config, num_steps, steps_per_epoch),
        mesh=data_mesh(devices),
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )


def make_model(config: ConfigDict, num_classes: int) -> nn.Module:
    usual = base_config()
    settings = {field: config[field] for field in MODEL_SETTINGS if config[field] != usual[field]}
    return MODELS[config.model](num_classes, dtype=jnp.dtype(config.dtype), lowering=config.lowering, **settings)


def resolve_lowering(config: ConfigDict, platform: str) -> str:
    """What `auto` stands for: the library, and on CPUs what the network asks for, else `patches`."""
    if config.lowering != "auto":
        return config.lowering
    return getattr(MODELS[config.model], "cpu_lowering", "patches") if platform == "cpu" else "library"


def augmentation_of(config: ConfigDict) -> Augmentation:
    return AUGMENTATIONS[config.augment](config.max_translation)


def zero_metrics(job: Job) -> Metrics:
    """The sums before an epoch, on the devices."""
    return jax.device_put(Metrics.zero(), replicated(job.mesh))


def make_programs(job: Job, state: TrainState, metrics: Metrics, dataset: Dataset, config: ConfigDict) -> Programs:
    """Places the images and compiles, each program once; `state` and `metrics` only lend their shapes."""
    sharding = replicated(job.mesh)
    train = place(dataset.train, len(dataset.train), sharding)
    rows = max(len(dataset.validation), len(dataset.test))  # of one shape, so that one compilation serves both
    validation = (*place(dataset.validation, rows, sharding), np.int32(len(dataset.validation)))
    test = (*place(dataset.test, rows, sharding), np.int32(len(dataset.test)))
    train_steps = make_train_steps(
        job.model,
        job.optimizer,
        augmentation_of(config),
        batch_size=job.batch_size,
        steps_per_epoch=job.steps_per_epoch,
        label_smoothing=config.label_smoothing,
        mesh=job.mesh,
        averaging=make_averaging(config, job.num_steps),
    )
    make = partial(
        make_evaluate, job.model, num_classes=dataset.num_classes, batch_size=config.eval_batch_size, mesh=job.mesh
    )
    began = time.perf_counter()
    return Programs(
        train_steps=train_steps.lower(state, metrics, *train, np.int32(0)).compile(),
        evaluate=make().lower(state.params, state.batch_stats, *validation).compile(),
        evaluate_tta=None if config.tta == "none" else make(tta=config.tta),
        train=train,
        validation=validation,
        test=test,
        compile_seconds=time.perf_counter() - began,
    )


def place(split: Split, rows: int, sharding: Sharding) -> tuple[Array, Array]:
    """The split's images and labels on the devices, filled up to `rows` with zeros."""
    padding = rows - len(split)
    images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else split.images
    return jax.device_put(images, sharding), jax.device_put(np.pad(split.labels, (0, padding)), sharding)


class Evaluation(NamedTuple):
    """Of every image of a split: mean loss, accuracy in [0, 1], and the predicted classes [N] int32."""

    loss: float
    accuracy: float
    predicted: np.ndarray


def evaluate_all(program: Any, network: Any, split: tuple[Array, Array, np.int32]) -> Evaluation:
    """One pass of the program of evaluation over a split.

    Args:
        program: of `make_evaluate`.
        network: what has `params` and `batch_stats`: a TrainState, a Classifier.
        split: placed images and labels, and how many of them count.
    """
    metrics, logits = program(network.params, network.batch_stats, *split)
    count = int(split[2])
    if int(metrics.num_images) != count:
        raise AssertionError(f"evaluation counted {int(metrics.num_images)} of {count} images")
    loss, accuracy = metrics.means()
    return Evaluation(loss, accuracy, np.asarray(logits)[:count].argmax(-1).astype(np.int32))


def test_measures(programs: Programs, network: Any) -> tuple[dict[str, float], np.ndarray]:
    """What run.json says of the test images, and the predicted classes [N] int32, without test-time augmentation."""
    test = evaluate_all(programs.evaluate, network, programs.test)
    measures = {"test_loss": test.loss, "test_accuracy": test.accuracy}
    if programs.evaluate_tta:
        with_tta = evaluate_all(programs.evaluate_tta, network, programs.test)
        measures |= {"tta_test_loss": with_tta.loss, "tta_test_accuracy": with_tta.accuracy}
    return measures, test.predicted
