"""cifar_flax: the compiled programs that `cifar_flax.main` runs."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.contestants import Images, Settings
from benchmarks.machine import peak_device_bytes
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.data import Dataset, Split
from cifar_flax.ops.xla_options import choose_options
from cifar_flax.training.evaluation import evaluate_split
from cifar_flax.training.job import init_state, make_job, resolve_config, zero_metrics
from cifar_flax.training.programs import make_programs
from cifar_flax.training.state import count_parameters

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


class Ours:
    """Trains in chunks of an epoch, as the training loop does."""

    def __init__(self, config: ConfigDict, images: Images, num_classes: int) -> None:
        train = Split(images.train_images, images.train_labels)
        test = Split(images.test_images, images.test_labels)
        dataset = Dataset(train, test, test, tuple(map(str, range(num_classes))))
        devices = jax.devices()
        config = resolve_config(config, devices)
        self.job = make_job(config, len(train), dataset.num_classes, devices)
        self.metrics = zero_metrics(self.job)
        self.state = jax.jit(partial(init_state, self.job))(jax.random.key(0), images.train_images)
        self.num_parameters = count_parameters(self.state.params)
        self.programs = make_programs(self.job, dataset, config)
        self.compile_seconds = self.programs.compile_seconds
        self.step = 0

    def train(self, num_steps: int) -> None:
        train = self.programs.train
        while num_steps:
            epoch, done = divmod(self.step, self.job.steps_per_epoch)
            if not done:
                self.order = self.programs.epoch_order(self.state.rng, np.int32(epoch))
            chunk = min(num_steps, self.job.steps_per_epoch - done)
            self.step, num_steps = self.step + chunk, num_steps - chunk
            self.state, self.metrics, diverged = self.programs.train_steps(
                self.state, self.metrics, self.order, train.images, train.labels, np.int32(self.step)
            )
            assert not diverged

    def evaluate(self) -> float:
        return evaluate_split(self.programs.evaluate, self.state, self.programs.test).accuracy

    def peak_device_bytes(self) -> int | None:
        return peak_device_bytes()


def build(network: str, images: Images, settings: Settings, augment: str = "none") -> Ours:
    choose_options()
    config = load_experiment(str(EXPERIMENTS / f"{network}.py"))
    config.batch_size, config.augment = settings.batch_size, augment
    config.eval_batch_size = settings.eval_batch_size or config.eval_batch_size
    if settings.precision == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # by default, GPUs round to TF32
    elif settings.precision == "bfloat16":
        config.dtype = "bfloat16"
    return Ours(config, images, settings.num_classes)
