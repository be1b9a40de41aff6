"""Sets that a run is only evaluated on: CIFAR-10.1 and CIFAR-10-C as published, by TFDS, and other sources."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cifar_flax.data.corruptions import BENCHMARK, EXTRA
from cifar_flax.data.labeled_sets import Network, open_set
from cifar_flax.errors import BadInput

COUNT = 6  # test images
IMAGES = np.random.default_rng(0).integers(0, 256, (5 * COUNT, 4, 4, 3), np.uint8)
LABELS = np.arange(COUNT) % 3
NETWORK = Network((4, 4, 3), ("cat", "dog", "ship"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_pair(folder="CIFAR-10.1/datasets", version="v6"):
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(f"{folder}/cifar10.1_{version}_data.npy", IMAGES[:COUNT])
    np.save(f"{folder}/cifar10.1_{version}_labels.npy", LABELS)


def write_corrupted(*names, folder="data/CIFAR-10-C", dtype=np.uint8):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        np.save(f"{folder}/{name}.npy", IMAGES + np.uint8(index))
    np.save(f"{folder}/labels.npy", np.tile(LABELS, 5).astype(dtype))


def the_only(name, network=NETWORK):
    (part,) = open_set(name, network)
    assert (part.corruption, part.severity) == ("", 0)
    return part.load()


@pytest.mark.parametrize("name", ["cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy", "", ".."])
def test_cifar_10_1_is_named_by_either_file_or_by_a_folder(name):
    write_pair()
    split = the_only(f"CIFAR-10.1/datasets/{name}")
    np.testing.assert_array_equal(split.images, IMAGES[:COUNT])
    np.testing.assert_array_equal(split.labels, LABELS)
    assert split.labels.dtype == np.int32


def test_one_of_two_versions_of_cifar_10_1_must_be_named():
    write_pair()
    write_pair(version="v4")
    with pytest.raises(
        BadInput, match=r"^--on: .*datasets holds 2 sets of images; name one of them: cifar10.1_v4_data"
    ):
        open_set("CIFAR-10.1/datasets", NETWORK)
    assert len(the_only("CIFAR-10.1/datasets/cifar10.1_v4_labels.npy")) == COUNT


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("path", ["data/CIFAR-10-C", "data", "data/CIFAR-10-C/labels.npy"])
def test_cifar_10_c_is_read_by_corruption_and_severity(path, dtype):
    names = ["my_blur", *EXTRA, *BENCHMARK]
    write_corrupted(*names, dtype=dtype)
    parts = open_set(path, NETWORK)
    order = [*BENCHMARK, *EXTRA, "my_blur"]
    assert [(part.corruption, part.severity) for part in parts] == [(name, s) for name in order for s in range(1, 6)]
    for part in parts[:5] + parts[-5:]:
        rows = slice((part.severity - 1) * COUNT, part.severity * COUNT)
        expected = IMAGES[rows] + np.uint8(names.index(part.corruption))
        np.testing.assert_array_equal(part.load().images, expected)
        np.testing.assert_array_equal(part.load().labels, LABELS)


def test_file_of_a_corruption_stands_for_it_alone_and_is_mapped():
    write_corrupted("fog", "snow")
    parts = open_set("data/CIFAR-10-C/fog.npy", NETWORK)
    assert [part.corruption for part in parts] == ["fog"] * 5
    assert not parts[0].load().images.flags.writeable
    assert not parts[0].load().images.flags.owndata


def saved(name, array):
    return lambda: np.save(f"data/CIFAR-10-C/{name}.npy", array)


def truncated():
    path = Path("data/CIFAR-10-C/fog.npy")
    path.write_bytes(path.read_bytes()[:-100])


def unpickled(*arguments):
    raise AssertionError("was unpickled")


class Malicious:  # noqa: D101
    def __reduce__(self):
        return unpickled, ()


def malicious():
    objects = np.empty(1, object)
    objects[0] = Malicious()
    np.save("data/CIFAR-10-C/fog.npy", objects, allow_pickle=True)


LABELS_5 = np.tile(LABELS, 5)
FAULTS = {
    "a count that is not five times": (
        lambda: (saved("labels", LABELS_5[1:])(), saved("fog", IMAGES[1:])()),
        "labels.npy has 29 labels, which are not those of 5 severities of the same images",
    ),
    "a missing image": (saved("fog", IMAGES[1:]), "fog.npy has 29 images, but labels.npy has 30 labels, for 5 sever"),
    "a missing severity": (saved("fog", IMAGES[COUNT:]), "fog.npy has 24 images, but labels.npy has 30 labels, for 5"),
    "a severity missing in all files": (
        lambda: (saved("labels", np.tile(np.arange(25) % 3, 4))(), saved("fog", np.zeros((100, 4, 4, 3), np.uint8))()),
        "labels.npy has 100 labels, which are not those of 5 severities of the same images",
    ),
    "an unknown label": (
        saved("labels", LABELS_5 + 1),
        "labels.npy has the label 3, but the classes of the run are 0 ",
    ),
    "a negative label": (saved("labels", LABELS_5 - 1), "labels.npy has labels from -1 to 1, not from 0 to "),
    "labels that are floats": (saved("labels", LABELS_5 / 1), "labels.npy is float64 [30], not integer labels"),
    "no labels": (lambda: Path("data/CIFAR-10-C/labels.npy").unlink(), "labels.npy is missing; download it again"),
    "no corruptions": (lambda: Path("data/CIFAR-10-C/fog.npy").unlink(), "has labels.npy, but no file of a corruption"),
    "images that are floats": (saved("fog", IMAGES / 255), "fog.npy is float64 [30, 4, 4, 3], not images [N, H, W, C]"),
    "rows of pixels": (saved("fog", IMAGES.reshape(30, -1)), "fog.npy is uint8 [30, 48], not images [N, H, W, C]"),
    "another size": (saved("fog", IMAGES[:, :2]), "fog.npy has images of 2x4x3, but those of the run are 4x4x3"),
    "a truncated file": (truncated, "fog.npy is not a readable .npy of numbers (ValueError: mmap length"),
    "a pickle in a .npy": (malicious, "fog.npy is not a readable .npy of numbers"),
    "a pickle": (
        lambda: Path("data/CIFAR-10-C/fog.npy").write_bytes(pickle.dumps(Malicious())),
        "fog.npy is not a readable .npy of numbers",
    ),
    "nothing": (
        lambda: shutil.rmtree("data/CIFAR-10-C"),
        "data holds nothing, and is not a dataset; --on can be the .npy files of CIFAR-10.1 or CIFAR-10-C, a fol",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_named_in_one_line(fault):
    write_corrupted("fog")
    damage, message = FAULTS[fault]
    damage()
    with pytest.raises(BadInput) as raised:
        the_only("data")
    assert str(raised.value).startswith("--on: ")
    assert str(raised.value).isprintable()
    assert message in str(raised.value)


def write_npz(**entries):
    np.savez("set.npz", **entries)


def write_named(*names):
    write_npz(x_test=IMAGES[:COUNT], y_test=LABELS, class_names=np.array(names))


def test_labels_are_mapped_by_the_names_of_the_classes():
    write_named("dog", "ship", "cat")
    np.testing.assert_array_equal(the_only("set.npz").labels, np.array([1, 2, 0])[LABELS])
    write_named("dog", "ship", "cat", "monkey")  # of which there is no image
    np.testing.assert_array_equal(the_only("set.npz").labels, np.array([1, 2, 0])[LABELS])
    write_named("dog", "monkey", "cat")
    with pytest.raises(
        BadInput, match=r"^--on: set.npz has images of monkey, but the classes of the run are cat, dog,"
    ):
        the_only("set.npz")


def test_classes_without_names_go_by_number():
    write_npz(images=IMAGES[:COUNT], labels=LABELS)
    np.testing.assert_array_equal(the_only("set.npz").labels, LABELS)
    write_npz(images=IMAGES[:COUNT], labels=LABELS + 1)
    with pytest.raises(BadInput, match=r"^--on: set.npz has the label 3, but the classes of the run are 0 to 2; "):
        the_only("set.npz")
    write_npz(x_test=IMAGES[:2], y_test=np.array([0, 1]), class_names=np.array(["1", "0"]))
    np.testing.assert_array_equal(the_only("set.npz", Network((4, 4, 3), ("0", "1"))).labels, [1, 0])


@pytest.mark.parametrize("names", [("0", "10", "2", "1"), ("00", "10", "02", "01")])
def test_numbers_as_names_of_folders_are_matched_in_any_order(names):
    write_npz(images=IMAGES[:3], labels=np.array([2, 1, 0]))
    write_pair()
    network = Network((4, 4, 3), names)
    np.testing.assert_array_equal(the_only("set.npz", network).labels, [2, 3, 0])
    np.testing.assert_array_equal(the_only("CIFAR-10.1", network).labels, np.array([0, 3, 2])[LABELS])
    np.save("CIFAR-10.1/datasets/cifar10.1_v6_labels.npy", LABELS + 1)
    with pytest.raises(BadInput, match=r"^--on: .*v6_labels.npy has images of 3, but the classes of the run are 0, 10"):
        the_only("CIFAR-10.1", network)


def test_network_with_more_classes_is_evaluated_with_a_warning(capsys):
    write_corrupted("fog", "snow")
    open_set("data/CIFAR-10-C", NETWORK._replace(class_names=("cat", "dog", "ship", "monkey")))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("has the labels 0 to 2, which count as cat, dog, ship; the run has 4 classes")
    open_set("data/CIFAR-10-C", NETWORK)
    (line,) = capsys.readouterr().err.splitlines()  # the numbers could be those of other classes
    assert line.endswith("has the labels 0 to 2, which count as cat, dog, ship")
    open_set("data/CIFAR-10-C", NETWORK._replace(class_names=("airplane", "bird", "truck")))
    assert capsys.readouterr().err == ""


def test_arrays_beside_pictures_are_no_set_unless_they_are_complete():
    for name in NETWORK.class_names:
        Path("photos", name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(f"photos/{name}/1.png")
    np.save("photos/labels.npy", LABELS)
    np.save("photos/cat/embedding_labels.npy", LABELS)
    assert len(the_only("photos")) == 3
    np.save("photos/embedding_data.npy", IMAGES)  # of which the labels are missing
    assert len(the_only("photos")) == 3
    with pytest.raises(BadInput, match=r"^--on: .*embedding_labels.npy is missing; download it again$"):
        the_only("photos/embedding_data.npy")


def test_header_of_python_2_is_read():
    write_pair()
    path = Path("CIFAR-10.1/datasets/cifar10.1_v6_labels.npy")
    path.write_bytes(path.read_bytes().replace(b"(6,), } ", b"(6L,), }"))
    np.testing.assert_array_equal(the_only("CIFAR-10.1").labels, LABELS)


def test_file_that_may_not_be_read_is_not_called_damaged(monkeypatch):
    write_pair()

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(BadInput, match=r"^--on: .*v6_labels.npy may not be read by this user; change its permissions$"):
        the_only("CIFAR-10.1")


def forbid_listing(name, monkeypatch):
    """Lets the system refuse to list folders of this name."""
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)


def test_hidden_files_and_folders_of_others_do_not_hide_a_set(monkeypatch):
    write_corrupted("fog")
    Path("data/lost+found").mkdir()
    for name in ("CIFAR-10-C/._fog.npy", "CIFAR-10-C/._labels.npy", "__MACOSX/labels.npy"):
        Path("data", name).parent.mkdir(exist_ok=True)
        Path("data", name).write_bytes(b"attributes")
    forbid_listing("lost+found", monkeypatch)
    for name in ("data", "data/CIFAR-10-C"):
        assert [part.corruption for part in open_set(name, NETWORK)] == ["fog"] * 5


def test_names_that_a_message_offers_can_be_given():
    write_corrupted("fog")
    write_pair("data/CIFAR-10-C")
    offered = "cifar10.1_v6_data.npy, labels.npy"
    with pytest.raises(BadInput, match=rf"^--on: .* holds 2 sets of images; name one of them: {offered}$"):
        open_set("data/CIFAR-10-C", NETWORK)
    assert [len(open_set(f"data/CIFAR-10-C/{name}", NETWORK)) for name in offered.split(", ")] == [1, 5]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_are_gray_for_a_gray_network(mode):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    for label, picture in enumerate(pictures):
        Path("photos", NETWORK.class_names[label % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).convert(mode).save(f"photos/{NETWORK.class_names[label % 3]}/{label}.png")
    split = the_only("photos", NETWORK._replace(image_shape=(4, 4, 1)))
    expected = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])[..., None]
    assert sorted(image.tolist() for image in split.images) == sorted(image.tolist() for image in expected)


def test_messages_name_nothing_that_the_command_does_not_have():
    for label, name in enumerate(NETWORK.class_names):
        Path("photos", name).mkdir(parents=True)
        Image.new("RGB", (4 + label, 4)).save(f"photos/{name}/1.png")
    with pytest.raises(BadInput) as raised:
        the_only("photos", NETWORK._replace(image_shape=(4, 5, 3)))
    assert "config." not in str(raised.value)
    assert str(raised.value).endswith("; name pictures of one size")
    pictures = [{"bytes": path.read_bytes()} for path in Path("photos").glob("*/1.png")]
    pq.write_table(pa.table({"image": pictures, "species": [0, 1, 2], "genus": [0, 0, 1]}), "set.parquet")
    with pytest.raises(BadInput, match=r"^--on: \S*set.parquet has no column label.*; rename the column of "):
        the_only("set.parquet")


def test_test_folder_that_may_not_be_listed_is_named(monkeypatch):
    for split in ("train", "test"):
        Path("photos", split, "dog").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(f"photos/{split}/dog/1.png")
    forbid_listing("test", monkeypatch)
    with pytest.raises(BadInput, match=r"^--on: .*photos/test cannot be read \(Permission denied\)$"):
        the_only("photos")


def test_test_split_of_a_source_is_used_or_all_its_images():
    write_npz(x_train=IMAGES, y_train=LABELS_5, x_test=IMAGES[:COUNT], y_test=LABELS)
    assert len(the_only("set.npz")) == COUNT
    write_npz(images=IMAGES, labels=LABELS_5)
    assert len(the_only("set.npz")) == 5 * COUNT
    write_npz(x_test=IMAGES)
    with pytest.raises(BadInput, match=r"^--on: .*set.npz: y_test is missing; the file has x_test, and a dataset "):
        the_only("set.npz")


def test_pictures_are_resized_and_only_those_of_the_test_folder_are_decoded():
    for split, name in (("train", "dog"), ("test", "ship"), ("test", "dog")):
        Path("photos", split, name).mkdir(parents=True)
        Image.fromarray(np.full((9, 7), 200, np.uint8)).save(f"photos/{split}/{name}/1.png")
    Path("photos/train/dog/2.png").write_text("not a picture")
    split = the_only("photos")
    assert split.images.shape == (2, 4, 4, 3)  # of gray pictures
    assert (split.images == 200).all()
    assert sorted(split.labels) == [1, 2]
    shutil.rmtree("photos/test")
    with pytest.raises(BadInput, match=r"^--on: .*2.png: "):
        the_only("photos")


@pytest.mark.medium
def test_corruptions_and_test_images_that_tfds_prepared(tmp_path, capsys):
    tf, tfds = pytest.importorskip("tensorflow"), pytest.importorskip("tensorflow_datasets")
    features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.ClassLabel(num_classes=3)}

    def prepare(name, config, images):
        stored = tf.data.Dataset.from_tensor_slices({"image": images, "label": LABELS})
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, version="1.0.0", data_dir=tmp_path / "tfds", config=config, split_datasets={"test": stored},
            features=tfds.features.FeaturesDict(features), disable_shuffling=True,
        )  # fmt: skip

    for severity in range(1, 6):
        prepare("my_corrupted", f"elastic_{severity}", IMAGES[:COUNT] + np.uint8(severity))
    parts = open_set("my_corrupted", NETWORK, "tfds")
    assert [(part.corruption, part.severity) for part in parts] == [("elastic_transform", s) for s in range(1, 6)]
    for part in parts:
        np.testing.assert_array_equal(part.load().images, IMAGES[:COUNT] + np.uint8(part.severity))
        np.testing.assert_array_equal(part.load().labels, LABELS)
    assert len(open_set("tfds/my_corrupted", NETWORK)) == 5
    with pytest.raises(BadInput, match=r"^--on: my_corrupted:1.0.0 has a version, but no config; write my_corrupted f"):
        open_set("my_corrupted:1.0.0", NETWORK, "tfds")
    capsys.readouterr()
    for part in open_set("my_corrupted", NETWORK._replace(class_names=("cat", "dog", "ship", "monkey")), "tfds"):
        part.load()
    assert capsys.readouterr().err.count("which count as cat, dog, ship; the run has 4 classes") == 1
    (part,) = open_set("my_corrupted/elastic_2", NETWORK, "tfds")
    np.testing.assert_array_equal(part.load().images, IMAGES[:COUNT] + np.uint8(2))
    (part,) = open_set("my_corrupted/elastic_transform_2", NETWORK, "tfds")  # the name in the results
    np.testing.assert_array_equal(part.load().images, IMAGES[:COUNT] + np.uint8(2))
    prepare("our_corrupted", "fog", IMAGES[:COUNT])
    with pytest.raises(BadInput, match=r"^--on: the prepared configs of our_corrupted are fog, without severities"):
        open_set("our_corrupted", NETWORK, "tfds")
    shutil.rmtree("tfds/my_corrupted/elastic_4")
    with pytest.raises(
        BadInput, match=r"^--on: my_corrupted is prepared for elastic_transform, but not for severity 4;"
    ):
        open_set("my_corrupted", NETWORK, "tfds")
    with pytest.raises(BadInput, match=r"^--on: no config of your_corrupted is prepared; prepare some, or name one, "):
        open_set("your_corrupted", NETWORK, "tfds")
