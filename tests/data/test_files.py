"""The file sources (the authors' archive, its folder, and .npz) and their one-line error messages."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import archive
from cifar_flax.errors import BadInput

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)  # four in each of the six files
LABELS = np.arange(24) % 10
NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))


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


def write_tar(root, files):
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{archive.FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_npz(root, **changes):
    arrays = {"x_train": IMAGES[:20], "y_train": LABELS[:20, None], "x_test": IMAGES[20:], "y_test": LABELS[20:]}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(root / "set.npz", **arrays)
    return root / "set.npz"


def load(path):
    config = base_config()
    config.update(dataset=str(path), num_validation=5)
    return data.load(config)


@pytest.mark.parametrize(
    "write", [lambda root: write_folder(root, contents()), lambda root: write_tar(root, contents()), write_npz]
)
def test_all_file_types_give_the_same_images(write, tmp_path):
    path = write(tmp_path)
    for _ in range(2):  # the archives come from the cache the second time
        loaded = load(path)
        np.testing.assert_array_equal(loaded.validation.images, IMAGES[:5])
        np.testing.assert_array_equal(loaded.train.images, IMAGES[5:20])
        np.testing.assert_array_equal(loaded.test.images, IMAGES[20:])
        np.testing.assert_array_equal(loaded.train.labels, LABELS[5:20])
        assert loaded.test.labels.dtype == np.int32
        assert loaded.num_classes == 10


def test_class_names_are_required_in_an_archive_and_optional_in_an_npz(tmp_path):
    assert load(write_tar(tmp_path, contents())).class_names == tuple(NAMES)
    assert load(write_npz(tmp_path, class_names=np.array(NAMES))).class_names == tuple(NAMES)
    assert load(write_npz(tmp_path)).class_names[:2] == ("0", "1")


def test_gray_images_get_a_channel_axis(tmp_path):
    loaded = load(write_npz(tmp_path, x_train=IMAGES[:20, ..., 0], x_test=IMAGES[20:, ..., 0]))
    assert loaded.image_shape == (32, 32, 1)


def test_unofficial_content_is_reported(tmp_path, capsys):
    load(write_folder(tmp_path, contents()))
    assert "not the official content (md5): data_batch_1" in capsys.readouterr().err


class Malicious:
    """Its pickle asks for a function to be called."""

    def __reduce__(self):
        return print, ("this must not be run",)


BROKEN_FILES = {
    "malicious": ({"data_batch_2": pickle.dumps(Malicious(), protocol=2)}, ["data_batch_2", "print"]),
    "truncated": ({"test_batch": pickle.dumps(batch(slice(4)), protocol=2)[:-90]}, ["test_batch", "damaged"]),
    "empty": ({"data_batch_1": b""}, ["data_batch_1", "damaged"]),
    "no_dict": ({"data_batch_1": pickle.dumps([1], protocol=2)}, ["data_batch_1", "'data'"]),
    "pixels": ({"data_batch_3": pickle.dumps({b"data": np.zeros((4, 9), np.uint8), b"labels": [0] * 4}, 2)},
               ["data_batch_3", "[N, 3072] uint8"]),
    "label": ({"data_batch_4": pickle.dumps(batch(slice(4)) | {b"labels": [0, 1, 2, 10]}, 2)},
              ["data_batch_4", "from 0 to 9"]),
    "lengths": ({"data_batch_4": pickle.dumps(batch(slice(4)) | {b"labels": [0, 1, 2]}, 2)},
                ["data_batch_4", "4 integers"]),
    "names": ({"batches.meta": pickle.dumps({b"label_names": 3}, 2)}, ["batches.meta", "names"]),
}  # fmt: skip


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("fault", BROKEN_FILES)
def test_broken_archive_is_rejected_with_file_and_entry(fault, write, tmp_path, capsys):
    replaced, words = BROKEN_FILES[fault]
    path = write(tmp_path, contents(**replaced))
    with pytest.raises(BadInput) as raised:
        load(path)
    assert all(word in str(raised.value) for word in [str(path), *words]), raised.value
    assert "\n" not in str(raised.value)
    assert "this must not be run" not in capsys.readouterr().out


def test_truncated_or_incomplete_archive_is_rejected(tmp_path):
    path = write_tar(tmp_path, contents())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"truncated|does not contain"):
        load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(BadInput, match="not a readable"):
        load(path)
    files = contents()
    del files["data_batch_5"]
    with pytest.raises(BadInput, match="does not contain data_batch_5"):
        load(write_tar(tmp_path, files))
    with pytest.raises(BadInput, match=r"data_batch_5 cannot be read"):
        load(write_folder(tmp_path, files))


BROKEN_ENTRIES = {
    "missing": ({"y_test": None}, ["y_test", "missing", "x_train"]),
    "float": ({"x_train": IMAGES[:20] / 255}, ["x_train", "float64", "uint8"]),
    "flat": ({"x_test": IMAGES[20:].reshape(4, -1)}, ["x_test", "[4, 3072]"]),
    "none": ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, ["x_train", "[0, 32, 32, 3]"]),
    "lengths": ({"y_train": LABELS[:19]}, ["x_train", "20 images", "19 labels"]),
    "sizes": ({"x_test": IMAGES[20:, :16]}, ["x_test", "(16, 32, 3)"]),
    "negative": ({"y_train": LABELS[:20] - 1}, ["y_train", "from 0"]),
    "real": ({"y_train": LABELS[:20] + 0.5}, ["y_train", "float64"]),
    "one_hot": ({"y_train": np.eye(10, dtype=int)[LABELS[:20]]}, ["y_train", "[20, 10]"]),
    "unseen": ({"y_test": np.array([0, 1, 2, 10])}, ["y_test", "y_train"]),
    "object": ({"y_train": np.array([Malicious()] * 20, object)}, ["plain arrays"]),
}


@pytest.mark.parametrize("fault", BROKEN_ENTRIES)
def test_broken_npz_is_rejected_with_entry(fault, tmp_path, capsys):
    changes, words = BROKEN_ENTRIES[fault]
    path = write_npz(tmp_path, **changes)
    with pytest.raises(BadInput) as raised:
        load(path)
    assert all(word in str(raised.value) for word in [str(path), *words]), raised.value
    assert "this must not be run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_file_that_is_not_an_npz_is_rejected(content, tmp_path):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"not a readable \.npz"):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize("name", ["absent.npz", "absent.tar.gz", archive.FOLDER])
def test_missing_path_is_named(name, tmp_path):
    with pytest.raises(BadInput, match=f"{name} does not exist"):
        load(tmp_path / name)
