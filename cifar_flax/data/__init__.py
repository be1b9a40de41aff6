"""`load(config)` returns the training, validation and test images of a run as arrays in memory.

To add a source, add a module here that returns a `Source`, and a line in `locate.py` that recognizes its files.
"""

from ml_collections import ConfigDict

from cifar_flax.data import synthetic, tfds
from cifar_flax.data.dataset import Dataset, Options, Source, Split, concatenated
from cifar_flax.data.locate import is_path, locate
from cifar_flax.data.split import split_off
from cifar_flax.errors import BadInput

__all__ = ["Dataset", "Options", "Source", "Split", "is_path", "load", "num_validation_of", "read"]


def load(config: ConfigDict) -> Dataset:
    """Reads `config.dataset` and divides it into training, validation and test images.

    The validation split is the source's own; without one, the first `config.num_validation` training images.
    With `config.num_validation` 0, all of these images are used for training.

    Raises:
        BadInput: the dataset is missing or cannot be used, or no training images remain.
    """
    source = read(config)
    if source.train is None:
        raise BadInput(
            f"config.dataset: {config.dataset!r} has no training images; name it with --on of cifar_flax.evaluate"
        )
    train, test = _with_test_split(source.train, source.test, config)
    validation, num_validation = source.validation, num_validation_of(config)
    if validation is None:
        if num_validation >= len(train):
            raise BadInput(
                f"config.num_validation: {num_validation} leaves none of the {len(train)} training images of "
                f"{config.dataset!r}; use a smaller number, such as {len(train) // 10}"
            )
        train, validation = train[num_validation:], train[:num_validation]
    elif not num_validation:
        train, validation = concatenated(validation, train), validation[:0]
    return Dataset(train, validation, test, source.class_names)


def _with_test_split(train: Split, test: Split | None, config: ConfigDict) -> tuple[Split, Split]:
    """The training and the test images of a source. Without a test split, `config.test_share` of each class.

    Raises:
        BadInput: there is no test split and `config.test_share` is 0, or the other way around.
    """
    share, name = config.test_share, repr(config.dataset)
    if test is not None:
        if share:
            raise BadInput(f"config.test_share: {share} is not valid; use 0, because {name} has a test split")
        return train, test
    if not share:
        raise BadInput(
            f"config.test_share: {name} has no test split; set the fraction of the images to test on, "
            "such as --config.test_share=0.2"
        )
    remaining, chosen = split_off(train, share)
    if not len(chosen):
        raise BadInput(f"config.test_share: {name} has only one image of each class; add more images")
    return remaining, chosen


def num_validation_of(config: ConfigDict) -> int:
    """`config.num_validation`, but for `synthetic` at most the number of its validation images."""
    limit = synthetic.NUM_VALIDATION if config.dataset == "synthetic" else config.num_validation
    return min(config.num_validation, limit)


def read(config: ConfigDict) -> Source:
    """Reads the complete source that `config.dataset` names: `synthetic`, a file or folder, or a TFDS dataset.

    Raises:
        BadInput: there is no such source, or it cannot be used.
    """
    options = Options(config.image_size, config.label)
    if config.dataset == "synthetic":
        options.refuse("image_size", "label", source="'synthetic'")
        return synthetic.load()
    located = locate(config.dataset)
    if isinstance(located, str):
        return tfds.load(config.dataset, config.data_dir, located, options)
    load_path, path = located
    return load_path(path, options)
