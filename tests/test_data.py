"""The sources: the drawings, any set of TFDS, the official order, and the cache in front of them."""

import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import cache, tfds
from cifar_flax.errors import BadInput


def config(dataset, **fields):
    made = base_config()
    made.update(dataset=dataset, **fields)
    return made


@pytest.fixture(scope="module")
def drawings():
    return data.load(config("synthetic"))


def test_the_drawings_counts_and_shapes(drawings):
    for split, count in ((drawings.train, 8_000), (drawings.validation, 1_000), (drawings.test, 1_000)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert np.bincount(split.labels).tolist() == [count // 10] * 10
    assert drawings.class_names[:2] == ("disk", "ring")
    assert drawings.num_classes == 10
    assert drawings.image_shape == (32, 32, 3)


def test_the_drawings_are_the_same_each_time(drawings):
    again = data.load(config("synthetic", seed=5))
    np.testing.assert_array_equal(again.train.images, drawings.train.images)
    np.testing.assert_array_equal(again.test.labels, drawings.test.labels)


def test_no_drawing_is_in_two_splits(drawings):
    every = [
        image.tobytes() for split in (drawings.train, drawings.validation, drawings.test) for image in split.images
    ]
    assert len(set(every)) == len(every)


def test_no_colour_gives_a_drawing_away(drawings):
    """The classes' mean colours differ by little of what images differ by."""
    colours = drawings.train.images.mean((1, 2))
    means = np.stack([colours[drawings.train.labels == label].mean(0) for label in range(10)])
    assert means.std(0).max() < 0.15 * colours.std(0).min()


def test_fewer_validation_images_leave_more_for_training():
    smaller = data.load(config("synthetic", num_validation=400))
    assert (len(smaller.train), len(smaller.validation)) == (8_600, 400)


LABELS = np.arange(60) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 1), np.uint8)  # 40 for training, 20 for testing
STORED = np.random.default_rng(1).permutation(40)  # the training images' order on disk


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """A function that lets TFDS itself write a small set, without a network, and returns its data_dir."""
    import tensorflow as tf
    import tensorflow_datasets as real_tfds

    root = tmp_path_factory.mktemp("tfds")

    def columns(split, with_id):
        rows = STORED if split == "train" else np.arange(40, 60)
        stored = {"image": IMAGES[rows], "label": LABELS[rows]}
        return stored | ({"id": [f"{split}_{row:05d}" for row in rows]} if with_id else {})

    def prepared(name, with_id=False, image_shape=(6, 5, 1), splits=("train", "test"), version="1.0.0"):
        features = {
            "image": real_tfds.features.Image(shape=image_shape),
            "label": real_tfds.features.ClassLabel(names=["a", "b", "c", "d"]),
        }
        if with_id:
            features["id"] = real_tfds.features.Text()
        real_tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            data_dir=root,
            split_datasets={split: tf.data.Dataset.from_tensor_slices(columns(split, with_id)) for split in splits},
            features=real_tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )
        return str(root)

    return prepared


def load_prepared(name, data_dir):
    return data.load(config(name, data_dir=data_dir, num_validation=10))


def test_a_set_of_tfds_comes_in_official_order_with_its_own_shape_and_classes(prepare):
    loaded = load_prepared("with_id", prepare("with_id", with_id=True))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[:10])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[10:40])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[40:])
    np.testing.assert_array_equal(loaded.train.labels, LABELS[10:40])
    assert loaded.image_shape == (6, 5, 1)
    assert loaded.class_names == ("a", "b", "c", "d")


def test_a_set_without_an_id_keeps_its_stored_order(prepare):
    loaded = load_prepared("without_id", prepare("without_id"))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[STORED[:10]])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[STORED[10:]])


def test_the_newest_version_is_read_unless_one_is_named(prepare):
    for version in ("9.0.0", "10.0.0"):
        root = Path(prepare("versions", version=version))
    assert tfds._prepared_folder(root, "versions").name == "10.0.0"
    assert tfds._prepared_folder(root, "versions:9.0.0").name == "9.0.0"
    assert tfds._prepared_folder(root, "absent") is None


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        ("ragged", {"image_shape": (None, None, 1)}, "equally large 8-bit images"),
        ("untested", {"splits": ("train",)}, "not train and test"),
    ],
)
def test_a_set_of_another_kind_is_refused(name, fields, complaint, prepare):
    with pytest.raises(BadInput, match=complaint):
        load_prepared(name, prepare(name, **fields))


