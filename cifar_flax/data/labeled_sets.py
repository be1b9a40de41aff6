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
from cifar_flax.data.class_labels import labels_of_network, numbered
from cifar_flax.data.corruptions import NAMES_IN_TFDS, SEVERITIES, in_order
from cifar_flax.data.dataset import Source, Split, concatenated
from cifar_flax.data.locate import locate
from cifar_flax.data.paths import listed, read_path
from cifar_flax.errors import BadInput, printable

# a dataset of TFDS without its config, such as cifar10_corrupted, perhaps with a version
CORRUPTED = re.compile(r"(\w+_corrupted)(:.*)?", re.ASCII)
CONFIG = re.compile(r"(\w+)_([1-5])", re.ASCII)  # of such a dataset: corruption and severity

# for messages of sources: the flags of the command in place of fields of the config, and advice that it can follow
REWORDED = (
    (re.escape(tfds.OTHER_SOURCES), "or name its files (docs/robustness.md)"),
    (r"(--)?config\.dataset\b", "--on"),
    (r"(--)?config\.data_dir\b", "--data_dir"),
    (r"^config\.image_size: it is unset, but (.+); set it .*", r"--on: \1; name pictures of one size"),
    (r"^config\.label: (.*); name the column of the labels,", r"--on: \1; rename the column of the labels to label,"),
    (r"^config\.label: (\S+) is not valid; .*", r"--on: it has no labels \1, which the run was trained on"),
    (r"^config\.label: ", "--on: "),
    (r"a folder of pictures \(", r"the .npy files of CIFAR-10.1 or CIFAR-10-C, \g<0>"),
)


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
        name = _named_as_in_tfds(name)
        path = read_path(name, "--on")
        found = npy_sets.find(path)
        if found and (npy_sets.is_complete(found) or not _is_other_dataset(name)):
            loads = {key: partial(_same, split) for key, split in _read_npy(found, network).items()}
        elif configs := _configs(name, path, data_dir):
            loads = {
                key: partial(_load, config, network, data_dir, is_first=index == 0)
                for index, (key, config) in enumerate(configs.items())
            }
        else:
            return [Part("", 0, partial(_load, name, network, data_dir))]
    corruptions = in_order({corruption for corruption, _ in loads})
    return [Part(*key, loads[key]) for corruption in corruptions for key in sorted(loads) if key[0] == corruption]


def _is_other_dataset(name: str) -> bool:
    try:
        return isinstance(locate(name), tuple)
    except BadInput:
        return False


def _read_npy(found: npy_sets.NpySet, network: Network) -> dict[tuple[str, int], Split]:
    """The parts of a set in `.npy` files, with the labels of the network."""
    splits = npy_sets.read(found)
    for (corruption, _), split in splits.items():
        _check_shape(split.images, network, found.images[corruption])
    stored = split.labels  # the same of all
    labels = labels_of_network(stored, numbered(stored), network.class_names, found.labels)
    return {key: Split(split.images, labels) for key, split in splits.items()}


def _same(split: Split) -> Split:
    return split


def _named_as_in_tfds(name: str) -> str:
    """`cifar10_corrupted/elastic_1` for `cifar10_corrupted/elastic_transform_1`, which has this name in the results."""
    dataset, _, config = name.partition("/")
    key, names = CONFIG.match(config), {ours: theirs for theirs, ours in NAMES_IN_TFDS.items()}
    if not CORRUPTED.fullmatch(dataset) or not key or key[1] not in names:
        return name
    return f"{dataset}/{names[key[1]]}{config[len(key[1]) :]}"


@contextmanager
def _flags_named() -> Iterator[None]:
    """Applies REWORDED to the messages of sources."""
    try:
        yield
    except BadInput as error:
        text = str(error)
        for pattern, replacement in REWORDED:
            text = re.sub(pattern, replacement, text)
        raise BadInput(text) from error


