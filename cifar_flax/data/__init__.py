"""`load(config)` returns the training, validation and test images of a run as arrays in memory.

To add a source, add a module here that returns a `Source`, and a line in `locate.py` that recognizes its files.
"""

import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import synthetic, tfds
from cifar_flax.data.dataset import Dataset, Source, Split
from cifar_flax.data.locate import is_path, locate
from cifar_flax.errors import BadInput

__all__ = ["Dataset", "Source", "Split", "is_path", "load", "num_validation_of", "read"]


def load(config: ConfigDict) -> Dataset:
    """Reads `config.dataset` and divides it into training, validation and test images.

    The validation split is the source's own; without one, the first `config.num_validation` training images.
    With `config.num_validation` 0, all of these images are used for training.

    Raises:
        BadInput: the dataset is missing or cannot be used, or no training images remain.
    """
    source = read(config.dataset, config.data_dir)
    train, num_validation = source.train, num_validation_of(config)
    if source.validation is not None:
        train = _concatenate(source.validation, source.train)
        num_validation = len(source.validation) if num_validation else 0
    if num_validation >= len(train):
        raise BadInput(
            f"config.num_validation: {num_validation} leaves none of the {len(train)} training images of "
            f"{config.dataset!r}; use a smaller number"
        )
    return Dataset(
        train=train[num_validation:],
        validation=train[:num_validation],
        test=source.test,
        class_names=source.class_names,
    )


def _concatenate(first: Split, second: Split) -> Split:
    return Split(np.concatenate([first.images, second.images]), np.concatenate([first.labels, second.labels]))


def num_validation_of(config: ConfigDict) -> int:
    """`config.num_validation`, but for `synthetic` at most the number of its validation images."""
    limit = synthetic.NUM_VALIDATION if config.dataset == "synthetic" else config.num_validation
    return min(config.num_validation, limit)


def read(dataset: str, data_dir: str | None) -> Source:
    """Reads the complete source that `config.dataset` names: `synthetic`, a file or folder, or a TFDS dataset.

    Raises:
        BadInput: there is no such source, or it cannot be used.
    """
    if dataset == "synthetic":
        return synthetic.load()
    located = locate(dataset)
    if isinstance(located, str):
        return tfds.load(dataset, data_dir, located)
    load_path, path = located
    return load_path(path)
