"""Files of arrays (.npz) with the names of Keras or of MedMNIST, and their one-line error messages."""

import re
import zipfile

import numpy as np
import pytest
from data_files import IMAGES, LABELS, NAMES, read, write_npz

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.errors import BadInput


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))


def load(path):
    config = base_config()
    config.update(dataset=str(path), num_validation=5)
    return data.load(config)


def test_npz_is_read(tmp_path):
    loaded = load(write_npz(tmp_path))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[:5])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[5:20])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[20:])
    np.testing.assert_array_equal(loaded.train.labels, LABELS[5:20])
    assert loaded.test.labels.dtype == np.int32
    assert loaded.num_classes == 10


def test_class_names_of_an_npz_are_optional(tmp_path):
    assert load(write_npz(tmp_path, class_names=np.array(NAMES))).class_names == tuple(NAMES)
    assert load(write_npz(tmp_path)).class_names[:2] == ("0", "1")


@pytest.mark.parametrize("field", [{"image_size": 16}, {"label": "coarse"}])
def test_field_that_an_npz_has_no_use_for_is_refused(field, tmp_path):
    with pytest.raises(
        BadInput, match=r"^config\.(image_size|label): .* is not valid; leave it unset, because .* \.npz$"
    ):
        read(write_npz(tmp_path), **field)


def test_gray_images_get_a_channel_axis(tmp_path):
    loaded = load(write_npz(tmp_path, x_train=IMAGES[:20, ..., 0], x_test=IMAGES[20:, ..., 0]))
    assert loaded.image_shape == (32, 32, 1)


class Malicious:
    """Its pickle asks for a function to be called."""

    def __reduce__(self):
        return print, ("this must not be run",)


BROKEN_ENTRIES = {
    "missing": ({"y_test": None}, ["y_test is missing; the file has x_train, y_train, x_test, and a dataset needs"]),
    "float": ({"x_train": IMAGES[:20] / 255}, ["x_train", "float64", "uint8"]),
    "flat": ({"x_test": IMAGES[20:].reshape(4, -1)}, ["x_test", "[4, 3072]", "a row of pixels for each image"]),
    "channels_first": (
        {"x_train": IMAGES[:20].transpose(0, 3, 1, 2)},
        ["x_train", "[20, 3, 32, 32]", "looks like [N, C, H, W]", "transpose(0, 2, 3, 1)"],
    ),
    "gray_channels_first": ({"x_train": IMAGES[:20, None, ..., 0]}, ["[20, 1, 32, 32]", "transpose(0, 2, 3, 1)"]),
    "images_last": (
        {"x_train": IMAGES[:20].transpose(1, 2, 3, 0)},
        ["[32, 32, 3, 20]", "looks like [H, W, C, N]", "transpose(3, 0, 1, 2)"],
    ),
    "images_last_channels_first": (
        {"x_train": IMAGES[:20].transpose(3, 1, 2, 0)},
        ["[3, 32, 32, 20]", "looks like [C, H, W, N]", "transpose(3, 1, 2, 0)"],
    ),
    "gray_images_last": (
        {"x_train": IMAGES[:20, ..., 0].transpose(1, 2, 0)},
        ["[32, 32, 20]", "looks like [H, W, N]", "transpose(2, 0, 1)"],
    ),
    "joined_rows": ({"x_train": IMAGES[:20].reshape(20, 1024, 3)}, ["[20, 1024, 3]", "[N, H * W, C]", "reshape"]),
    "joined_rows_channels_first": ({"x_train": IMAGES[:20].reshape(20, 3, 1024)}, ["[N, C, H * W]", "reshape"]),
    "five_axes": ({"x_train": IMAGES[:20, None]}, ["[20, 1, 32, 32, 3]", "it has 5 axes"]),
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


@pytest.mark.parametrize(("size", "channels"), [(32, 4), (32, 1), (4, 3), (3, 4), (3, 1), (1, 1)])
def test_small_images_and_other_channels_are_accepted(size, channels, tmp_path):
    images = np.zeros((24, size, size, channels), np.uint8)
    assert load(write_npz(tmp_path, x_train=images[:20], x_test=images[20:])).image_shape == (size, size, channels)


def test_transposing_as_advised_gives_the_images(tmp_path):
    """Each `transpose(...)` of a message undoes what the message says about the axes."""
    for axes in ((0, 3, 1, 2), (1, 2, 3, 0), (3, 1, 2, 0)):
        stored = IMAGES[:20].transpose(axes)
        with pytest.raises(BadInput) as raised:
            load(write_npz(tmp_path, x_train=stored))
        order = re.search(r"transpose\((.*)\)$", str(raised.value))[1]
        np.testing.assert_array_equal(stored.transpose([int(axis) for axis in order.split(", ")]), IMAGES[:20])


def write_medmnist(root, **changes):
    """A file as published by MedMNIST: labels [N, 1], and a validation split of five images."""
    arrays = {"train_images": IMAGES[5:20], "train_labels": LABELS[5:20, None].astype(np.uint8)}
    arrays |= {"val_images": IMAGES[:5], "val_labels": LABELS[:5, None].astype(np.uint8)}
    arrays |= {"test_images": IMAGES[20:], "test_labels": LABELS[20:, None].astype(np.uint8)}
    np.savez_compressed(root / "medmnist.npz", **{k: a for k, a in (arrays | changes).items() if a is not None})
    return root / "medmnist.npz"


@pytest.mark.parametrize("changes", [{}, {"val_images": None, "val_labels": None}])
def test_names_of_medmnist_are_read(changes, tmp_path):
    loaded = load(write_medmnist(tmp_path, **changes))
    first = 0 if not changes else 5  # without its own validation split, the first training images are the validation
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[first : first + 5])
    np.testing.assert_array_equal(loaded.validation.labels, LABELS[first : first + 5])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[first + 5 : 20])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[20:])
    assert loaded.test.labels.dtype == np.int32


