"""Parquet files as Hugging Face publishes CIFAR-10, CIFAR-100 and MNIST, and the messages about unsuitable ones."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import Options, parquet
from cifar_flax.errors import BadInput

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 3), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2] * 4)
NAMES = ["airplane", "automobile", "bird"]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))


def png(image):
    stored = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stored, "PNG")
    return stored.getvalue()


def pictures(images):
    """A column as the `datasets` library stores it, with paths that exist nowhere."""
    return pa.array([{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)], STRUCT)


def features(**columns):
    """The metadata of the `datasets` library, exactly as it writes it."""
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def class_label(names):
    return {"names": names, "_type": "ClassLabel"}


CIFAR10 = features(img={"_type": "Image"}, label=class_label(NAMES))


def write(path, metadata=CIFAR10, row_group_size=5, compression="snappy", **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(columns).replace_schema_metadata(metadata),
        path,
        row_group_size=row_group_size,
        compression=compression,
    )
    return path


def write_cifar10(folder, **changes):
    """A folder of 16 training and 8 test images, of which the keywords change columns of the test images."""
    write(folder / "train-00000-of-00001.parquet", img=pictures(IMAGES[:16]), label=LABELS[:16])
    columns = {"img": pictures(IMAGES[16:]), "label": LABELS[16:]} | changes
    write(folder / "test-00000-of-00001.parquet", **{name: c for name, c in columns.items() if c is not None})
    return folder


def read(path, **options):
    return parquet.load(parquet.find(path) if path.is_dir() else path, Options(**options))


def check(split, images, labels):
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32


def rejected(path, **options):
    """The message about a dataset that cannot be read."""
    with pytest.raises(BadInput) as error:
        read(path, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def test_cifar10_as_published_gives_its_images_in_their_order(tmp_path, capsys):
    write_cifar10(tmp_path / "set")
    (tmp_path / "set" / "README.md").write_text("a dataset card")
    for _ in range(2):  # the second time from the cache
        source = read(tmp_path / "set")
        check(source.train, IMAGES[:16], LABELS[:16])
        check(source.test, IMAGES[16:], LABELS[16:])
        assert source.class_names == tuple(NAMES)
        assert source.validation is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
def test_a_repository_with_parquet_files_is_trained_on(below, tmp_path):
    write_cifar10(tmp_path / "cifar10" / below)
    config = base_config()
    config.update(dataset=str(tmp_path / "cifar10"), num_validation=6)
    loaded = data.load(config)
    check(loaded.validation, IMAGES[:6], LABELS[:6])
    check(loaded.train, IMAGES[6:16], LABELS[6:16])
    check(loaded.test, IMAGES[16:], LABELS[16:])


def test_a_single_file_is_divided_by_test_share(tmp_path, capsys):
    path = write(tmp_path / "pictures.parquet", img=pictures(IMAGES), label=LABELS)
    config = base_config()
    config.update(dataset=str(path), num_validation=3, test_share=0.25)
    for _ in range(2):
        loaded = data.load(config)
        assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (15, 3, 6)
    assert capsys.readouterr().err == ""
    config.test_share = 0.0
    with pytest.raises(BadInput, match=r"config.test_share: .*pictures.parquet' has no test split"):
        data.load(config)


CIFAR100 = features(
    img={"_type": "Image"},
    fine_label=class_label(["apple", "bear", "crab"]),
    coarse_label=class_label(["fruit", "animal"]),
)
COARSE = (LABELS > 0).astype(int)


def test_cifar100_has_fine_labels_and_on_request_coarse_ones(tmp_path):
    columns = {"img": pictures(IMAGES), "fine_label": LABELS, "coarse_label": COARSE}
    path = write(tmp_path / "train.parquet", CIFAR100, **columns)
    for label in (None, "fine", "fine_label"):
        source = read(path, label=label)
        check(source.train, IMAGES, LABELS)
        assert source.class_names == ("apple", "bear", "crab")
    for label in ("coarse", "coarse_label"):
        source = read(path, label=label)
        check(source.train, IMAGES, COARSE)
        assert source.class_names == ("fruit", "animal")
    expected = "train.parquet has no column 'course' of integers or strings; it has fine_label, coarse_label"
    assert expected in rejected(path, label="course")


def test_mnist_is_gray(tmp_path):
    metadata = features(image={"_type": "Image"}, label=class_label(["0", "1", "2"]))
    path = write(tmp_path / "train.parquet", metadata, image=pictures(IMAGES[..., :1]), label=LABELS)
    check(read(path).train, IMAGES[..., :1], LABELS)


def test_gray_pictures_among_colored_ones_get_three_channels(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "DECODE_BYTES", 1)  # each row group of five images is decoded on its own
    gray = np.repeat(IMAGES[..., :1], 3, axis=3)
    mixed = pa.array([{"bytes": png(image if i > 8 else image[..., :1])} for i, image in enumerate(IMAGES)], STRUCT)
    write(tmp_path / "set" / "train.parquet", img=mixed, label=LABELS)
    write(tmp_path / "set" / "test.parquet", img=pictures(IMAGES[..., :1]), label=LABELS)
    source = read(tmp_path / "set")
    check(source.train, np.concatenate([gray[:9], IMAGES[9:]]), LABELS)
    check(source.test, gray, LABELS)


@pytest.mark.parametrize(
    "names",
    [
        [f"train-{i:05}-of-00003.parquet" for i in range(3)],
        [f"train-{i:05}-of-00003-b21cdbe727926fb{i}.parquet" for i in range(3)],
    ],
)
def test_several_files_are_read_in_order(names, tmp_path):
    for i, name in enumerate(names):
        write(tmp_path / "set" / name, img=pictures(IMAGES[8 * i : 8 * i + 8]), label=LABELS[8 * i : 8 * i + 8])
    check(read(tmp_path / "set").train, IMAGES, LABELS)


@pytest.mark.parametrize("name", ["validation-00000-of-00001", "valid", "val-0"])
def test_the_validation_split_of_a_set_is_used(name, tmp_path):
    folder = write_cifar10(tmp_path / "set")
    write(folder / f"{name}.parquet", img=pictures(IMAGES[:4]), label=LABELS[:4])
    check(read(folder).validation, IMAGES[:4], LABELS[:4])


@pytest.mark.parametrize("key", [LABELS, -LABELS], ids=["sorted", "descending"])
def test_training_images_that_are_grouped_by_class_are_interleaved(key, tmp_path):
    order = np.argsort(key, kind="stable")
    path = write(tmp_path / "train.parquet", img=pictures(IMAGES[order]), label=LABELS[order])
    train = read(path).train
    assert np.bincount(train.labels[:6]).tolist() == [2, 2, 2]
    rows = [next(i for i, stored in enumerate(IMAGES) if (stored == image).all()) for image in train.images]
    assert sorted(rows) == list(range(24))
    np.testing.assert_array_equal(train.labels, LABELS[rows])


def test_pictures_of_several_sizes_are_resized_on_request(tmp_path, monkeypatch):
    stored = [{"bytes": png(image)} for image in IMAGES[:20]] + [{"bytes": png(IMAGES[i, :6, :5])} for i in range(4)]
    path = write(tmp_path / "train.parquet", img=pa.array(stored, STRUCT), label=LABELS)
    source = read(path, image_size=8)
    np.testing.assert_array_equal(source.train.images[:20], IMAGES[:20])
    assert source.train.images.shape == (24, 8, 8, 3)
    for together in (parquet.DECODE_BYTES, 1):
        monkeypatch.setattr(parquet, "DECODE_BYTES", together)
        message = rejected(path)
        assert message.startswith("config.image_size: it is unset, but train.parquet, row 0 has 8 x 8 pixels and")
        assert message.endswith(
            "train.parquet, row 20 has 5 x 6 pixels; set it to resize all pictures, such as --config.image_size=32"
        )


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "none"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_pictures_can_be_bytes_in_any_column(kind, compression, tmp_path):
    """As pandas and polars write them: no metadata of the `datasets` library, categories as strings."""
    encoded = pa.array([png(image) for image in IMAGES], kind)
    labels = pa.array(np.array(["dog", "cat", "owl"])[LABELS]).dictionary_encode()
    path = write(tmp_path / "train.parquet", None, 100, compression, id=np.arange(24), photo=encoded, label=labels)
    source = read(path)
    check(source.train, IMAGES, np.array([1, 0, 2])[LABELS])
    assert source.class_names == ("cat", "dog", "owl")


def test_equal_pictures_that_are_stored_once_are_read(tmp_path):
    path = write(tmp_path / "train.parquet", row_group_size=100, img=pictures(IMAGES[[0] * 24]), label=LABELS)
    check(read(path).train, IMAGES[[0] * 24], LABELS)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "airplane", "1": "automobile", "2": "bird"}, tuple(NAMES)),
        (None, ("0", "1", "2")),
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
    ],
)
def test_class_names_come_from_the_metadata(names, expected, tmp_path):
    metadata = features(label=class_label(names)) if names else None
    path = write(tmp_path / "train.parquet", metadata, img=pictures(IMAGES), label=LABELS)
    assert read(path).class_names == expected


@pytest.mark.parametrize("names", [["crane", "crane", "bird"], ["a", "b\n", "c"], ["a", 1, "c"], {"1": "a"}, "abc"])
def test_unusable_class_names_are_replaced_by_numbers_with_a_warning(names, tmp_path, capsys):
    path = write(tmp_path / "train.parquet", features(label=class_label(names)), img=pictures(IMAGES), label=LABELS)
    assert read(path).class_names == ("0", "1", "2")
    assert "names of the classes are not distinct strings of one line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stored", [b"", b"{", b"[" * 100_000, b'{"info": 3}', b'{"info": {"features": {"label": []}}}']
)
def test_other_metadata_is_ignored(stored, tmp_path):
    path = write(tmp_path / "train.parquet", {b"huggingface": stored}, img=pictures(IMAGES), label=LABELS)
    assert read(path).class_names == ("0", "1", "2")


def test_the_only_column_with_class_names_holds_the_labels(tmp_path):
    metadata = features(img={"_type": "Image"}, kind=class_label(NAMES), id={"dtype": "int64", "_type": "Value"})
    path = write(tmp_path / "train.parquet", metadata, img=pictures(IMAGES), id=np.arange(24), kind=LABELS)
    check(read(path).train, IMAGES, LABELS)


def test_the_cache_tells_labels_sizes_and_splits_apart(tmp_path):
    folder = tmp_path / "set"
    columns = {"img": pictures(IMAGES), "label": LABELS, "other": COARSE}
    write(folder / "train.parquet", None, **columns)
    write(folder / "test.parquet", None, **columns | {"label": LABELS[::-1]})
    check(read(folder).train, IMAGES, LABELS)
    check(read(folder, label="other").train, IMAGES, COARSE)
    assert read(folder, image_size=4).train.images.shape == (24, 4, 4, 3)
    (folder / "test.parquet").rename(folder / "valid.parquet")
    assert read(folder).test is None


ROWS = {"img": pictures(IMAGES[16:]), "label": LABELS[16:]}
BAD_COLUMNS = {
    "no picture": (
        {"img": pa.array([*ROWS["img"].to_pylist()[:-1], {"path": "7.png"}], STRUCT)},
        "test-00000-of-00001.parquet, row 7 holds no picture, at most its path; store the pictures themselves",
    ),
    "no struct": ({"img": pa.array([None, *ROWS["img"].to_pylist()[1:]], STRUCT)}, "row 0 holds no picture"),
    "a text file": (
        {"img": pa.array([*ROWS["img"].to_pylist()[:-1], {"bytes": b"text"}], STRUCT)},
        "config.dataset: test-00000-of-00001.parquet, row 7: not a readable image",
    ),
    "no label": (
        {"label": pa.array([0, 1, None, 0, 0, 0, 0, 0])},
        "row 2 has no label; remove the images without a label",
    ),
    "hidden labels": (
        {"label": np.full(8, -1)},
        "test-00000-of-00001.parquet have the label -1, which hides the class of a test image; remove these files",
    ),
    "another label": (
        {"label": np.array([0, 1, 2, 3, 4, -1, 0, 0])},
        "3 of the 8 images in {}/test-00000-of-00001.parquet have a label that is not from 0 to 2, such as 3; remove",
    ),
    "floats": ({"label": LABELS[16:] + 0.5}, "does not store a column label as train-00000-of-00001.parquet does"),
    "strings": ({"label": pa.array(["a"] * 8)}, "does not store a column label as train-00000-of-00001.parquet does"),
    "numbers for pictures": ({"img": np.arange(8)}, "does not store a column img as train-"),
    "no label column": ({"label": None}, "does not store a column label as train-"),
    "no image column": ({"img": None}, "does not store a column img as train-"),
    "other names": (
        {"metadata": features(label=class_label(NAMES[::-1]))},
        "names other classes than train-00000-of-00001.parquet; use files of one version of the dataset",
    ),
    "no names": ({"metadata": None}, "names other classes than train-00000-of-00001.parquet"),
    "another size": (
        {"img": pictures(IMAGES[16:, :4])},
        "-of-00001.parquet, row 0 has 8 x 8 pixels and test-00000-of-00001.parquet, row 0 has 8 x 4 pixels; set it",
    ),
    "no rows": ({"img": ROWS["img"][:0], "label": LABELS[:0]}, "test-00000-of-00001.parquet: there are no images"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_COLUMNS)
def test_a_test_split_that_does_not_fit_is_rejected(fault, tmp_path):
    changes, words = BAD_COLUMNS[fault]
    changes = {"metadata": CIFAR10} | changes
    folder = tmp_path / "set"
    write(folder / "train-00000-of-00001.parquet", img=pictures(IMAGES[:16]), label=LABELS[:16])
    columns = {name: column for name, column in (ROWS | changes).items() if column is not None or name == "metadata"}
    write(folder / "test-00000-of-00001.parquet", **columns)
    assert words.format(folder) in rejected(folder)


def test_a_label_that_only_the_test_images_have_is_rejected(tmp_path):
    write(tmp_path / "set" / "train.parquet", None, img=pictures(IMAGES[:2]), label=pa.array(["cat", "dog"]))
    write(tmp_path / "set" / "test.parquet", None, img=pictures(IMAGES[:2]), label=pa.array(["cat", "cow"]))
    assert "test.parquet has the label 'cow', which no training image has" in rejected(tmp_path / "set")
    write(tmp_path / "set" / "train.parquet", None, img=pictures(IMAGES[:2]), label=np.array([0, 1]))
    write(tmp_path / "set" / "test.parquet", None, img=pictures(IMAGES[:2]), label=np.array([0, 2]))
    assert "have a label that is not from 0 to 1, such as 2" in rejected(tmp_path / "set")


PICTURES = pictures(IMAGES)
BAD_FILES = {
    "no pictures": (
        {"label": LABELS, "x": LABELS / 2},
        "has no column of encoded pictures; it has label (int64), x (double)",
    ),
    "pixels": (
        {"image": pa.array(IMAGES.reshape(24, -1).tolist()), "label": LABELS},
        "has no column of encoded pictures; it has image (list<",
    ),
    "two columns of pictures": (
        {"left": PICTURES, "right": PICTURES, "label": LABELS},
        "has several columns of pictures: left, right; rename the one to use to image, and remove the others",
    ),
    "no labels": ({"img": PICTURES}, "config.label: {} has no column label, labels or fine_label; name the column of"),
    "unnamed labels": (
        {"img": PICTURES, "id": LABELS, "text": pa.array(["a"] * 24), "score": LABELS / 2},
        "config.label: {} has no column label, labels or fine_label; name the column of the labels, one of id, text",
    ),
    "two columns with names": (
        {"metadata": features(a=class_label(NAMES), b=class_label(NAMES)), "img": PICTURES, "a": LABELS, "b": LABELS,
         "id": LABELS},
        "name the column of the labels, one of a, b",
    ),
    "lists": (
        {"img": PICTURES, "labels": pa.array([[0]] * 24)},
        "the column labels is list<element: int64>, not one integer or string for each image",
    ),
    "floats": ({"img": PICTURES, "label": LABELS / 2}, "the column label is double, not one integer or string"),
    "many classes": ({"img": PICTURES, "label": LABELS + 9_999}, "a label that is not from 0 to 9999, such as 10001"),
    "long strings": (
        {"img": PICTURES, "label": pa.array(["x" * 101] * 24)},
        "the column label does not hold the names of at most 10000 classes, each one line of at most 100 characters",
    ),
    "a newline in a string": ({"img": PICTURES, "label": pa.array(["a\n"] * 24)}, "does not hold the names of at most"),
    "a newline in a column's name": (
        {"metadata": features(**{"a\n": class_label(NAMES)}), "img": PICTURES, "a\n": LABELS},
        "the names of its columns are not distinct and printable; rename them",
    ),
    "equal names of columns": (
        {"img": PICTURES, "label": LABELS, "twice": LABELS},
        "the names of its columns are not distinct and printable",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_without_pictures_or_labels_is_rejected(fault, tmp_path):
    columns, words = BAD_FILES[fault]
    path = write(tmp_path / "train.parquet", **{"metadata": None} | columns)
    if "twice" in columns:
        table = pq.read_table(path)
        pq.write_table(table.rename_columns(["img", "label", "label"]), path)
    message = rejected(path)
    assert words.format(path) in message
    assert str(path) in message


def test_files_that_are_missing_or_of_another_version_are_named(tmp_path):
    folder = write_cifar10(tmp_path / "set")
    first, content = folder / "train-00000-of-00001.parquet", (folder / "train-00000-of-00001.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content)
    expected = "holds files that cannot belong to one train split: train-00000-of-00001.parquet, train.parquet; keep"
    assert expected in rejected(folder)
    (folder / "train.parquet").unlink()
    first.rename(folder / "train-00001-of-00003.parquet")
    expected = "holds 1 of the 3 files of its train split: train-00001-of-00003.parquet; download the others"
    assert expected in rejected(folder)
    (folder / "train-00001-of-00003.parquet").unlink()
    assert "has no train-*.parquet, but test-00000-of-00001.parquet; download all of its files" in rejected(folder)


def test_one_of_several_files_is_read_with_a_warning(tmp_path, capsys):
    path = write(tmp_path / "train-00001-of-00002.parquet", img=PICTURES, label=LABELS)
    check(read(path).train, IMAGES, LABELS)
    assert "is one of 2 files; to read all of them, name their folder" in capsys.readouterr().err


def test_a_pointer_of_git_lfs_is_recognized(tmp_path):
    folder = write_cifar10(tmp_path / "set")
    (folder / "test-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "test-00000-of-00001.parquet is a Git LFS pointer; fetch the file with git lfs pull" in rejected(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet", b"PAR1" + bytes(20) + b"PAR1"])
def test_what_is_no_parquet_file_is_rejected(content, tmp_path):
    (tmp_path / "train.parquet").write_bytes(content)
    assert "train.parquet is not a readable Parquet file" in rejected(tmp_path / "train.parquet")


FAILURES = {
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "that opened it was killed by SIGSEGV)"),
    "no memory": ("bytearray(2**31)", "(MemoryError:)"),
    "too much time": (
        "import os, resource, signal; assert resource.getrlimit(resource.RLIMIT_CPU) == (300, 300);"
        "os.kill(os.getpid(), signal.SIGXCPU)",
        "that opened it was killed by SIGXCPU)",
    ),
    "an exception": ("raise ValueError('a\\nb' + chr(27))", "(ValueError: a b\\x1b)"),
    "no output": ("import os; os._exit(3)", "(the process that opened it ended with exit code 3)"),
    "part of the output": ("import os; os.write(1, bytes(9)); os._exit(3)", "ended with exit code 3)"),
    "other output": ("print('text')", "is not a readable Parquet file ("),
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit memory")
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_the_process_that_opens_the_file_is_one_line(failure, tmp_path, monkeypatch):
    path = write(tmp_path / "train.parquet", img=PICTURES, label=LABELS)
    program, words = FAILURES[failure]
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(parquet, "PROGRAM", tmp_path / "program.py")
    message = rejected(path)
    assert message.startswith(f"config.dataset: {path} is not a readable Parquet file (")
    assert message.endswith(words) or failure == "other output"


def test_the_process_that_opens_the_file_is_isolated(tmp_path, monkeypatch):
    """Neither variables nor the current folder can replace a module that it imports."""
    (tmp_path / "pyarrow.py").write_text("raise SystemExit('replaced')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check(read(write(tmp_path / "train.parquet", img=PICTURES, label=LABELS)).train, IMAGES, LABELS)


def test_without_pyarrow_the_message_names_it(tmp_path, monkeypatch):
    path = write(tmp_path / "train.parquet", img=PICTURES, label=LABELS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert f"config.dataset: {path} can only be read with pyarrow, and pyarrow is not installed" in rejected(path)


def test_images_that_need_too_much_memory_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_BYTES", 24 * 8 * 8 * 3 - 1)
    path = write(tmp_path / "train.parquet", img=PICTURES, label=LABELS)
    message = rejected(path)
    assert "config.image_size: the 24 images of 8 x 8 pixels in" in message
    assert message.endswith("set it to a smaller size")
