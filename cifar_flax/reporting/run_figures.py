"""The figures of a run, as PNG files in `figures/` and as images in TensorBoard."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from cifar_flax.data import Dataset
from cifar_flax.reporting import figures
from cifar_flax.training.augment import Augmentation
from cifar_flax.workdir.tensorboard import TensorBoard

NUM_TRAINING, NUM_AUGMENTED, NUM_PREDICTIONS = 30, 6, 32  # images shown


class RunFigures:
    """Draws the figures of one run."""

    def __init__(self, folder: Path, tensorboard: TensorBoard):
        self._folder, self._tensorboard = folder, tensorboard

    def _add(self, name: str, figure: Figure, step: int = 0) -> None:
        image = figures.pixels(figure)
        figures.save(image, self._folder / f"{name}.png")
        self._tensorboard.write_image(step, name, image)

    def add_training_images(self, dataset: Dataset) -> None:
        train = dataset.train[:NUM_TRAINING]
        self._add("training_images", figures.labeled_images(train.images, train.labels, dataset.class_names))

    def add_augmented_images(self, dataset: Dataset, augmentation: Augmentation, key: Array) -> None:
        """Draws training images as the first epoch augments them; `key` is the run's augmentation key."""
        images = dataset.train.images[:NUM_AUGMENTED]
        augmented = jax.jit(augmentation)(key, jnp.asarray(images, jnp.float32), jnp.arange(len(images)), jnp.int32(0))
        self._add("augmented_images", figures.augmented_images(images, np.asarray(augmented, np.uint8)))

    def add_curves(self, epochs: list[dict[str, float]], step: int) -> None:
        self._add("learning_curves", figures.learning_curves(epochs), step)

    def add_predictions(self, dataset: Dataset, predicted: np.ndarray, step: int, seed: int) -> None:
        """Shows test images, chosen by `seed`, under their predicted classes [N], and the confusion matrix of all."""
        test, names = dataset.test, dataset.class_names
        shown = np.random.default_rng(seed).permutation(len(test))[:NUM_PREDICTIONS]
        images, labels = test.images[shown], test.labels[shown]
        self._add("predictions", figures.predictions(images, labels, predicted[shown], names), step)
        counts = figures.count_confusions(test.labels, predicted, len(names))
        self._add("confusion_matrix", figures.confusion_matrix(counts, names, title="Test accuracy"), step)
