"""Opens a labeled set of images that a run is only evaluated on, and numbers its labels as the run does.

It is CIFAR-10.1 or CIFAR-10-C as published (`npy_sets`), the corruptions that TFDS has prepared, or any source of
`cifar_flax.data`.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cifar_flax.data import cifar, folder, npy_sets, parquet, read, tfds
from cifar_flax.data.corruptions import NAMES_IN_TFDS, SEVERITIES, in_order
from cifar_flax.data.dataset import Source, Split, concatenated
from cifar_flax.data.locate import locate
from cifar_flax.data.paths import listed, read_path
from cifar_flax.errors import BadInput, printable

CORRUPTED = re.compile(r"\w+_corrupted", re.ASCII)  # a dataset of TFDS without its config, such as cifar10_corrupted
CONFIG = re.compile(r"(\w+)_(\d+)", re.ASCII)  # of such a dataset: corruption and severity


class Network(NamedTuple):
    """What the network of a run takes and answers.

    Attributes:
        image_shape: height, width and channels.
        class_names: one for each label.
        label: `config.label` of the run.
    """

    image_shape: tuple[int, int, int]
    class_names: Sequence[str]
    label: str | None = None


class Part(NamedTuple):
    """Images that are evaluated together.

    Attributes:
        corruption: its name in CIFAR-10-C; "" for images without one.
        severity: from 1 to 5; 0 without a corruption.
        load: returns the images, with the labels of the network. Raises BadInput like `open_set`.
    """

    corruption: str
    severity: int
    load: Callable[[], Split]


def open_set(name: str, network: Network, data_dir: str | None = None) -> list[Part]:
    """The parts of a set: a single one, or one for each corruption, in the order of `in_order`, and severity.

    Files of `.npy` are mapped and checked here. Other sources are read and checked by `Part.load`.

    Args:
        name: a path, `synthetic`, or the name of a TFDS dataset.
        network: what will be evaluated on the set.
        data_dir: the folder of prepared TFDS datasets; None: TFDS's default.

    Raises:
        BadInput: there is no such set, it cannot be used, or its images or classes are not those of the network.
    """
    with _flags_named():
        path = read_path(name, "--on")
        if found := npy_sets.find(path):
            splits = npy_sets.read(found)
            for (corruption, _), split in splits.items():
                _check_shape(split.images, network, found.images[corruption])
                _check_numbers(split.labels, network, found.labels)
            loads = {key: partial(_same, split) for key, split in splits.items()}
        elif configs := _configs(name, path, data_dir):
            loads = {key: partial(_load, config, network, data_dir) for key, config in configs.items()}
        else:
            return [Part("", 0, partial(_load, name, network, data_dir))]
    corruptions = in_order({corruption for corruption, _ in loads})
    return [Part(*key, loads[key]) for corruption in corruptions for key in sorted(loads) if key[0] == corruption]


def _same(split: Split) -> Split:
    return split


@contextmanager
def _flags_named() -> Iterator[None]:
    """Puts the flags of the command in place of the fields of the config, which the messages of sources name."""
    try:
        yield
    except BadInput as error:
        text = re.sub(r"(--)?config\.dataset\b", "--on", str(error))
        raise BadInput(re.sub(r"(--)?config\.data_dir\b", "--data_dir", text)) from error


def _configs(name: str, path: Path, data_dir: str | None) -> dict[tuple[str, int], str]:
    """The prepared configs of a TFDS dataset of corruptions, by corruption and severity; none of any other set.

    Args:
        name: of the dataset, or its folder.
        path: that the name is as a path.
        data_dir: the folder of prepared datasets.
    """
    exists = os.path.isdir(path)  # noqa: PTH112, also False for a path that this user may not look at
    if not CORRUPTED.fullmatch(path.name if exists else name):
        return {}
    configs = {}
    for config in tfds.prepared_configs(path.name, str(path.parent) if exists else data_dir):
        if match := CONFIG.fullmatch(config):
            configs[NAMES_IN_TFDS.get(match[1], match[1]), int(match[2])] = f"{name}/{config}"
    if not configs and not exists:
        raise BadInput(f"--on: no config of {name} is prepared; prepare some, or name one, such as {name}/fog_1")
    for corruption in {corruption for corruption, _ in configs}:
        absent = [severity for severity in SEVERITIES if (corruption, severity) not in configs]
        if absent:
            raise BadInput(
                f"--on: {name} is prepared for {corruption}, but not for severity {', '.join(map(str, absent))}; "
                "prepare the missing config, or name a single one"
            )
    return configs


def _load(name: str, network: Network, data_dir: str | None) -> Split:
    """The test images of a source or, if it has none, all its images."""
    with _flags_named():
        name, options = _resolved(name, network)
        source = read(ConfigDict({"dataset": name, "data_dir": data_dir, **options}))
        split = source.test or _all_of(source)
        if split.images.shape[3] == 1:  # gray, as all pictures of a folder can be
            split = Split(np.repeat(split.images, network.image_shape[2], axis=3), split.labels)
        _check_shape(split.images, network, name)
        return _renumbered(split, source.class_names, network, name)


def _resolved(name: str, network: Network) -> tuple[str, dict[str, Any]]:
    """The name of a source, and the fields of the config that it has a use for. Pictures are resized for the network.

    Of a folder of pictures with test images, only their folder is named, so that no others are decoded.
    """
    located = "" if name == "synthetic" else locate(name)
    reader, path = located if isinstance(located, tuple) else (tfds.load, None)
    if path and reader is folder.load:
        name = str(folder.test_folder(path) or path)
    height, width, _ = network.image_shape
    is_resized = reader in (folder.load, parquet.load) and height == width
    has_labels = reader in (cifar.load, parquet.load, tfds.load, tfds.load_folder)
    return name, {"image_size": height if is_resized else None, "label": network.label if has_labels else None}


def _all_of(source: Source) -> Split:
    assert source.train is not None
    return source.train if source.validation is None else concatenated(source.validation, source.train)


def _renumbered(split: Split, class_names: Sequence[str], network: Network, name: str) -> Split:
    """The images with the network's labels for the same class names.

    A set without class names has the numbers of its classes as names. If the network's classes have names, such
    numbers are the network's labels.
    """
    if list(class_names) == [str(label) for label in range(len(class_names))] and not _are_numbers(network.class_names):
        _check_numbers(split.labels, network, name)
        return split
    labels = {class_name: label for label, class_name in enumerate(network.class_names)}
    numbers = np.array([labels.get(class_name, -1) for class_name in class_names], np.int32)
    unknown = [class_names[label] for label in np.unique(split.labels) if numbers[label] < 0]
    if unknown:
        known = f"the classes of the run are {listed(network.class_names)}"
        raise BadInput(
            printable(f"--on: {name} has images of {listed(unknown)}, but {known}; leave out its other classes")
        )
    return Split(split.images, numbers[split.labels])


def _are_numbers(class_names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in class_names)


def _check_numbers(labels: np.ndarray, network: Network, name: str | Path) -> None:
    last = len(network.class_names) - 1
    if labels.max() > last:
        problem = f"has the label {labels.max()}, but the classes of the run are 0 to {last}; name a set of its classes"
        raise BadInput(printable(f"--on: {name} {problem}"))


def _check_shape(images: np.ndarray, network: Network, name: str | Path) -> None:
    found, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], network.image_shape))
    if found != wanted:
        raise BadInput(
            printable(
                f"--on: {name} has images of {found}, but those of the run are {wanted}; name images of this size"
            )
        )