def test_a_validation_split_that_leaves_nothing_is_refused(prepare):
    with pytest.raises(BadInput, match=r"config.num_validation: 40 "):
        data.load(config("small", data_dir=prepare("small"), num_validation=40))


def test_without_a_network_the_ways_out_are_named(tmp_path, monkeypatch):
    def no_network(request, timeout):
        raise urllib.error.URLError("name resolution failed")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(tfds, "PATIENCE", 0.5)
    with pytest.raises(BadInput, match=r"cifar10.*cannot be reached.*config.data_dir.*synthetic"):
        load_prepared("cifar10", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10:9.9.9", "huggingface:mnist", "food101"])
def test_what_tfds_cannot_give_is_refused_before_any_download(name, tmp_path):
    with pytest.raises(BadInput, match=name):
        load_prepared(name, str(tmp_path))


def test_a_name_that_tfds_does_not_know_is_refused(tmp_path):
    with pytest.raises(
        BadInput, match=r"'cifar11' is neither 'synthetic' nor a set of TFDS; the nearest names are .*cifar10,"
    ):
        load_prepared("cifar11", str(tmp_path))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(value=0):
    images = np.full((4, 2, 2, 1), value, np.uint8)
    split = data.Split(images, np.arange(4, dtype=np.int32))
    return data.Source(train=split, test=split[:2], class_names=("a", "b", "c", "d"))


def never():
    raise AssertionError("was built again")


def test_what_is_cached_is_not_built_again(own_cache):
    cache.load_or_build("set", "key", source)
    cached = cache.load_or_build("set", "key", never)
    np.testing.assert_array_equal(cached.train.images, source().train.images)
    np.testing.assert_array_equal(cached.test.labels, [0, 1])
    assert cached.class_names == ("a", "b", "c", "d")
    assert cached.train.images.dtype == np.uint8
    assert [path.name for path in own_cache.iterdir()] == ["set-key"]  # no temporary folder is left


def test_another_fingerprint_is_built_anew(own_cache):
    cache.load_or_build("set", "old", source)
    assert cache.load_or_build("set", "new", lambda: source(7)).train.images.max() == 7


@pytest.mark.parametrize("damage", ["flip", "header", "dtype", "zip", "truncate", "empty", "delete", "meta"])
def test_a_damaged_entry_is_built_again(damage, own_cache, capsys):
    cache.load_or_build("set", "key", source)
    file = own_cache / "set-key" / ("meta.json" if damage == "meta" else "train_images.npy")
    content = file.read_bytes()
    damaged = {
        "flip": content[:-1] + b"\x09",
        "header": content[:10] + b"(" + content[11:],
        "dtype": content.replace(b"(4, 2", b"(9999999999999, 2"),
        "zip": b"PK\x03\x04" + content[4:],
        "truncate": content[:-3],
        "empty": b"",
        "meta": b"{}",
    }
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    assert cache.load_or_build("set", "key", lambda: source(7)).train.images.max() == 7
    assert "damaged" in capsys.readouterr().err
    assert cache.load_or_build("set", "key", never).train.images.max() == 7


def test_the_first_of_two_that_decode_at_once_keeps_its_entry(own_cache):
    def slower():
        cache.load_or_build("set", "key", source)
        written.append((own_cache / "set-key").stat().st_ino)
        return source()

    written = []
    cache.load_or_build("set", "key", slower)
    assert (own_cache / "set-key").stat().st_ino == written[0]
    assert len(list(own_cache.iterdir())) == 1


def test_a_folder_that_cannot_be_written_only_costs_the_cache(own_cache, capsys):
    own_cache.write_text("a file")
    assert len(cache.load_or_build("set", "key", source).train) == 4
    assert "not cached" in capsys.readouterr().err


def test_the_fingerprint_follows_the_files(tmp_path):
    (tmp_path / "a").write_text("one")
    before = cache.fingerprint(tmp_path)
    assert cache.fingerprint(tmp_path) == before
    (tmp_path / "a").write_text("another")
    assert cache.fingerprint(tmp_path) != before


def test_the_second_start_reads_the_cache_without_tfds(prepare, own_cache, monkeypatch):
    data_dir = prepare("second_start")
    load_prepared("second_start", data_dir)
    monkeypatch.setattr(tfds, "_import_tfds", never)
    assert len(load_prepared("second_start", data_dir).test) == 20
    for file in Path(data_dir, "second_start").rglob("*.tfrecord*"):
        os.utime(file)  # written again, perhaps with another content
    with pytest.raises(AssertionError, match="was built again"):
        load_prepared("second_start", data_dir)
