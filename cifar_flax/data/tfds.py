"""Loads image-classification datasets of TensorFlow Datasets by name."""

import contextlib
import difflib
import io
import os
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_flax.data import cache
from cifar_flax.data.dataset import Options, Source
from cifar_flax.data.paths import read_path
from cifar_flax.data.tfds_records import read_split
from cifar_flax.errors import BadInput, import_problem, in_one_line

INFO, FEATURES = "dataset_info.json", "features.json"  # in each prepared dataset; others have a file like the first
DOWNLOAD_TIMEOUT = 10.0  # seconds for a download server to answer
LABELS = {None: "label", "fine": "label", "coarse": "coarse_label"}  # of cifar100
OTHER_SOURCES = (
    "set --config.dataset to the path of cifar-10-python.tar.gz, a .npz or other data, or use "
    "--config.dataset=synthetic"
)


def load(name: str, data_dir: str | None, on_disk: str, options: Options) -> Source:
    """Loads the dataset `name`, such as `cifar10` or `name/config:1.0.0`, and prepares it in `data_dir` if needed.

    With `data_dir` None, TFDS's default applies. `on_disk` describes the name as a path, for an error message.

    Raises:
        BadInput: the name is unknown, or the dataset does not have images of one size with one label each.
    """
    _check_options(options)
    root = _root(data_dir)
    folder = _prepared_folder(root, name)
    if folder is None and "/" in name and Path(name.split("/")[0]).is_dir():
        raise BadInput(f"config.dataset: {on_disk}")  # a path in an existing folder, not the config of a dataset
    return _load(name, folder or _prepare(root, name, on_disk, options), options)


def load_folder(folder: Path, options: Options) -> Source:
    """Loads the dataset in a folder that `find` returned. Raises BadInput like `load`."""
    _check_options(options)
    return _load(str(folder), folder, options)


def _check_options(options: Options) -> None:
    options.refuse("image_size", source="a TFDS dataset")
    if options.label not in LABELS:
        raise BadInput(f"config.label: {options.label!r} is not valid; use fine or coarse")


