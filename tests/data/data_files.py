"""Writes 24 images as the authors' archive, as its folder and as .npz, for the tests of the file sources."""

import io
import pickle
import tarfile

import numpy as np

from cifar_flax.data import archive

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)  # four in each of the six files
LABELS = np.arange(24) % 10
NAMES = [f"class {i}" for i in range(10)]


def batch(rows):
    """A batch in the authors' format: bytes as keys, pickled with protocol 2."""
    pixels = IMAGES[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
    return {b"data": pixels, b"labels": LABELS[rows].tolist(), b"batch_label": b"a batch"}


def contents(**replaced):
    """The content of each file of an archive, by name."""
    stored = {archive.META: {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}}
    for i, name in enumerate((*archive.TRAIN, archive.TEST)):
        stored[name] = batch(slice(4 * i, 4 * i + 4))
    return {name: replaced.get(name, pickle.dumps(value, protocol=2)) for name, value in stored.items()}


def write_folder(root, files):
    folder = root / archive.FOLDER
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(root, files, name="cifar-10-python.tar.gz", mode="w:gz"):
    path = root / name
    with tarfile.open(path, mode) as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{archive.FOLDER}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_npz(root, **changes):
    arrays = {"x_train": IMAGES[:20], "y_train": LABELS[:20, None], "x_test": IMAGES[20:], "y_test": LABELS[20:]}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(root / "set.npz", **arrays)
    return root / "set.npz"
