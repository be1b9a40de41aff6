"""A .npz from an enemy: headers that claim what is not there, zips that unfold, arrays of everything."""

import io
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hostile import Canary, examples, mutated, watching
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from cifar_flax.data import Source, npz

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (6, 4, 4, 3), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": RNG.integers(0, 256, (3, 4, 4, 3), np.uint8),
    "y_test": np.arange(3),
    "class_names": np.array(["cat", "dog", "ship"]),
}


@pytest.fixture(scope="module")
def watch():
    with watching("npz") as watch:
        yield watch


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that reads a file of these bytes."""
    path = tmp_path_factory.mktemp("npz") / "set.npz"

    def read(content):
        path.write_bytes(content)
        return npz.load(path)

    return read


def entry(array):
    """An array as it is stored."""
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that only newer versions of the format can hold
        np.lib.format.write_array(stored, np.asanyarray(array))
    return stored.getvalue()


def zipped(compression=zipfile.ZIP_STORED, **entries):
    """A .npz of the good entries and these in their place."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", compression) as target:
        for name, content in ({name: entry(array) for name, array in ARRAYS.items()} | entries).items():
            if content is not None:
                target.writestr(zipfile.ZipInfo(f"{name}.npy"), content, compression)
    return stored.getvalue()


def check(source):
    """What is not refused can be trained on."""
    if source is None:
        return
    assert isinstance(source, Source)
    for split in (source.train, source.test):
        assert split.images.dtype == np.uint8
        assert split.images.ndim == 4
        assert split.images.size > 0
        assert split.images.shape[1:] == source.train.images.shape[1:]
        assert split.labels.dtype == np.int32
        assert split.labels.shape == split.images.shape[:1]
        assert 0 <= split.labels.min() <= split.labels.max() < len(source.class_names)
    assert all(isinstance(name, str) for name in source.class_names)


VALID = [zipped(), zipped(zipfile.ZIP_DEFLATED), zipped(class_names=None, x_test=entry(ARRAYS["x_test"][..., :1]))]


@given(mutated(VALID))
@examples(0.35)
def test_a_damaged_npz_is_refused_or_read(watch, read, content):
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
PLACES = {
    "x_train": nps.arrays(
        np.uint8, st.sampled_from([(6, 4, 4, 3), (6, 4, 4), (6, 0, 4, 3), (5, 4, 4, 3), (6, 4, 4, 3, 1)])
    ),
    "y_train": LABELS,
    "x_test": ANY_ARRAY,
    "y_test": LABELS,
    "class_names": NAMES,
}


@given(st.data())
@examples(0.35)
def test_an_npz_of_any_arrays_is_refused_or_read(watch, read, data):
    entries = {}
    for name in data.draw(st.lists(st.sampled_from(list(PLACES)), unique=True, max_size=3)):
        array = data.draw(PLACES[name] | ANY_ARRAY | st.none())
        assume(array is None or not array.dtype.hasobject)
        entries[name] = None if array is None else entry(array)
    check(watch(read, zipped(**entries)))


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
    st.sampled_from(list(PLACES)),
    st.sampled_from(DESCRS),
    SHAPES | LITERALS,
    ORDERS,
    VERSIONS,
    st.sampled_from([0, 1, 48, 288]),
)
@examples(0.3)
def test_an_entry_with_any_header_is_refused_or_read(watch, read, name, descr, shape, order, version, size):
    check(watch(read, zipped(**{name: header(descr, shape, order, version) + bytes(size)})))


def lying(field, value):
    """A .npz of which both headers of the first entry tell something else."""
    content = zipped()
    local, central = {"size": (22, 24), "method": (8, 10), "flags": (6, 8)}[field]
    form = "<I" if field == "size" else "<H"
    content = bytearray(content)
    for place in (content.index(b"PK\x03\x04") + local, content.index(b"PK\x01\x02") + central):
        struct.pack_into(form, content, place, value)
    return bytes(content)


