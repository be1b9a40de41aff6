"""Loads a trained run as a function from images to probabilities.

classifier = load_run("runs/cnn")
probabilities = classifier(images)  # [N, H, W, C] uint8 -> [N, K] float32
print(classifier.class_names[probabilities[0].argmax()])
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cifar_flax.data import Split, load
from cifar_flax.data.labeled_sets import Network, Part, open_set
from cifar_flax.errors import BadInput, warn
from cifar_flax.training.memory import batch_fits
from cifar_flax.weights.trained import read_trained
from cifar_flax.workdir.identity import describe_data, refuse_other_data


class Classifier:
    """A trained model. Called with images [N, H, W, C] uint8, it returns probabilities [N, K] float32.

    Attributes:
        config: of the run, with the values that took effect.
        run: the content of run.json.
        epoch: number of finished epochs in the checkpoint.
        model: the network.
        params: its parameters.
        batch_stats: its running statistics; may be empty.
    """

    def __init__(
        self, config: ConfigDict, run: dict[str, Any], epoch: int, model: nn.Module, params: Any, batch_stats: Any
    ):
        self.config, self.run, self.epoch, self.model = config, run, epoch, model
        self.params, self.batch_stats = params, batch_stats
        self._probabilities = jax.jit(self._compute)

    @property
    def class_names(self) -> list[str]:
        return self.run["class_names"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.run["image_shape"]
        return height, width, channels

    @property
    def done(self) -> bool:
        """Whether the run is done, so that its test images may be looked at."""
        return self.run["status"] == "done"

    def _compute(self, params: Any, batch_stats: Any, images: Array) -> Array:
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Any = self.model.apply(variables, images.astype(jnp.float32) / 255, train=False)
        return nn.softmax(logits)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Raises ValueError if the images are not [N, H, W, C] uint8 with the run's image shape."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(f"images are {images.dtype} {list(images.shape)}, not uint8 {['N', *self.image_shape]}")
        size = self.config.eval_batch_size
        results = [np.empty((0, len(self.class_names)), np.float32)]
        with batch_fits("--eval_batch_size", size):
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))  # one shape, compiled once
                results.append(np.asarray(self._probabilities(self.params, self.batch_stats, padded))[: len(batch)])
        return np.concatenate(results)

    def most_probable(self, probabilities: np.ndarray, count: int | None = None) -> dict[str, float]:
        """The `count` most probable classes of one image, or all of them, with their probabilities [K], best first."""
        best = probabilities.argsort()[::-1][:count]
        return {self.class_names[label]: float(probabilities[label]) for label in best}


def load_run(workdir: str | Path, eval_batch_size: int | None = None) -> Classifier:
    """The model of a workdir with the parameters of its best checkpoint; in an unfinished run, the best so far.

    Without validation images it is the newest checkpoint.

    Args:
        workdir: the folder of a run.
        eval_batch_size: number of images that the model processes at once; None: as in the run.

    Raises:
        BadInput: there is no run or no checkpoint, or they are damaged, or `eval_batch_size` is not valid.
    """
    if eval_batch_size is not None and not 1 <= eval_batch_size <= 2**16:
        raise BadInput(f"--eval_batch_size: {eval_batch_size} is not valid; use a number from 1 to 65536")
    trained = read_trained(workdir)
    trained.config.eval_batch_size = eval_batch_size or trained.config.eval_batch_size
    return Classifier(*trained)


def load_split(classifier: Classifier, name: str, data_dir: str | None = None, dataset: str | None = None) -> Split:
    """The split `name` (train, validation or test) of the dataset that a run was trained on.

    Args:
        classifier: the run.
        name: train, validation or test.
        data_dir: folder of prepared TFDS datasets, if it has moved since.
        dataset: where the dataset is now, as in `config.dataset`, if it has moved since.

    Raises:
        BadInput: the dataset cannot be loaded, or it is not what the run was trained on.
    """
    config = classifier.config.copy_and_resolve_references()
    moved = {"data_dir": data_dir, "dataset": dataset}
    config.update({field: value for field, value in moved.items() if value is not None})
    try:
        loaded = load(config)
    except BadInput as error:
        raise BadInput(f"{error}; if the run's dataset has moved, name it with --dataset") from error
    refuse_other_data(classifier.run, describe_data(loaded), f"--dataset: {config.dataset}")
    if "data_sha256" not in classifier.run:
        warn("the images are not checked, because this run was trained by an older version")
    split: Split = getattr(loaded, name)
    return split


def load_set(classifier: Classifier, name: str, data_dir: str | None = None) -> list[Part]:
    """The parts of another labeled set of a run's classes, as `open_set` describes.

    Args:
        classifier: the run.
        name: a path, or the name of a TFDS dataset.
        data_dir: folder of prepared TFDS datasets; None: as in the run.

    Raises:
        BadInput: the set cannot be used, or its images or classes are not those of the run.
    """
    network = Network(classifier.image_shape, classifier.class_names, classifier.config.label)
    return open_set(name, network, data_dir or classifier.config.data_dir)
