"""A folder of pictures as a dataset: its layouts, its order, and one line for each mistake."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import Options, folder
from cifar_flax.data.split import stratified_order
from cifar_flax.errors import BadInput

CLASSES = ("ant", "bee", "cat")
LABELS = {"train": [0, 0, 0, 0, 0, 1, 1, 1, 2, 2], "test": [0, 1, 1, 2], "validation": [0, 1, 2]}
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (len(labels), 6, 5, 3), np.uint8) for name, labels in LABELS.items()}
ALL = Options()


def write(root, split, name, suffix="png"):
    """Writes a split's images to root/name/CLASS."""
    for index, (image, label) in enumerate(zip(IMAGES[split], LABELS[split], strict=True)):
        path = root / name / CLASSES[label] / f"{index:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def assert_equal(split, name):
    """Training images have their classes mixed, all others are sorted by path."""
    labels = np.array(LABELS[name], np.int32)
    order = stratified_order(labels) if name == "train" else np.arange(len(labels))
    np.testing.assert_array_equal(split.images, IMAGES[name][order])
    np.testing.assert_array_equal(split.labels, labels[order])
    assert split.labels.dtype == np.int32


def load(root, options=ALL):
    path = folder.find(root)
    assert path is not None
    return folder.load(path, options)


@pytest.fixture
def pets(tmp_path):
    """train/CLASS/*.png and test/CLASS/*.PNG."""
    write(tmp_path / "pets", "train", "train")
    write(tmp_path / "pets", "test", "test", "PNG")
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The names of the pictures of each call of the decoder, with an empty cache."""
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    calls, decode = [], folder.decoding.decode

    def record(pictures, names, image_size):
        calls.append(names)
        return decode(pictures, names, image_size)

    monkeypatch.setattr(folder.decoding, "decode", record)
    return calls


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "TESTING")])
def test_training_and_test_images_are_the_arrays_that_the_files_were_made_of(names, tmp_path):
    for split, name in zip(("train", "test"), names, strict=True):
        write(tmp_path, split, name)
    source = load(tmp_path)
    assert source.class_names == CLASSES
    assert source.validation is None
    assert_equal(source.train, "train")
    assert_equal(source.test, "test")


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_split_is_read(name, pets):
    write(pets, "validation", name, "tiff")
    assert_equal(load(pets).validation, "validation")


def test_jpegs_are_read_as_by_predict(pets):
    write(pets, "validation", "val", "jpg")
    paths = [pets / "val" / CLASSES[label] / f"{index:02}.jpg" for index, label in enumerate(LABELS["validation"])]
    expected = [data.pictures.read_image(path, (6, 5, 3)) for path in paths]
    np.testing.assert_array_equal(load(pets).validation.images, expected)


@pytest.mark.parametrize("above", ["", "flower_photos"])
def test_class_folders_without_train_are_the_training_images(above, tmp_path):
    write(tmp_path, "train", above)
    source = load(tmp_path)
    assert (source.test, source.validation) == (None, None)
    assert_equal(source.train, "train")


def test_the_splits_may_be_one_level_down(pets):
    (pets.parent / "__MACOSX").mkdir()
    (pets.parent / "about").mkdir()
    Image.fromarray(IMAGES["train"][0]).save(pets.parent / "about" / "overview.png")
    assert folder.find(pets.parent) == pets


def test_a_test_split_is_made_from_the_training_images(tmp_path):
    write(tmp_path, "train", "train")
    config = base_config()
    config.update(dataset=str(tmp_path), num_validation=3, test_share=0.3)
    dataset = data.load(config)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [3, 3, 4]
    assert len(set(dataset.validation.labels)) > 1  # the classes are mixed
    pixels = np.concatenate([dataset.train.images, dataset.validation.images, dataset.test.images])
    assert len({image.tobytes() for image in pixels} & {image.tobytes() for image in IMAGES["train"]}) == 10


def test_pictures_below_a_class_count_in_the_order_of_their_paths(pets):
    shutil.move(pets / "test/bee/01.PNG", pets / "test/bee/a.b.PNG")
    (pets / "test/bee/a").mkdir()
    shutil.move(pets / "test/bee/02.PNG", pets / "test/bee/a/0.PNG")
    test = load(pets).test
    np.testing.assert_array_equal(test.images, IMAGES["test"][[0, 2, 1, 3]])


def test_gray_pictures_give_gray_images(tmp_path):
    for path in ("train/ant/a.png", "train/bee/b.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(IMAGES["train"][0, ..., 0]).save(tmp_path / path)
    np.testing.assert_array_equal(load(tmp_path).train.images, IMAGES["train"][[0, 0], ..., :1])


def test_image_size_resizes_the_short_side_and_keeps_the_center(pets):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = RNG.integers(0, 256, (4, 4, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    Image.fromarray(wide).save(pets / "test/cat/03.PNG")
    source = load(pets, Options(image_size=4))
    assert source.train.images.shape == (10, 4, 4, 3)
    np.testing.assert_array_equal(source.test.images[3], wide[::2, 8:16:2])


def test_other_sizes_need_image_size(pets):
    large = pets / "test/bee/02.PNG"
    Image.new("RGB", (40, 30)).save(large)
    assert rejected(pets) == (
        f"config.image_size: it is unset, but {pets}/test/ant/00.PNG has 5 x 6 pixels and {large} has 40 x 30 pixels; "
        "set it to resize all pictures, such as --config.image_size=32"
    )


def test_all_that_is_missing_is_named_at_once(tmp_path):
    write(tmp_path, "train", "train")
    Image.new("RGB", (40, 30)).save(tmp_path / "train/cat/large.webp")
    assert rejected(tmp_path).endswith(
        "such as --config.image_size=32; there is no test split, so --config.test_share=0.2 or another fraction is "
        "needed as well"
    )


def test_hidden_files_are_ignored_and_other_files_are_counted(pets, capsys):
    for name in (".DS_Store", "train/.DS_Store", "train/ant/._00.png", "train/ant/Thumbs.db", "test/desktop.ini"):
        (pets / name).write_text("not a picture")
    for name in ("train/.ipynb_checkpoints", "train/bee/.thumbnails", "__MACOSX/ant", "test/__MACOSX"):
        (pets / name).mkdir(parents=True)
        (pets / name / "00.png").write_text("not a picture")
    (pets / "README.md").write_text("about the pictures")
    assert_equal(load(pets).train, "train")
    assert capsys.readouterr().err == ""
    (pets / "train/ant/notes.txt").write_text("a note")
    (pets / "test/cat/labels.csv").write_text("a table")
    assert_equal(load(pets).test, "test")
    assert capsys.readouterr().err == (
        f"config.dataset: 2 files are not pictures and are ignored, such as {pets}/test/cat/labels.csv\n"
    )


def test_other_folders_with_pictures_are_ignored_with_a_remark(pets, capsys):
    (pets / "valdation/ant").mkdir(parents=True)
    (pets / "docs").mkdir()
    Image.new("RGB", (5, 6)).save(pets / "valdation/ant/0.png")
    load(pets)
    assert capsys.readouterr().err == (
        f"config.dataset: {pets}: these folders are no train, test or val, and are ignored: valdation\n"
    )


def test_links_are_followed_and_loops_end(pets):
    elsewhere = pets.parent / "elsewhere"
    shutil.move(pets / "train/bee", elsewhere)
    (pets / "train/bee").symlink_to("../../elsewhere")
    shutil.move(pets / "train/cat/09.png", pets.parent / "a picture")
    (pets / "train/cat/09.png").symlink_to(pets.parent / "a picture")
    for link, target in (("self", "."), ("upward", ".."), ("top", "../.."), ("itself", "itself")):
        (pets / "train/ant" / link).symlink_to(target)
    assert_equal(load(pets).train, "train")


def test_a_folder_and_links_to_it_in_the_same_class_count_once(pets):
    """Otherwise a picture could be in the training and in the test images."""
    for name in ("0", "more"):
        (pets / "train/ant" / name).symlink_to(pets.parent / "extra")
    (pets.parent / "extra").mkdir()
    for path in list((pets / "train/ant").glob("*.png")):
        shutil.move(path, pets.parent / "extra" / path.name)
    (pets / "train/bee/pictures").mkdir()
    (pets / "train/bee/link").symlink_to("pictures")
    assert_equal(load(pets).train, "train")


def test_folders_that_look_like_splits_are_no_classes(pets):
    (pets / "train").rename(pets / "seg_train")
    (pets / "test").rename(pets / "seg_test")
    with pytest.raises(BadInput, match="holds seg_test, seg_train, which look like splits; name them train, test"):
        load(pets)


def test_class_may_be_called_like_a_split(tmp_path):
    for name in ("bus", "train"):
        (tmp_path / name).mkdir()
        Image.fromarray(IMAGES["test"][0]).save(tmp_path / name / "0.png")
    assert load(tmp_path).class_names == ("bus", "train")


def test_a_copy_is_read_from_the_cache(pets, decoded):
    load(pets)
    copy = pets.parent / "copy"
    shutil.copytree(pets, copy)
    shutil.move(copy / "train/ant/00.png", copy / "train/ant/000.png")
    source = load(copy)
    assert len(decoded) == 1
    assert source.class_names == CLASSES
    assert_equal(source.train, "train")
    assert_equal(source.test, "test")


@pytest.mark.parametrize("change", ["class name", "image size", "content", "class", "split"])
def test_a_changed_dataset_is_decoded_again(change, pets, decoded):
    load(pets)
    if change == "class name":
        for split in ("train", "test"):
            shutil.move(pets / split / "ant", pets / split / "antelope")
    elif change == "content":
        Image.fromarray(IMAGES["train"][0, ::-1]).save(pets / "train/ant/00.png")
    elif change == "class":
        shutil.move(pets / "train/ant/04.png", pets / "train/bee/04.png")
    elif change == "split":
        shutil.move(pets / "train/cat/09.png", pets / "test/ant/09.png")
    source = load(pets, Options(image_size=5) if change == "image size" else ALL)
    assert len(decoded) == 2
    assert len(source.train) + len(source.test) == 14


def rejected(root, options=ALL):
    with pytest.raises(BadInput) as error:
        load(root, options)
    message = str(error.value)
    assert message.isprintable()
    return message


def test_all_bad_pictures_are_counted(pets):
    (pets / "test/ant/00.PNG").write_text("text")
    (pets / "test/cat/truncated.gif").write_bytes(b"GIF89a")
    os.mkfifo(pets / "test/cat/pipe.bmp")
    assert rejected(pets) == (
        f"config.dataset: {pets}/test/ant/00.PNG: not a readable image (it is none of PNG, JPEG, BMP, GIF, PPM, TIFF, "
        "WEBP, or is damaged); remove or replace it (2 more pictures cannot be read)"
    )


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 6)).save(path)


def move(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


MISTAKES = {
    "unknown class": (
        lambda pets: write_picture(pets / "test/dog/0.png"),
        "{pets}/test/dog is not a class of the training images, which are ant, bee, cat; rename it",
    ),
    "empty class": (
        lambda pets: (pets / "train/dog").mkdir(),
        "{pets}/train/dog contains no pictures; add some, or remove the folder",
    ),
    "no test pictures": (
        lambda pets: [path.unlink() for path in (pets / "test").rglob("*.PNG")],
        "{pets}/test contains no pictures; add some, or remove the folder",
    ),
    "no test classes": (
        lambda pets: [shutil.rmtree(pets / "test" / name) for name in CLASSES],
        "{pets}/test has no class folders; move the pictures of each class to a folder of its own: {pets}/test/CLASS",
    ),
    "pictures in train": (
        lambda pets: write_picture(pets / "train/0.png"),
        "{pets}/train/0.png belongs to no class; move the pictures of each class to a folder of its own: "
        "{pets}/train/CLASS",
    ),
    "pictures in test": (
        lambda pets: write_picture(pets / "test/0.png"),
        "{pets}/test/0.png belongs to no class; move the pictures of each class to a folder of its own: "
        "{pets}/test/CLASS",
    ),
    "no train": (
        lambda pets: shutil.rmtree(pets / "train"),
        "{pets} holds test, but no train; name the folders train/CLASS, test/CLASS and val/CLASS",
    ),
    "two validation splits": (
        lambda pets: [write_picture(pets / name / "ant/0.png") for name in ("val", "validation")],
        "{pets} holds both val and validation; remove or rename one of them",
    ),
    "name of a class": (
        lambda pets: write_picture(pets / "train/a\nb/0.png"),
        "{pets}/train/a\\nb cannot name a class; rename it to at most 100 printable characters",
    ),
    "several datasets": (
        lambda pets: [move(pets, pets / name) for name in ()] or shutil.copytree(pets, pets.parent / "more"),
        "{above} holds 2 datasets; name one of its folders: more, pets",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(mistake, pets):
    make, expected = MISTAKES[mistake]
    make(pets)
    root = pets.parent if mistake == "several datasets" else pets
    assert rejected(root) == f"config.dataset: {expected.format(pets=pets, above=pets.parent)}"


def test_pictures_without_class_folders_are_rejected(tmp_path):
    write_picture(tmp_path / "a.png")
    assert rejected(tmp_path).endswith(f"move the pictures of each class to a folder of its own: {tmp_path}/CLASS")


def test_there_is_one_kind_of_labels(pets):
    assert rejected(pets, Options(label="fine")).startswith("config.label: 'fine' is not valid; leave it unset")


def test_folders_without_pictures_are_left_to_other_readers(tmp_path):
    assert folder.find(tmp_path) is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00001.parquet").write_text("")
    (tmp_path / "plot.png").write_text("")
    assert folder.find(tmp_path) is None
