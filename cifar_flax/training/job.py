"""A job: the model, the optimizer and everything else that stays the same throughout a run."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_flax.data import Dataset, num_validation_of
from cifar_flax.models import make_model, resolve_lowering
from cifar_flax.training.augment import AUGMENTATIONS, Augmentation
from cifar_flax.training.averaging import Averaging, make_averaging
from cifar_flax.training.checks import check_image_size, check_sizes
from cifar_flax.training.metrics import Metrics
from cifar_flax.training.optimizers import make_optimizer, make_schedule
from cifar_flax.training.sharding import data_mesh, replicated
from cifar_flax.training.state import TrainState, split_rng


class Job(NamedTuple):
    """What a training step needs besides the state and the batch.

    Attributes:
        model: called with images [B, H, W, C] float32 in [0, 1] and `train`.
        optimizer: an optax transformation.
        schedule: the learning rate by step, as the optimizer applies it; the first step is 0.
        augmentation: applied to each training batch.
        averaging: applied to the state after each update; None: no averaging.
        label_smoothing: of the training loss.
        mesh: the devices.
        batch_size: images per step, over all devices.
        steps_per_epoch: full batches in the training set.
        num_steps: steps of the whole run.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augmentation: Augmentation
    averaging: Averaging | None
    label_smoothing: float
    mesh: Mesh
    batch_size: int
    steps_per_epoch: int
    num_steps: int

    @property
    def num_epochs(self) -> int:
        """Number of epochs that are started: 10 for 9.9."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def finished_epochs(self, step: int) -> int:
        """Number of epochs that are finished after `step` steps."""
        return self.num_epochs if step >= self.num_steps else step // self.steps_per_epoch

    def steps_after(self, epoch: int) -> int:
        """Number of finished steps at the end of an epoch; epochs count from 1."""
        return min(epoch * self.steps_per_epoch, self.num_steps)


def resolve_config(config: ConfigDict, devices: list[jax.Device]) -> ConfigDict:
    """A copy with the values that take effect on these devices: what `auto` stands for, how many validation images."""
    config = config.copy_and_resolve_references()
    config.num_validation = num_validation_of(config)
    config.lowering = resolve_lowering(config, devices[0].platform)
    return config


def make_job(config: ConfigDict, num_train: int, num_classes: int, devices: list[jax.Device]) -> Job:
    """The job of a resolved config on `num_train` training images of `num_classes` classes."""
    steps_per_epoch = num_train // config.batch_size
    num_steps = math.ceil(round(config.num_epochs * steps_per_epoch, 6))  # 476 for 9.9 epochs of 48, as in airbench94
    return Job(
        model=make_model(config, num_classes),
        optimizer=make_optimizer(config, num_steps, steps_per_epoch),
        schedule=make_schedule(config, num_steps),
        augmentation=AUGMENTATIONS[config.augment](config.max_translation),
        averaging=make_averaging(config, num_steps),
        label_smoothing=config.label_smoothing,
        mesh=data_mesh(devices),
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )


def make_job_for(config: ConfigDict, dataset: Dataset, devices: list[jax.Device]) -> Job:
    """The job of a resolved config on a dataset. Raises BadInput if the config does not fit the images or devices."""
    check_sizes(config, len(dataset.train), dataset.image_shape, len(devices))
    job = make_job(config, len(dataset.train), dataset.num_classes, devices)
    check_image_size(config, job.model, dataset.image_shape)
    return job


def init_state(job: Job, rng: Array, images: Array, statistics: dict[str, Array] | None = None) -> TrainState:
    """The state before the first step. A pure function: it can be jitted, or traced for its shapes alone.

    Args:
        job: the run's model, optimizer and averaging.
        rng: the key of the run's seed.
        images: [B, H, W, C] uint8, training images. Only layers that compute statistics from them (`Normalize`,
            `Whiten`) read their values.
        statistics: of `Normalize`, if they are not those of `images`.
    """
    _, variables = job.model.apply(
        {"batch_stats": {"normalize": statistics} if statistics else {}},
        images.astype(jnp.float32) / 255,
        train=False,
        mutable=["params", "batch_stats"],
        rngs={"params": split_rng(rng).params},
    )
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=job.optimizer.init(params),
        average=(params, batch_stats) if job.averaging else None,
        rng=rng,
    )


def zero_metrics(job: Job) -> Metrics:
    """The sums at the start of an epoch, on the devices of this process."""
    return jax.device_put(Metrics.zero(), replicated(job.mesh.local_mesh))


def abstract_state(job: Job, image_shape: tuple[int, int, int]) -> tuple[TrainState, Metrics]:
    """Shapes, dtypes and shardings, on the devices of this process, of the state and the metrics."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    state = jax.eval_shape(partial(init_state, job), jax.random.key(0), image)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(job.mesh.local_mesh))

    abstract: tuple[TrainState, Metrics] = jax.tree.map(placed, (state, jax.eval_shape(Metrics.zero)))
    return abstract
