"""Malicious and damaged .npz files: false headers, zip bombs, and arrays of all dtypes and shapes."""

import io
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hostile import Canary, examples, mutated
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from cifar_flax.data import Source, npz
from cifar_flax.data.dataset import Options

pytestmark = pytest.mark.medium

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (6, 4, 4, 3), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": RNG.integers(0, 256, (3, 4, 4, 3), np.uint8),
    "y_test": np.arange(3),
    "class_names": np.array(["cat", "dog", "ship"]),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that reads a .npz with the given content."""
    path = tmp_path_factory.mktemp("npz") / "set.npz"

    def read(content):
        path.write_bytes(content)
        return npz.load(path, Options())

    return read


def entry(array):
    """An array in .npy format."""
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about strings that need a newer version of the format
        np.lib.format.write_array(stored, np.asanyarray(array))
    return stored.getvalue()


def zipped(compression=zipfile.ZIP_STORED, **entries):
    """A .npz of the valid entries, some of them replaced by the given ones."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", compression) as target:
        for name, content in ({name: entry(array) for name, array in ARRAYS.items()} | entries).items():
            if content is not None:
                target.writestr(zipfile.ZipInfo(f"{name}.npy"), content, compression)
    return stored.getvalue()


def check(source):
    """A result that is not None can be trained on."""
    if source is None:
        return
    assert isinstance(source, Source)
    for split in filter(None, (source.train, source.test, source.validation)):
        assert split.images.dtype == np.uint8
        assert split.images.ndim == 4
        assert split.images.size > 0
        assert split.images.shape[1:] == source.train.images.shape[1:]
        assert split.labels.dtype == np.int32
        assert split.labels.shape == split.images.shape[:1]
        assert 0 <= split.labels.min() <= split.labels.max() < len(source.class_names)
    assert all(isinstance(name, str) for name in source.class_names)


def as_medmnist(**entries):
    """A .npz with MedMNIST's names, some of its entries replaced by the given ones, and a validation split."""
    splits = {"train": "train", "val": "test", "test": "test"}
    names = {f"{split}_images": f"x_{like}" for split, like in splits.items()}
    names |= {f"{split}_labels": f"y_{like}" for split, like in splits.items()}
    stored = {name: entry(ARRAYS[like]) for name, like in names.items()}
    return zipped(**(dict.fromkeys(ARRAYS) | stored | entries))


VALID = [zipped(), zipped(zipfile.ZIP_DEFLATED), zipped(class_names=None, x_test=entry(ARRAYS["x_test"][..., :1]))]
VALID += [as_medmnist()]


@given(mutated(VALID))
@examples(0.25)
def test_damaged_npz_is_read_or_rejected(watch, read, content):
    check(watch(read, content))


