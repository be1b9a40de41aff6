"""Writes 24 images as CIFAR-10, as CIFAR-100 and as .npz, in the published forms, for the tests of the file sources."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from cifar_flax import data
from cifar_flax.config import base_config

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)  # 20 for training, 4 for testing
LABELS = np.arange(24) % 10
COARSE = np.arange(24) // 2 % 3
NAMES = [f"class {i}" for i in range(10)]
COARSE_NAMES = ["plants", "animals", "machines"]
ROWS = IMAGES.transpose(0, 3, 1, 2).reshape(-1, 3072)
BATCHES = [slice(4 * i, 4 * i + 4) for i in range(5)]
TEST = slice(20, 24)


def _encoded(names):
    return [name.encode() for name in names]


def cifar_10_python(**replaced):
    """The files of `cifar-10-batches-py`: dictionaries with bytes as keys, pickled with protocol 2."""
    stored = {"batches.meta": {b"num_cases_per_batch": 4, b"label_names": _encoded(NAMES), b"num_vis": 3072}}
    for name, rows in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], [*BATCHES, TEST], strict=True):
        stored[name] = {b"batch_label": b"a batch", b"labels": LABELS[rows].tolist(), b"data": ROWS[rows]}
    return {name: pickle.dumps(value, protocol=2) for name, value in stored.items()} | replaced


def cifar_100_python():
    """The files of `cifar-100-python`."""
    stored = {"meta": {b"fine_label_names": _encoded(NAMES), b"coarse_label_names": _encoded(COARSE_NAMES)}}
    for name, rows in (("train", slice(20)), ("test", TEST)):
        labels = {b"fine_labels": LABELS[rows].tolist(), b"coarse_labels": COARSE[rows].tolist()}
        stored[name] = {b"batch_label": b"a batch", b"data": ROWS[rows]} | labels
    return {name: pickle.dumps(value, protocol=2) for name, value in stored.items()}


def cifar_10_binary(**replaced):
    """The files of `cifar-10-batches-bin`: a label and 3,072 pixels for each image."""
    records = np.column_stack([LABELS, ROWS]).astype(np.uint8)
    files = {f"data_batch_{i}.bin": records[rows].tobytes() for i, rows in enumerate(BATCHES, start=1)}
    files |= {"test_batch.bin": records[TEST].tobytes(), "batches.meta.txt": "\n".join(NAMES).encode() + b"\n\n"}
    return files | {f"{name}.bin": content for name, content in replaced.items()}


def cifar_100_binary():
    """The files of `cifar-100-binary`: a coarse label, a fine one and 3,072 pixels for each image."""
    records = np.column_stack([COARSE, LABELS, ROWS]).astype(np.uint8)
    return {
        "train.bin": records[:20].tobytes(),
        "test.bin": records[TEST].tobytes(),
        "fine_label_names.txt": "\n".join(NAMES).encode() + b"\n",
        "coarse_label_names.txt": "\n".join(COARSE_NAMES).encode() + b"\n",
    }


PUBLISHED = {  # the contents of each published folder, and the archive of it
    "cifar-10-batches-py": (cifar_10_python, "cifar-10-python.tar.gz"),
    "cifar-100-python": (cifar_100_python, "cifar-100-python.tar.gz"),
    "cifar-10-batches-bin": (cifar_10_binary, "cifar-10-binary.tar.gz"),
    "cifar-100-binary": (cifar_100_binary, "cifar-100-binary.tar.gz"),
}


def md5s(*all_files):
    """What `cifar_versions.OFFICIAL_MD5` has to be for these files to count as the official ones."""
    return {name: hashlib.md5(content).hexdigest() for files in all_files for name, content in files.items()}


OFFICIAL = md5s(cifar_10_python(), cifar_100_python())


def write_folder(root, folder="cifar-10-batches-py", files=None):
    path = Path(root, folder)
    path.mkdir(parents=True)
    for name, content in (files or PUBLISHED[folder][0]()).items():
        (path / name).write_bytes(content)
    return path


def write_tar(root, folder="cifar-10-batches-py", files=None, name=None, mode="w:gz"):
    """Also contains the folder itself and a file that is not read, like the published archives."""
    path = Path(root, name or PUBLISHED[folder][1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        member = tarfile.TarInfo(folder)
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        for file, content in ({"readme.html": b"<html>"} | (files or PUBLISHED[folder][0]())).items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_npz(root, **changes):
    arrays = {"x_train": IMAGES[:20], "y_train": LABELS[:20, None], "x_test": IMAGES[20:], "y_test": LABELS[20:]}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(root / "set.npz", **arrays)
    return root / "set.npz"


def read(dataset, **fields):
    """What `data.read` returns for a config with these fields."""
    config = base_config()
    config.update(dataset=str(dataset), **fields)
    return data.read(config)
