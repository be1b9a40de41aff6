"""`load(config)` returns the training, validation and test images of a run as arrays in memory.

To add a source, add a module here that returns a `Source`, and a line in `read`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from cifar_flax.data import archive, npz, synthetic, tfds
from cifar_flax.data.dataset import Dataset, Source, Split
from cifar_flax.errors import BadInput, in_one_line

__all__ = ["Dataset", "Source", "Split", "load", "num_validation_of", "read"]


def load(config: ConfigDict) -> Dataset:
    """Reads `config.dataset`. Its first `config.num_validation` training images become the validation split.

    Raises:
        BadInput: the dataset is missing or cannot be used, or no training images remain.
    """
    source = read(config.dataset, config.data_dir)
    num_validation = num_validation_of(config)
    if num_validation >= len(source.train):
        raise BadInput(
            f"config.num_validation: {num_validation} leaves none of the {len(source.train)} training images of "
            f"{config.dataset!r}; use a smaller number"
        )
    return Dataset(
        train=source.train[num_validation:],
        validation=source.train[:num_validation],
        test=source.test,
        class_names=source.class_names,
    )


def num_validation_of(config: ConfigDict) -> int:
    """`config.num_validation`, but for `synthetic` at most the number of its validation images."""
    limit = synthetic.NUM_VALIDATION if config.dataset == "synthetic" else config.num_validation
    return min(config.num_validation, limit)


def read(dataset: str, data_dir: str | None) -> Source:
    """Reads the complete source that `config.dataset` names."""
    if dataset == "synthetic":
        return synthetic.load()
    try:
        path = Path(dataset).expanduser()
        is_archive = archive.is_archive(path)
        path.exists()
    except (OSError, RuntimeError) as error:  # name too long, unknown user in ~user, no permission
        raise BadInput(f"config.dataset: {dataset!r} cannot be looked up ({in_one_line(error)})") from error
    if path.suffix == ".npz":
        return npz.load(path)
    if is_archive:
        return archive.load(path)
    return tfds.load(dataset, data_dir)
