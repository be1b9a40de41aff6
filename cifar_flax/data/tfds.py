"""Any image-classification set of TensorFlow Datasets, by its name."""

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

PATIENCE = 10.0  # seconds for a download server to answer


def load(name: str, data_dir: str | None) -> Source:
    """The set `name`, such as `cifar10` or `svhn_cropped`, from `data_dir`; prepared there first where it is not.

    `data_dir` None is TFDS' own rule: $TFDS_DATA_DIR, else ~/tensorflow_datasets. A set that was decoded before
    comes from the cache, without importing TFDS. Images keep the authors' order where the set has an `id` to restore
    it from, and the stored order otherwise.

    Raises:
        BadInput: an unknown name, or a set that is not one of equally large images with a label each.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(root, name) or _prepare(root, name)
    return cache.load_or_build(name, cache.fingerprint(folder), lambda: _decode(name, folder))


def _prepared_folder(root: Path, name: str) -> Path | None:
    """Where TFDS prepared the set: root/name[/config]/version, the newest version where none is given."""
    name, _, version = name.partition(":")
    candidates = [path.parent for path in (root / name).glob(f"{version or '*'}/dataset_info.json")]
    return max(candidates, key=_version, default=None)


def _version(folder: Path) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in folder.name.split("."))
    except ValueError:
        return ()


def _prepare(root: Path, name: str) -> Path:
    """Lets TFDS download the set and write it below `root`."""
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        similar = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"; the nearest names are {', '.join(similar)}" if similar else ""
        raise BadInput(f"config.dataset: {name!r} is neither 'synthetic' nor a set of TFDS{hint}") from error
    except Exception as error:  # TFDS asserts, looks up and imports: it has no common class for what may go wrong
        raise BadInput(
            f"config.dataset: {name!r} is neither 'synthetic' nor a set of TFDS ({in_one_line(error)})"
        ) from error
    _check(tfds, name, builder)
    ways_out = (
        "set --config.data_dir to a folder that holds it, --config.dataset to the path of an archive "
        "(cifar-10-python.tar.gz) or .npz, or use --config.dataset=synthetic"
    )
    unreachable = [url for url in list(builder.url_infos)[:1] if not _reachable(url)]
    if unreachable:
        raise BadInput(
            f"config.dataset: {name!r} is not prepared in {root}, and {unreachable[0]} cannot be reached; {ways_out}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # the network's, the server's and the disk's
        raise BadInput(
            f"config.dataset: {name!r} is not prepared in {root} and could not be downloaded "
            f"({in_one_line(error)}); {ways_out}"
        ) from error
    return Path(builder.data_dir)


def _reachable(url: str) -> bool:
    """Whether a server answers at all within PATIENCE, where TFDS alone would try for minutes."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # an answer, if not a kind one; TFDS will say more
        except OSError:
            return
        answered.set()

    # in a thread, because looking up the name has no time limit of its own
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(PATIENCE)


def _import_tfds() -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BadInput(
            f"config.dataset: sets of TFDS need tensorflow and tensorflow-datasets ({error}); "
            "install them or use --config.dataset=synthetic"
        ) from error
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the whole accelerator
    return tfds


def _check(tfds: Any, name: str, builder: Any) -> None:
    """Raises BadInput if a builder's set is not one that this project can train on."""
    features = dict(builder.info.features.items()) if hasattr(builder.info.features, "items") else {}
    image: Any = features.get("image")
    label = features.get("label")
    fits = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    if not fits or None in image.shape or image.np_dtype != np.uint8:
        raise BadInput(
            f"config.dataset: {name!r} is not a set of equally large 8-bit images with one class label each; "
            "sets such as cifar10, cifar100, svhn_cropped and mnist are"
        )
    splits = sorted(builder.info.splits)
    if splits and not {"train", "test"} <= set(splits):
        raise BadInput(f"config.dataset: {name!r} has the splits {', '.join(splits)}, not train and test")


def _decode(name: str, folder: Path) -> Source:
    tfds = _import_tfds()
    builder = tfds.builder_from_directory(folder)  # what lies there, whatever version the installed TFDS has
    _check(tfds, name, builder)
    return Source(
        train=_decode_split(tfds, builder, "train"),
        test=_decode_split(tfds, builder, "test"),
        class_names=tuple(builder.info.features["label"].names),
    )


def _decode_split(tfds: Any, builder: Any, split: str) -> Split:
    # one shard after the other: the order would otherwise be that of TFDS' interleaving
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    wanted = {field: True for field in ("image", "label", "id") if field in builder.info.features}
    stored = builder.as_dataset(
        split=split,
        batch_size=1000,
        shuffle_files=False,
        read_config=read_config,
        decoders=tfds.decode.PartialDecoding(wanted),
    )
    batches = list(tfds.as_numpy(stored))
    fields = {field: np.concatenate([batch[field] for batch in batches]) for field in wanted}
    order = np.argsort(fields["id"]) if "id" in fields else slice(None)
    return Split(images=fields["image"][order], labels=fields["label"][order].astype(np.int32))