def _configs(name: str, path: Path, data_dir: str | None) -> dict[tuple[str, int], str]:
    """The prepared configs of a TFDS dataset of corruptions, by corruption and severity; none of any other set.

    Args:
        name: of the dataset, or its folder.
        path: that the name is as a path.
        data_dir: the folder of prepared datasets.
    """
    exists = os.path.isdir(path)  # noqa: PTH112, also False for a path that this user may not look at
    match = CORRUPTED.fullmatch(path.name if exists else name)
    if not match:
        return {}
    dataset, version = match.groups()
    if version and not exists:
        advice = f"write {dataset} for all that are prepared, or {dataset}/fog_1{version} for one"
        raise BadInput(f"--on: {name} has a version, but no config; {advice}")
    configs = {}
    prepared = tfds.prepared_configs(path.name, str(path.parent) if exists else data_dir)
    for config in prepared:
        if key := CONFIG.fullmatch(config):
            configs[NAMES_IN_TFDS.get(key[1], key[1]), int(key[2])] = f"{name}/{config}"
    if prepared and not configs:
        problem = f"the prepared configs of {name} are {listed(prepared)}, without severities from 1 to 5"
        raise BadInput(f"--on: {problem}; name one, such as {name}/{prepared[0]}")
    if not configs and not exists:
        raise BadInput(f"--on: no config of {name} is prepared; prepare some, or name one, such as {name}/fog_1")
    _check_severities(name, configs)
    return configs


def _check_severities(name: str, configs: dict[tuple[str, int], str]) -> None:
    for corruption in {corruption for corruption, _ in configs}:
        absent = [severity for severity in SEVERITIES if (corruption, severity) not in configs]
        if absent:
            raise BadInput(
                f"--on: {name} is prepared for {corruption}, but not for severity {', '.join(map(str, absent))}; "
                "prepare the missing config, or name a single one"
            )


def _load(name: str, network: Network, data_dir: str | None, is_first: bool = True) -> Split:
    """The test images of a source or, if it has none, all its images. Only the first part of a set gives warnings."""
    with _flags_named():
        name, are_pictures, options = _resolved(name, network)
        source = read(ConfigDict({"dataset": name, "data_dir": data_dir, **options}))
        split = source.test or _all_of(source)
        channels, wanted = split.images.shape[3], network.image_shape[2]
        if channels == 1:  # gray, as all pictures of a folder can be
            split = Split(np.repeat(split.images, wanted, axis=3), split.labels)
        elif wanted == 1 and are_pictures:
            split = Split(_gray(split.images), split.labels)
        _check_shape(split.images, network, name)
        labels = labels_of_network(split.labels, source.class_names, network.class_names, name, is_first)
        return Split(split.images, labels)


def _gray(images: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] to [N, H, W, 1] uint8, as Pillow weights colors (ITU-R BT.601): what is gray keeps its values."""
    red, green, blue = (images[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(np.uint8)[..., None]


def _resolved(name: str, network: Network) -> tuple[str, bool, dict[str, Any]]:
    """The name of a source, whether it has pictures, and the fields of the config that it has a use for.

    Pictures are resized for the network. Of a folder of pictures with test images, only their folder is named, so that
    no others are decoded.
    """
    located = "" if name == "synthetic" else locate(name)
    reader, path = located if isinstance(located, tuple) else (tfds.load, None)
    if path and reader is folder.load:
        name = str(folder.test_folder(path) or path)
    height, width, _ = network.image_shape
    are_pictures = reader in (folder.load, parquet.load)
    size = height if are_pictures and height == width else None
    has_kinds = reader in (cifar.load, tfds.load, tfds.load_folder) and network.label in ("fine", "coarse")
    label = network.label if has_kinds or reader is parquet.load else None
    return name, are_pictures, {"image_size": size, "label": label}


def _all_of(source: Source) -> Split:
    assert source.train is not None
    return source.train if source.validation is None else concatenated(source.validation, source.train)


def _check_shape(images: np.ndarray, network: Network, name: str | Path) -> None:
    found, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], network.image_shape))
    if found != wanted:
        raise BadInput(
            printable(
                f"--on: {name} has images of {found}, but those of the run are {wanted}; name images of this size"
            )
        )
