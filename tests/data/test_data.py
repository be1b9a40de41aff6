"""The synthetic source, the TFDS source with the official order, and the cache."""

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
    result = base_config()
    result.update(dataset=dataset, **fields)
    return result


@pytest.fixture(scope="module")
def synthetic():
    return data.load(config("synthetic"))


def test_synthetic_counts_and_shapes(synthetic):
    for split, count in ((synthetic.train, 8_000), (synthetic.validation, 1_000), (synthetic.test, 1_000)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert np.bincount(split.labels).tolist() == [count // 10] * 10
    assert synthetic.class_names[:2] == ("disk", "ring")
    assert synthetic.num_classes == 10
    assert synthetic.image_shape == (32, 32, 3)


def test_synthetic_images_are_always_the_same(synthetic):
    again = data.load(config("synthetic", seed=5))
    np.testing.assert_array_equal(again.train.images, synthetic.train.images)
    np.testing.assert_array_equal(again.test.labels, synthetic.test.labels)


def test_synthetic_images_are_distinct(synthetic):
    images = [
        image.tobytes() for split in (synthetic.train, synthetic.validation, synthetic.test) for image in split.images
    ]
    assert len(set(images)) == len(images)


def test_synthetic_colors_do_not_reveal_the_class(synthetic):
    """The mean colors of the classes vary much less than the colors of the images."""
    colors = synthetic.train.images.mean((1, 2))
    means = np.stack([colors[synthetic.train.labels == label].mean(0) for label in range(10)])
    assert means.std(0).max() < 0.15 * colors.std(0).min()


def test_fewer_validation_images_leave_more_training_images():
    smaller = data.load(config("synthetic", num_validation=400))
    assert (len(smaller.train), len(smaller.validation)) == (8_600, 400)


LABELS = np.arange(60) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 1), np.uint8)  # 40 for training, 20 for testing
STORED = np.random.default_rng(1).permutation(40)  # order of the training images on disk


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """A function that writes a small dataset with TFDS, without a network, and returns its data_dir."""
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


@pytest.mark.medium
def test_tfds_dataset_has_official_order_shape_and_classes(prepare):
    loaded = load_prepared("with_id", prepare("with_id", with_id=True))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[:10])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[10:40])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[40:])
    np.testing.assert_array_equal(loaded.train.labels, LABELS[10:40])
    assert loaded.image_shape == (6, 5, 1)
    assert loaded.class_names == ("a", "b", "c", "d")


def test_tfds_dataset_without_id_keeps_its_stored_order(prepare):
    loaded = load_prepared("without_id", prepare("without_id"))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[STORED[:10]])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[STORED[10:]])


def test_tfds_newest_version_is_the_default(prepare):
    for version in ("9.0.0", "10.0.0"):
        root = Path(prepare("versions", version=version))
    assert tfds._prepared_folder(root, "versions").name == "10.0.0"
    assert tfds._prepared_folder(root, "versions:9.0.0").name == "9.0.0"
    assert tfds._prepared_folder(root, "absent") is None


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ragged", {"image_shape": (None, None, 1)}, "8-bit images of one size"),
        ("untested", {"splits": ("train",)}, "not train and test"),
    ],
)
def test_unsupported_tfds_dataset_is_rejected(name, fields, message, prepare):
    with pytest.raises(BadInput, match=message):
        load_prepared(name, prepare(name, **fields))


def test_validation_split_that_takes_all_images_is_rejected(prepare):
    with pytest.raises(BadInput, match=r"config.num_validation: 40 "):
        data.load(config("small", data_dir=prepare("small"), num_validation=40))


def test_missing_network_is_reported_with_alternatives(tmp_path, monkeypatch):
    def no_network(request, timeout):
        raise urllib.error.URLError("name resolution failed")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(tfds, "DOWNLOAD_TIMEOUT", 0.5)
    with pytest.raises(BadInput, match=r"cifar10.*cannot be reached.*config.data_dir.*synthetic"):
        load_prepared("cifar10", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10:9.9.9", "huggingface:mnist", "food101"])
def test_unavailable_tfds_name_is_rejected_before_a_download(name, tmp_path):
    with pytest.raises(BadInput, match=name):
        load_prepared(name, str(tmp_path))


def test_unknown_tfds_name_is_rejected_with_similar_names(tmp_path):
    with pytest.raises(
        BadInput, match=r"'cifar11' is neither 'synthetic' nor a TFDS dataset; the closest names are .*cifar10,"
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


def must_not_build():
    raise AssertionError("was rebuilt")


def test_cached_source_is_not_rebuilt(own_cache):
    cache.load_or_build("set", "key", source)
    cached = cache.load_or_build("set", "key", must_not_build)
    np.testing.assert_array_equal(cached.train.images, source().train.images)
    np.testing.assert_array_equal(cached.test.labels, [0, 1])
    assert cached.class_names == ("a", "b", "c", "d")
    assert cached.train.images.dtype == np.uint8
    assert [path.name for path in own_cache.iterdir()] == ["set-key"]  # no temporary folder remains


def test_source_with_another_fingerprint_is_rebuilt(own_cache):
    cache.load_or_build("set", "old", source)
    assert cache.load_or_build("set", "new", lambda: source(7)).train.images.max() == 7


@pytest.mark.parametrize("damage", ["flip", "header", "dtype", "zip", "truncate", "empty", "delete", "meta"])
def test_damaged_entry_is_rebuilt(damage, own_cache, capsys):
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
    assert cache.load_or_build("set", "key", must_not_build).train.images.max() == 7


def test_entry_written_during_decoding_is_kept(own_cache):
    def build_after_another_process():
        cache.load_or_build("set", "key", source)
        inodes.append((own_cache / "set-key").stat().st_ino)
        return source()

    inodes = []
    cache.load_or_build("set", "key", build_after_another_process)
    assert (own_cache / "set-key").stat().st_ino == inodes[0]
    assert len(list(own_cache.iterdir())) == 1


def test_unwritable_cache_is_not_an_error(own_cache, capsys):
    own_cache.write_text("a file")
    assert len(cache.load_or_build("set", "key", source).train) == 4
    assert "not cached" in capsys.readouterr().err


def test_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "a").write_text("one")
    before = cache.fingerprint(tmp_path)
    assert cache.fingerprint(tmp_path) == before
    (tmp_path / "a").write_text("another")
    assert cache.fingerprint(tmp_path) != before


def test_second_start_reads_the_cache_without_tfds(prepare, own_cache, monkeypatch):
    data_dir = prepare("second_start")
    load_prepared("second_start", data_dir)
    monkeypatch.setattr(tfds, "_import_tfds", must_not_build)
    assert len(load_prepared("second_start", data_dir).test) == 20
    for file in Path(data_dir, "second_start").rglob("*.tfrecord*"):
        os.utime(file)  # as if rewritten, possibly with other content
    with pytest.raises(AssertionError, match="was rebuilt"):
        load_prepared("second_start", data_dir)