def test_own_validation_split_does_not_depend_on_num_validation(tmp_path):
    config = base_config()
    config.update(dataset=str(write_medmnist(tmp_path)), num_validation=2)
    assert [len(data.load(config).validation), len(data.load(config).train)] == [5, 15]
    config.num_validation = 0
    assert [len(data.load(config).validation), len(data.load(config).train)] == [0, 20]


BROKEN_MEDMNIST = {
    "no_test": ({"test_images": None}, "test_images is missing; the file has train_images, train_labels, val_images, "),
    "no_validation_labels": ({"val_labels": None}, "val_labels is missing; the file has "),
    "many_labels": ({"train_labels": np.zeros((15, 14), np.uint8)}, "train_labels is uint8 [15, 14], not integer"),
    "unseen": ({"val_labels": np.full((5, 1), 12, np.uint8)}, "val_labels has the label 12, which train_labels"),
    "sizes": ({"val_images": IMAGES[:5, :16]}, "val_images has images of shape (16, 32, 3), but those of train_images"),
    "channels_first": ({"test_images": IMAGES[20:].transpose(0, 3, 1, 2)}, "test_images is uint8 [4, 3, 32, 32]"),
}


@pytest.mark.parametrize("fault", BROKEN_MEDMNIST)
def test_broken_medmnist_is_rejected_with_its_own_names(fault, tmp_path):
    changes, words = BROKEN_MEDMNIST[fault]
    with pytest.raises(BadInput) as raised:
        load(write_medmnist(tmp_path, **changes))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ([], "the file has nothing, and"),
        (["X", "y"], "the file has X, y, and a dataset needs x_train, y_train, x_test, y_test or train_images, "),
        ([f"a{i}" for i in range(9)], "the file has a0, a1, a2, a3, a4, a5, ..., and"),
        (["a\nb", "c\x1b[2J", "é" * 90], "the file has a\\nb, c\\x1b[2J, " + "é" * 40 + "..., and"),
    ],
)
def test_other_names_are_listed_in_one_line(names, listed, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as stored:
        for name in names:
            stored.writestr(f"{name}.npy", b"")
    with pytest.raises(BadInput) as raised:
        load(tmp_path / "set.npz")
    assert f"x_train is missing; {listed}" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a dataset: it is empty"),
        (b"not a zip", "not a dataset: it is a file of an unknown kind"),
        (b"PK\x03\x04 truncated", "not a readable .npz of plain arrays"),
    ],
)
def test_file_that_is_not_an_npz_is_rejected(content, message, tmp_path):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(message)):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize("name", ["absent.npz", "absent.tar.gz", "cifar-10-batches-py"])
def test_missing_path_is_named(name, tmp_path):
    with pytest.raises(BadInput, match=f"{name} does not exist"):
        load(tmp_path / name)
