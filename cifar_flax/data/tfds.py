"""Loads image-classification datasets of TensorFlow Datasets by name."""

import difflib
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from cifar_flax.data import cache
from cifar_flax.data.dataset import Source, Split
from cifar_flax.errors import BadInput, in_one_line

DOWNLOAD_TIMEOUT = 10.0  # seconds for a download server to answer


def load(name: str, data_dir: str | None) -> Source:
    """Loads the dataset `name`, such as `cifar10` or `svhn_cropped`, from `data_dir`, and prepares it there if needed.

    With `data_dir` None, TFDS's default applies: $TFDS_DATA_DIR, else ~/tensorflow_datasets. A dataset that was decoded
    before is read from the cache, without importing TFDS. Images are in the authors' order if the dataset has an `id`
    to restore it from, and in the stored order otherwise.

    Raises:
        BadInput: the name is unknown, or the dataset does not have images of one size with one label each.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(root, name) or _prepare(root, name)
    return cache.load_or_build(name, cache.fingerprint(folder), lambda: _decode(name, folder))


def _prepared_folder(root: Path, name: str) -> Path | None:
    """The folder root/name[/config]/version of a prepared dataset, or None. The default is the newest version."""
    name, _, version = name.partition(":")
    candidates = [path.parent for path in (root / name).glob(f"{version or '*'}/dataset_info.json")]
    return max(candidates, key=_version, default=None)


def _version(folder: Path) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in folder.name.split("."))
    except ValueError:
        return ()


def _prepare(root: Path, name: str) -> Path:
    """Downloads the dataset with TFDS and writes it to a folder in `root`."""
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        similar = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"; the closest names are {', '.join(similar)}" if similar else ""
        raise BadInput(f"config.dataset: {name!r} is neither 'synthetic' nor a TFDS dataset{hint}") from error
    except Exception as error:  # TFDS has no common class for its errors
        raise BadInput(
            f"config.dataset: {name!r} is neither 'synthetic' nor a TFDS dataset ({in_one_line(error)})"
        ) from error
    _check(tfds, name, builder)
    advice = (
        "set --config.data_dir to a folder that contains it, set --config.dataset to the path of an archive "
        "(cifar-10-python.tar.gz) or .npz, or use --config.dataset=synthetic"
    )
    unreachable = [url for url in list(builder.url_infos)[:1] if not _reachable(url)]
    if unreachable:
        raise BadInput(
            f"config.dataset: {name!r} is not prepared in {root}, and {unreachable[0]} cannot be reached; {advice}"
        )
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
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=DOWNLOAD_TIMEOUT).close()
        except urllib.error.HTTPError:
            pass  # also an answer; TFDS will report the error
        except OSError:
            return
        answered.set()

    # in a thread, because resolving the host name has no timeout
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(DOWNLOAD_TIMEOUT)


def _import_tfds() -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BadInput(
            f"config.dataset: TFDS datasets need tensorflow and tensorflow-datasets ({error}); "
            "install them or use --config.dataset=synthetic"
        ) from error
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would allocate all GPU memory
    return tfds


def _check(tfds: Any, name: str, builder: Any) -> None:
    """Raises BadInput if this project cannot train on a builder's dataset."""
    features = dict(builder.info.features.items()) if hasattr(builder.info.features, "items") else {}
    image: Any = features.get("image")
    label = features.get("label")
    fits = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    if not fits or None in image.shape or image.np_dtype != np.uint8:
        raise BadInput(
            f"config.dataset: {name!r} is not a dataset of 8-bit images of one size with one class label each; "
            "use one such as cifar10, cifar100, svhn_cropped or mnist"
        )
    splits = sorted(builder.info.splits)
    if splits and not {"train", "test"} <= set(splits):
        raise BadInput(f"config.dataset: {name!r} has the splits {', '.join(splits)}, not train and test")


def _decode(name: str, folder: Path) -> Source:
    tfds = _import_tfds()
    builder = tfds.builder_from_directory(folder)  # the stored version, which the installed TFDS may not have
    _check(tfds, name, builder)
    return Source(
        train=_decode_split(tfds, builder, "train"),
        test=_decode_split(tfds, builder, "test"),
        class_names=tuple(builder.info.features["label"].names),
    )


def _decode_split(tfds: Any, builder: Any, split: str) -> Split:
    # one shard at a time, because TFDS's interleaving would change the order
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    features = {field: True for field in ("image", "label", "id") if field in builder.info.features}
    stored = builder.as_dataset(
        split=split,
        batch_size=1000,
        shuffle_files=False,
        read_config=read_config,
        decoders=tfds.decode.PartialDecoding(features),
    )
    batches = list(tfds.as_numpy(stored))
    fields = {field: np.concatenate([batch[field] for batch in batches]) for field in features}
    order = np.argsort(fields["id"]) if "id" in fields else slice(None)
    return Split(images=fields["image"][order], labels=fields["label"][order].astype(np.int32))