def altered():
    """A .npz with another pixel than was stored."""
    content = bytearray(zipped())
    content[content.index(ARRAYS["x_train"].tobytes()) + 17] ^= 1
    return bytes(content)


ENDLESS = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**27)
BOMBS = {
    "terabytes": (zipped(x_train=header(shape="(1000000, 1000, 1000, 3)")), "claims"),
    "more than there are numbers": (zipped(x_train=header(shape=f"({2**62}, 4, 4, 3)")), "claims"),
    "fewer than nothing": (zipped(x_train=header(shape="(-6, -4, 4, 3)") + bytes(288)), "claims"),
    "more than there is": (zipped(x_train=header(shape="(7, 4, 4, 3)") + bytes(288)), "claims"),
    "less than there is": (zipped(x_train=header(shape="(5, 4, 4, 3)") + bytes(288)), "claims"),
    "texts without letters": (zipped(class_names=header("'<U0'", "(999999999999,)")), "no array of numbers or texts"),
    "names that are no characters": (zipped(class_names=entry(np.full(3, 2**31, "<u4").view("U1"))), "does not name"),
    "a name for all": (zipped(class_names=entry("cat")), "class_names"),
    "names in rows": (zipped(class_names=entry([["cat"], ["dog"], ["ship"]])), "class_names is <U4 [3, 1]"),
    "numbers as names": (zipped(class_names=entry([1, 2, 3])), "class_names is int64 [3]"),
    "one name twice": (zipped(class_names=entry(["cat", "cat", "ship"])), "class_names does not name the 3 classes"),
    "a name in two lines": (zipped(class_names=entry(["cat", "do\ng", "ship"])), "class_names does not name"),
    "an altered byte": (altered(), "CRC"),
    "labels that are no numbers": (zipped(y_test=entry([0, 1, np.nan])), "y_test is float64"),
    "a header of the future": (zipped(x_train=header(version=b"\x02\x00") + bytes(288)), "no plain array"),
    "a header without end": (zipped(zipfile.ZIP_DEFLATED, x_train=ENDLESS), "plain array"),
    "objects": (zipped(y_train=entry(np.arange(6)).replace(b"'<i8'", b"'|O8'")), "no array of numbers"),
    "a larger size in the zip": (lying("size", 2**31), "claims"),
    "another compression": (lying("method", zipfile.ZIP_LZMA), "compressed"),
    "encryption": (lying("flags", 1), "encrypted"),
    "entries without end": (zipped(**{f"e{i}": b"" for i in range(20_000)}), "list of entries"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_false_claim_is_refused_before_it_is_believed(bomb, watch, read):
    content, words = BOMBS[bomb]
    assert watch(read, content) is None
    assert words in watch.refusal


def test_a_pickle_in_an_npz_is_not_run(watch, read, tmp_path):
    np.savez(tmp_path / "made.npz", **ARRAYS | {"y_test": np.array([Canary()] * 3, object)})
    assert watch(read, (tmp_path / "made.npz").read_bytes()) is None
    assert "y_test is no array of numbers" in watch.refusal
    np.savez(tmp_path / "made.npz", **ARRAYS | {"more": np.array([Canary()], object)})
    check(watch(read, (tmp_path / "made.npz").read_bytes()))  # what is not asked for is not looked at
    assert watch.refusal == ""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_unfolds_is_bounded_in_all(compression, watch, read, monkeypatch):
    large = entry(np.zeros((6, 64, 64, 3), np.uint8))
    content = zipped(compression, x_train=large, x_test=entry(np.zeros((3, 64, 64, 3), np.uint8)))
    monkeypatch.setattr(npz, "LARGEST", 111_000)
    check(watch(read, content))
    assert watch.refusal == ""
    monkeypatch.setattr(npz, "LARGEST", 110_000)
    assert watch(read, content) is None
    assert "x_test has 36864 bytes, more than" in watch.refusal


def test_a_pipe_and_a_folder_are_no_npz(watch, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("pipe.npz", "folder.npz"):
        assert watch(npz.load, tmp_path / name) is None
        assert "it is no file" in watch.refusal
