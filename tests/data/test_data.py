"""The synthetic source, the TFDS source with the official order, and the cache."""

import importlib.util
import os
import pwd
import shutil
import urllib.error
import urllib.request
from dataclasses import replace
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
    tf, real_tfds = pytest.importorskip("tensorflow"), pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")

    def columns(split, with_id):
        rows = STORED if split == "train" else np.arange(40, 60)
        return {"image": IMAGES[rows], "label": LABELS[rows]} | (
            {"id": [f"{split}_{row:05d}" for row in rows]} if with_id else {}
        )

    def prepared(
        name,
        with_id=False,
        image_shape=(6, 5, 1),
        splits=("train", "test"),
        version="1.0.0",
        test_labels=None,
        coarse=False,
        **stored,
    ):
        features = {
            "image": real_tfds.features.Image(shape=image_shape),
            "label": real_tfds.features.ClassLabel(names=["a", "b", "c", "d"]),
        }
        if with_id:
            features["id"] = real_tfds.features.Text()
        all_columns = {split: columns(split, with_id) for split in splits}
        if test_labels is not None:
            all_columns["test"]["label"] = test_labels
        if coarse:
            features["coarse_label"] = real_tfds.features.ClassLabel(names=["ab", "cd"])
            for column in all_columns.values():
                column["coarse_label"] = column["label"] // 2
        real_tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            data_dir=root,
            split_datasets={split: tf.data.Dataset.from_tensor_slices(all_columns[split]) for split in splits},
            features=real_tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            **stored,
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


def test_label_chooses_between_the_labels_of_a_tfds_dataset(prepare):
    data_dir = prepare("two_labels", with_id=True, coarse=True)
    for label, labels, names in (("coarse", LABELS // 2, ("ab", "cd")), ("fine", LABELS, tuple("abcd"))):
        for _ in range(2):  # the second time from the cache
            loaded = data.load(config("two_labels", data_dir=data_dir, num_validation=10, label=label))
            np.testing.assert_array_equal(loaded.train.labels, labels[10:40])
            np.testing.assert_array_equal(loaded.test.images, IMAGES[40:])
            assert loaded.class_names == names
    with pytest.raises(BadInput, match=r"^config.label: 'super' is not valid; use fine or coarse$"):
        data.load(config("two_labels", data_dir=data_dir, label="super"))
    with pytest.raises(BadInput, match=r"^config.label: 'coarse' is not valid; leave it unset, .* in 'one_label'$"):
        data.load(config("one_label", data_dir=prepare("one_label"), label="coarse"))
    with pytest.raises(BadInput, match=r"^config.image_size: 8 is not valid; leave it unset, .* in a TFDS dataset$"):
        data.load(config("two_labels", data_dir=data_dir, image_size=8))


def test_tfds_dataset_without_id_keeps_its_stored_order(prepare):
    loaded = load_prepared("without_id", prepare("without_id"))
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[STORED[:10]])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[STORED[10:]])


@pytest.mark.parametrize("with_id", [False, True])
def test_array_record_gives_the_same_images_as_tfrecord(with_id, prepare):
    name = f"array_record_{with_id}".lower()
    loaded = load_prepared(name, prepare(name, with_id, file_format="array_record"))
    order = np.arange(40) if with_id else STORED
    np.testing.assert_array_equal(loaded.validation.images, IMAGES[order[:10]])
    np.testing.assert_array_equal(loaded.train.images, IMAGES[order[10:]])
    np.testing.assert_array_equal(loaded.train.labels, LABELS[order[10:]])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[40:])
    assert loaded.class_names == ("a", "b", "c", "d")


def test_missing_array_record_package_is_reported(prepare, monkeypatch):
    data_dir = prepare("no_package", file_format="array_record")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"^config.dataset: no_package/1\.0\.0 .* needs the package array_record; "):
        load_prepared("no_package", data_dir)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "changed": lambda content: bytes(byte ^ 255 for byte in content[:200]) + content[200:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["*-train.*", "dataset_info.json", "features.json"])
def test_damaged_tfds_dataset_is_reported_with_its_folder(file_format, damage, file, prepare, tmp_path):
    name = f"{file_format}_{damage}_{Path(file).stem.strip('-.*')}"
    shutil.copytree(Path(prepare(name, file_format=file_format), name), tmp_path / "damaged")
    folder = tmp_path / "damaged/1.0.0"
    (path,) = folder.glob(file)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(BadInput) as raised:
        load_prepared("damaged", str(tmp_path))
    assert str(raised.value).startswith(f"config.dataset: 'damaged' in {folder} is damaged or cannot be decoded (")
    assert str(raised.value).endswith("; prepare it again")
    assert not {"\n", "Traceback"} & {*str(raised.value).split(" ")}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds_dataset_without_test_labels_is_rejected(file_format, prepare):
    name = f"unlabeled_{file_format}"
    data_dir = prepare(name, file_format=file_format, test_labels=np.where(np.arange(20) < 3, -1, LABELS[40:]))
    with pytest.raises(BadInput, match=r"3 of the 20 images of test have labels that are not from 0 to 3, such as -1"):
        load_prepared(name, data_dir)