def _load(name: str, folder: Path, options: Options) -> Source:
    """Loads a prepared dataset; one that was decoded before is read from the cache, without importing TFDS.

    Images are in the authors' order if the dataset has an `id` to restore it from, else in the stored order.
    """
    try:
        key = cache.fingerprint(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise BadInput(f"config.dataset: {error.filename or folder} cannot be read ({error.strerror})") from error
    cached = f"{folder.parent.name}-{options.label}" if options.label else folder.parent.name
    return cache.load_or_build(cached, key, lambda: _decode(name, folder, options))


def _root(data_dir: str | None) -> Path:
    """The folder of all prepared datasets. TFDS's default is $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    if data_dir:
        return read_path(data_dir, "config.data_dir")
    if configured := os.environ.get("TFDS_DATA_DIR"):
        return read_path(configured, "TFDS_DATA_DIR")
    try:
        return read_path("~/tensorflow_datasets", "config.data_dir")
    except BadInput as error:
        raise BadInput(
            "config.data_dir: it is not set, and there is no home folder for ~/tensorflow_datasets; set it or "
            "TFDS_DATA_DIR to the folder of prepared TFDS datasets, or use --config.dataset=synthetic"
        ) from error


def find(folder: Path) -> Path | None:
    """The folder of a prepared dataset: the given one, or the newest version in it."""
    prepared = folder if (folder / INFO).is_file() else _newest(folder.glob(f"*/{INFO}"))
    return prepared if prepared and (prepared / FEATURES).is_file() else None


def _prepared_folder(root: Path, name: str) -> Path | None:
    """The folder root/name[/config]/version of a prepared dataset, or None. The default is the newest version."""
    name, _, version = name.partition(":")
    try:
        return _newest((root / name).glob(f"{version or '*'}/{INFO}"))
    except OSError as error:
        raise BadInput(f"config.dataset: {root / name} cannot be read ({error.strerror})") from error


def is_prepared(name: str, data_dir: str | None) -> bool:
    """Whether some config or version of a dataset is prepared in `data_dir`. Raises BadInput like `load`."""
    folder = _root(data_dir) / name.partition(":")[0]
    try:
        return any(folder.glob(f"*/{INFO}")) or any(folder.glob(f"*/*/{INFO}"))
    except OSError as error:
        raise BadInput(f"config.dataset: {folder} cannot be read ({error.strerror})") from error


def prepared_configs(name: str, data_dir: str | None) -> list[str]:
    """The configs of a dataset that are prepared in `data_dir`, sorted by name. Raises BadInput like `load`."""
    folder = _root(data_dir) / name
    try:
        return sorted({path.parents[1].name for path in folder.glob(f"*/*/{INFO}")})
    except OSError as error:
        raise BadInput(f"config.dataset: {folder} cannot be read ({error.strerror})") from error


def _newest(info_files: Iterable[Path]) -> Path | None:
    def version(folder: Path) -> list[int]:
        parts = folder.name.split(".")
        return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else []

    return max((path.parent for path in info_files), key=version, default=None)


def _prepare(root: Path, name: str, on_disk: str, options: Options) -> Path:
    """Downloads the dataset with TFDS and writes it to a folder in `root`."""
    tfds = _import_tfds(name, on_disk)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # banners about missing packages
            builder = tfds.builder(name, data_dir=root)
    except Exception as error:  # TFDS has no common class for its errors
        reason = f" ({in_one_line(error)})"
        if isinstance(error, tfds.core.DatasetNotFoundError):
            similar = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
            reason = f"; the closest names are {', '.join(similar)}" if similar else ""
        problem = f"config.dataset: {name!r} is neither 'synthetic' nor a TFDS dataset{reason}"
        raise BadInput(f"{problem}; {on_disk}") from error
    _check(tfds, name, builder, options)
    if builder.is_prepared():  # the default config, which the name does not contain
        return Path(builder.data_dir)
    advice = f"set --config.data_dir to a folder that contains it, {OTHER_SOURCES}"
    for url in list(builder.url_infos)[:1]:
        if not _reachable(url):
            raise BadInput(f"config.dataset: {name!r} is not prepared in {root}, and {url} cannot be reached; {advice}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # from the network, the server or the disk
        raise BadInput(
            f"config.dataset: {name!r} is not prepared in {root} and could not be downloaded "
            f"({in_one_line(error)}); {advice}"
        ) from error
    return Path(builder.data_dir)


def _reachable(url: str) -> bool:
    """Whether a server answers within DOWNLOAD_TIMEOUT. TFDS itself would retry for minutes."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=DOWNLOAD_TIMEOUT).close()
            answers.put(True)
        except Exception as error:  # no network, or no HTTP; TFDS will report an error of the server
            answers.put(isinstance(error, urllib.error.HTTPError))

    # in a thread, because resolving the host name has no timeout
    threading.Thread(target=ask, daemon=True).start()
    with contextlib.suppress(queue.Empty):
        return answers.get(timeout=DOWNLOAD_TIMEOUT)
    return False


def _import_tfds(name: str, on_disk: str) -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except Exception as error:  # a version that does not fit numpy or protobuf can raise any error
        problem = import_problem(error, "tensorflow or tensorflow-datasets")
        raise BadInput(
            f"config.dataset: {name!r} can only be read with TFDS, and {problem}; install tensorflow and "
            f"tensorflow-datasets (in an older Python if there is none for this one), {OTHER_SOURCES}; {on_disk}"
        ) from error
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would allocate all GPU memory
    return tfds


def _check(tfds: Any, name: str, builder: Any, options: Options) -> None:
    """Raises BadInput if this project cannot train on a builder's dataset."""
    features = dict(builder.info.features.items()) if hasattr(builder.info.features, "items") else {}
    image: Any = features.get("image")
    if LABELS["coarse"] not in features:
        options.refuse("label", source=repr(name))
    label = features.get(LABELS[options.label])
    fits = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    if not fits or None in image.shape or image.np_dtype != np.uint8:
        raise BadInput(
            f"config.dataset: {name!r} is not a dataset of 8-bit images of one size with one class label each; "
            "use one such as cifar10, cifar100, svhn_cropped or mnist"
        )
    splits = sorted(builder.info.splits)
    if splits and not {"train", "test"} & set(splits):
        raise BadInput(f"config.dataset: {name!r} has the splits {', '.join(splits)}, but neither train nor test")


def _decode(name: str, folder: Path, options: Options) -> Source:
    tfds = _import_tfds(name, f"{folder} is prepared")
    try:
        builder = tfds.builder_from_directory(folder)  # the stored version, which the installed TFDS may not have
        _check(tfds, name, builder, options)
        label = LABELS[options.label]
        names = [split for split in ("train", "test") if split in builder.info.splits]
        if not names:
            raise ValueError("it has no splits")
        splits = {split: read_split(tfds, builder, split, label) for split in names}
        class_names = tuple(builder.info.features[label].names)
    except BadInput:
        raise
    except Exception as error:  # TensorFlow and the decoders have no common class for their errors
        reason = re.sub(r"\{\{.*?\}\} |\[Op:.*", "", in_one_line(error)).strip()  # without names of TensorFlow's ops
        raise BadInput(
            f"config.dataset: {name!r} in {folder} is damaged or cannot be decoded ({reason}); prepare it again"
        ) from error
    for split in names:
        labels = splits[split].labels
        if labels.min() < 0 or labels.max() >= len(class_names):
            wrong = labels[(labels < 0) | (labels >= len(class_names))]
            raise BadInput(
                f"config.dataset: {name!r}: {len(wrong)} of the {len(labels)} images of {split} have labels that are "
                f"not from 0 to {len(class_names) - 1}, such as {wrong[0]}; use a dataset with labels for all images"
            )
    return Source(splits.get("train"), splits.get("test"), class_names)