DTYPES = st.one_of(
    nps.scalar_dtypes(),
    nps.integer_dtypes(endianness=">"),
    nps.array_dtypes(),
    nps.nested_dtypes(),
    st.sampled_from([np.dtype(np.uint8), np.dtype("u1,u1"), np.dtype("U0"), np.dtype(bool)]),
)
ANY_ARRAY = nps.arrays(DTYPES, nps.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
LABELS = nps.arrays(
    st.sampled_from(["b", "B", ">i2", "i8", "u8", "f4", "?"]), st.sampled_from([6, (6, 1), (1, 6), (3,)])
)
NAMES = nps.arrays(st.sampled_from(["U3", ">U4", "S3", "U0"]), st.integers(0, 5))
ENTRIES = {
    "x_train": nps.arrays(
        np.uint8, st.sampled_from([(6, 4, 4, 3), (6, 4, 4), (6, 0, 4, 3), (5, 4, 4, 3), (6, 4, 4, 3, 1)])
    ),
    "y_train": LABELS,
    "x_test": ANY_ARRAY,
    "y_test": LABELS,
    "class_names": NAMES,
}


def replaced(data, entries):
    """Up to three entries with arbitrary arrays, or without one."""
    stored = {}
    for name in data.draw(st.lists(st.sampled_from(list(entries)), unique=True, max_size=3)):
        array = data.draw(entries[name] | ANY_ARRAY | st.none())
        assume(array is None or not array.dtype.hasobject)
        stored[name] = None if array is None else entry(array)
    return stored


@given(st.data())
@examples(0.25)
def test_npz_with_arbitrary_arrays_is_read_or_rejected(watch, read, data):
    check(watch(read, zipped(**replaced(data, ENTRIES))))


MEDMNIST_ENTRIES = {f"{split}_images": ENTRIES["x_train"] for split in ("train", "val", "test")}
MEDMNIST_ENTRIES |= {f"{split}_labels": LABELS for split in ("train", "val", "test")} | {"class_names": NAMES}


@given(st.data())
@examples(0.2)
def test_npz_with_arbitrary_arrays_of_medmnist_is_read_or_rejected(watch, read, data):
    check(watch(read, as_medmnist(**replaced(data, MEDMNIST_ENTRIES))))


@given(st.lists(st.text(max_size=60), max_size=12))
@examples(0.05)
def test_arbitrary_names_are_listed_in_one_line(watch, read, names):
    assume(not any("\0" in name for name in names))
    assert watch(read, zipped(**(dict.fromkeys(names, b"") | dict.fromkeys(ARRAYS)))) is None
    assert watch.error.isprintable()


def header(descr="'|u1'", shape="(6, 4, 4, 3)", order="False", version=b"\x01\x00"):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("utf-8", "replace")
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text


DESCRS = [
    "'|u1'",
    "'|O'",
    "'|V0'",
    "'<U0'",
    "'<U1000000000'",
    "'(9,9)u1'",
    "'(999999999,9)u1'",
    "[('a', '|O')]",
    "'m8'",
]
DESCRS += [
    "'M8[as]'",
    "'>i4'",
    "'|b1'",
    "'a'",
    "3",
    "None",
    "'",
    "()",
    "[('a', '|u1'), ('a', '|u1')]",
    "'object'",
    "'u1,O'",
]
SIDES = st.sampled_from(
    ["0", "1", "6", "4", "3", "-1", "288", "True", "2**40", "9" * 12, "9" * 5_000, "1e3", "'4'", "None", "4L"]
)
SHAPES = st.lists(SIDES, max_size=5).map(lambda sides: "(" + "".join(f"{side}, " for side in sides) + ")")
ORDERS = st.sampled_from(["False", "True", "None", "0", "print"])
VERSIONS = st.sampled_from([b"\x01\x00"] * 4 + [b"\x02\x00", b"\x03\x00", b"\x00\x01"])
LITERALS = st.sampled_from(
    ["(" * 150, "[" * 3_000, "-" * 9_000 + "1", "{" * 90 + "}" * 90, "x" * 20_000, "__import__('os')"]
)


@given(
    st.sampled_from(list(ENTRIES)),
    st.sampled_from(DESCRS),
    SHAPES | LITERALS,
    ORDERS,
    VERSIONS,
    st.sampled_from([0, 1, 48, 288]),
)
@examples(0.25)
def test_entry_with_an_arbitrary_header_is_read_or_rejected(watch, read, name, descr, shape, order, version, size):
    check(watch(read, zipped(**{name: header(descr, shape, order, version) + bytes(size)})))


def with_false_header(field, value):
    """A .npz with another value in both zip headers of the first entry."""
    content = zipped()
    local, central = {"size": (22, 24), "method": (8, 10), "flags": (6, 8)}[field]
    format = "<I" if field == "size" else "<H"
    content = bytearray(content)
    for offset in (content.index(b"PK\x03\x04") + local, content.index(b"PK\x01\x02") + central):
        struct.pack_into(format, content, offset, value)
    return bytes(content)


def with_changed_pixel():
    """A .npz with a pixel that does not match the checksum."""
    content = bytearray(zipped())
    content[content.index(ARRAYS["x_train"].tobytes()) + 17] ^= 1
    return bytes(content)


ENDLESS = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**27)
BOMBS = {
    "terabytes": (zipped(x_train=header(shape="(1000000, 1000, 1000, 3)")), "claims"),
    "a size that overflows": (zipped(x_train=header(shape=f"({2**62}, 4, 4, 3)")), "claims"),
    "negative sides": (zipped(x_train=header(shape="(-6, -4, 4, 3)") + bytes(288)), "claims"),
    "more images than stored": (zipped(x_train=header(shape="(7, 4, 4, 3)") + bytes(288)), "claims"),
    "fewer images than stored": (zipped(x_train=header(shape="(5, 4, 4, 3)") + bytes(288)), "claims"),
    "empty strings": (zipped(class_names=header("'<U0'", "(999999999999,)")), "not an array of numbers or strings"),
    "names of invalid characters": (zipped(class_names=entry(np.full(3, 2**31, "<u4").view("U1"))), "does not name"),
    "names without an axis": (zipped(class_names=entry("cat")), "class_names"),
    "names with two axes": (zipped(class_names=entry([["cat"], ["dog"], ["ship"]])), "class_names is <U4 [3, 1]"),
    "numbers as names": (zipped(class_names=entry([1, 2, 3])), "class_names is int64 [3]"),
    "duplicate names": (zipped(class_names=entry(["cat", "cat", "ship"])), "class_names does not name the 3 classes"),
    "a name with a newline": (zipped(class_names=entry(["cat", "do\ng", "ship"])), "class_names does not name"),
    "a changed byte": (with_changed_pixel(), "CRC"),
    "labels with NaN": (zipped(y_test=entry([0, 1, np.nan])), "y_test is float64"),
    "a header of a later version": (zipped(x_train=header(version=b"\x02\x00") + bytes(288)), "not a plain array"),
    "an endless header": (zipped(zipfile.ZIP_DEFLATED, x_train=ENDLESS), "plain array"),
    "objects": (zipped(y_train=entry(np.arange(6)).replace(b"'<i8'", b"'|O8'")), "not an array of numbers"),
    "a larger size in the zip": (with_false_header("size", 2**31), "claims"),
    "an unsupported compression": (with_false_header("method", zipfile.ZIP_LZMA), "compressed"),
    "encryption": (with_false_header("flags", 1), "encrypted"),
    "too many entries": (zipped(**{f"e{i}": b"" for i in range(20_000)}), "list of entries"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_npz_bomb_is_rejected(bomb, watch, read):
    content, words = BOMBS[bomb]
    assert watch(read, content) is None
    assert words in watch.error


def test_pickle_in_an_npz_is_not_executed(watch, read, tmp_path):
    np.savez(tmp_path / "pickled.npz", **ARRAYS | {"y_test": np.array([Canary()] * 3, object)})
    assert watch(read, (tmp_path / "pickled.npz").read_bytes()) is None
    assert "y_test is not an array of numbers" in watch.error
    np.savez(tmp_path / "pickled.npz", **ARRAYS | {"more": np.array([Canary()], object)})
    check(watch(read, (tmp_path / "pickled.npz").read_bytes()))  # an unknown entry is not read
    assert watch.error == ""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_total_size_is_bounded(compression, watch, read, monkeypatch):
    large = entry(np.zeros((6, 64, 64, 3), np.uint8))
    content = zipped(compression, x_train=large, x_test=entry(np.zeros((3, 64, 64, 3), np.uint8)))
    monkeypatch.setattr(npz, "MAX_BYTES", 111_000)
    check(watch(read, content))
    assert watch.error == ""
    monkeypatch.setattr(npz, "MAX_BYTES", 110_000)
    assert watch(read, content) is None
    assert "x_test has 36864 bytes, more than" in watch.error


def test_pipe_and_folder_are_rejected(watch, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("pipe.npz", "folder.npz"):
        assert watch(npz.load, tmp_path / name, Options()) is None
        assert "not a regular file" in watch.error