def test_default_config_of_a_prepared_dataset_is_found(prepare, monkeypatch):
    """The folder of its config is known to TFDS alone."""
    import tensorflow_datasets as real_tfds

    root = Path(prepare("default_config", config="one"))
    builder = real_tfds.builder_from_directory(root / "default_config/one/1.0.0")
    monkeypatch.setattr(real_tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(tfds, "_reachable", lambda url: pytest.fail("must not download"))
    assert len(load_prepared("default_config", str(root)).test) == 20


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
        ("untested", {"splits": ("train",)}, r"config.test_share: 'untested' has no test split"),
        ("unknown", {"splits": ("validation",)}, "has the splits validation, but neither train nor test"),
        ("untrained", {"splits": ("test",)}, "'untrained' has no training images; name it with --on of"),
    ],
)
def test_unsupported_tfds_dataset_is_rejected(name, fields, message, prepare):
    with pytest.raises(BadInput, match=message):
        load_prepared(name, prepare(name, **fields))


def test_validation_split_that_takes_all_images_is_rejected(prepare):
    with pytest.raises(BadInput, match=r"config.num_validation: 40 "):
        data.load(config("small", data_dir=prepare("small"), num_validation=40))


def test_missing_network_is_reported_with_alternatives(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")

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
    pytest.importorskip("tensorflow_datasets")
    message = r"'cifar11' is neither 'synthetic' nor a TFDS dataset; the closest names are .*cifar10,.* does not exist$"
    with pytest.raises(BadInput, match=message):
        load_prepared("cifar11", str(tmp_path))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(value=0):
    images = np.full((4, 2, 2, 1), value, np.uint8)
    split = data.Split(images, np.arange(4, dtype=np.int32))
    return data.Source(train=split, test=split[:2], class_names=("a", "b", "c", "d"))


def must_not_build(*arguments):
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
    message = f"not cached, so the next start decodes again: {own_cache}: File exists; set CIFAR_FLAX_CACHE"
    assert capsys.readouterr().err.startswith(message)


def test_validation_split_is_cached(own_cache):
    cache.load_or_build("set", "key", lambda: replace(source(), validation=source(9).train))
    assert cache.load_or_build("set", "key", must_not_build).validation.images.max() == 9


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o002, 0o775, 0o664), (0o077, 0o700, 0o600)])
def test_umask_determines_who_can_read_an_entry(umask, folder_mode, file_mode, own_cache):
    previous = os.umask(umask)
    try:
        cache.load_or_build("set", "key", source)
    finally:
        os.umask(previous)
    assert (own_cache / "set-key").stat().st_mode & 0o777 == folder_mode
    assert {path.stat().st_mode & 0o777 for path in (own_cache / "set-key").iterdir()} == {file_mode}


def test_home_folder_that_does_not_exist_is_reported_once(monkeypatch, capsys):
    for name in ("CIFAR_FLAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    assert len(cache.load_or_build("set", "key", source).train) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not cached, so the next start decodes again: there is no home folder")
    assert "set CIFAR_FLAX_CACHE" in line
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(BadInput, match=r"^config.data_dir: it is not set, and there is no home folder .*TFDS_DATA_DIR"):
        data.load(config("cifar10"))


@pytest.mark.parametrize("variable", ["CIFAR_FLAX_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR"])
def test_variable_with_an_unknown_user_is_named(variable, monkeypatch):
    monkeypatch.delenv("CIFAR_FLAX_CACHE")
    monkeypatch.setenv(variable, "~no_such_user/x")
    message = f"^{variable}: '~no_such_user/x': there is no home folder for '~no_such_user'"
    with pytest.raises(BadInput, match=message):
        data.load(config("cifar10")) if variable == "TFDS_DATA_DIR" else cache.load_or_build("set", "key", source)


def test_fingerprint_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_text("one")
    before = cache.fingerprint([tmp_path / "a"])
    shutil.copy(tmp_path / "a", tmp_path / "b")  # at another time
    assert cache.fingerprint([tmp_path / "b"]) == before
    (tmp_path / "b").write_text("two")
    shutil.copystat(tmp_path / "a", tmp_path / "b")
    assert cache.fingerprint([tmp_path / "b"]) != before


def test_second_start_reads_the_cache_without_tfds(prepare, own_cache, monkeypatch):
    data_dir = prepare("second_start")
    load_prepared("second_start", data_dir)
    monkeypatch.setattr(tfds, "_import_tfds", must_not_build)
    assert len(load_prepared("second_start", data_dir).test) == 20
    for file in Path(data_dir, "second_start").rglob("*.tfrecord*"):
        file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(AssertionError, match="was rebuilt"):
        load_prepared("second_start", data_dir)
