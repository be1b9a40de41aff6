"""The pictures of a run: PNG files below `figures/`, and the same in TensorBoard."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from cifar_flax.data import Dataset
from cifar_flax.reporting import figures
from cifar_flax.training.augment import Augmentation, keep
from cifar_flax.workdir.records import Records
from cifar_flax.workdir.tensorboard import TensorBoard


class Gallery:
    """Draws pictures of one run at one step of it."""

    def __init__(self, records: Records, tensorboard: TensorBoard, step: int):
        self._folder = records.workdir / "figures"
        self._tensorboard = tensorboard
        self._step = step

    def _add(self, name: str, figure: Figure) -> None:
        figures.save(figure, self._folder / f"{name}.png")
        self._tensorboard.write_image(self._step, name, figures.pixels(figure))

    def add_inputs(self, dataset: Dataset, augmentation: Augmentation, key: Array) -> None:
        """What is trained on; `key` is the run's root of augmentation, so these are images of its first epoch."""
        train = dataset.train[:30]
        self._add("training_images", figures.labelled_images(train.images, train.labels, dataset.class_names))
        if augmentation is not keep:
            images, indices = jnp.asarray(train.images[:6], jnp.float32), jnp.arange(len(train.images[:6]))
            augmented = jax.jit(augmentation)(key, images, indices, jnp.int32(0))
            self._add("augmented_images", figures.augmented_images(train.images[:6], np.asarray(augmented, np.uint8)))

    def add_curves(self, epochs: list[dict[str, float]]) -> None:
        self._add("learning_curves", figures.learning_curves(epochs))

    def add_predictions(self, dataset: Dataset, predicted: np.ndarray, seed: int) -> None:
        """`predicted` [N] are the classes of the test images; `seed` chooses the 32 that are shown."""
        test, names = dataset.test, dataset.class_names
        shown = np.random.default_rng(seed).permutation(len(test))[:32]
        self._add("predictions", figures.predictions(test.images[shown], test.labels[shown], predicted[shown], names))
        counts = figures.count_confusions(test.labels, predicted, len(names))
        self._add("confusion_matrix", figures.confusion_matrix(counts, names))
