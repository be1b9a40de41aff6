"""Malicious and damaged files of weights: an exported .npz and a .safetensors."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from hostile import Canary, examples, mutated, watching
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from cifar_flax.weights import npz, read
from cifar_flax.weights import safetensors as reader

pytestmark = pytest.mark.medium

RNG = np.random.default_rng(0)
ARRAYS = {
    "batch_stats/norm1/mean": RNG.normal(size=4).astype(np.float32),
    "params/conv1/kernel": RNG.normal(size=(3, 3, 3, 4)).astype(np.float32),
    "params/output/bias": np.zeros(3, np.float32),
}
METADATA = {"model": "cnn", "class_names": '["cat", "dog", "ship"]', "image_shape": "[32, 32, 3]", "normalize": "false"}


@pytest.fixture(scope="module")
def npz_watch():
    with watching("weights_npz") as watch:
        yield watch


@pytest.fixture(scope="module")
def safetensors_watch():
    with watching("weights_safetensors") as watch:
        yield watch


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """A function that reads a file with the given content, and checks the result if the file is accepted."""
    path = tmp_path_factory.mktemp("weights") / "file"

    def check(watch, content):
        path.write_bytes(content)
        weights = watch(read, path, "config.init_from", None)
        if weights is None:
            assert watch.error.startswith(f"config.init_from: {path} ")
            assert len(watch.error) < 1_000
            return None
        assert all(array.dtype == np.float32 for array in weights.arrays.values())
        trees = unflatten_dict(weights.arrays, sep="/")
        assert "params" in trees
        assert trees.keys() <= {"params", "batch_stats"}
        assert isinstance(weights.metadata["normalize"], bool)
        assert all(isinstance(name, str) for name in weights.metadata.get("class_names", []))
        return weights

    return check


def entry(array):
    """An array in .npy format."""
    stored = io.BytesIO()
    np.lib.format.write_array(stored, np.asanyarray(array), version=(1, 0))
    return stored.getvalue()


def zipped(entries, compression=zipfile.ZIP_STORED):
    """A .npz of the entries' contents."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(zipfile.ZipInfo(f"{name}.npy"), content, compression)
    return stored.getvalue()


ENTRIES = {name: entry(array) for name, array in ARRAYS.items()}
NPZ = [zipped(ENTRIES), zipped(ENTRIES, zipfile.ZIP_DEFLATED)]
NAMES = st.sampled_from(
    [
        "params",
        "params/",
        "/params/a",
        "params/a",
        "params/a/b",
        "params//b",
        "params/..",
        "batch_stats/a",
        "params/" * 99,
    ]
) | st.text(max_size=30).map(lambda text: f"params/{text}")
MANY_NAMES = st.lists(NAMES.filter(lambda name: "\0" not in name), max_size=6, unique=True)


@given(mutated(NPZ))
@examples(0.4)
def test_damaged_npz_is_read_or_rejected(npz_watch, check, content):
    check(npz_watch, content)


@given(st.dictionaries(st.sampled_from([*ARRAYS]), nps.arrays(nps.scalar_dtypes(), nps.array_shapes(min_dims=0))))
@examples(0.3)
def test_npz_of_arbitrary_arrays_is_read_or_rejected(npz_watch, check, arrays):
    check(npz_watch, zipped(ENTRIES | {name: entry(array) for name, array in arrays.items()}))


@given(MANY_NAMES)
@examples(0.3)
def test_npz_with_arbitrary_names_is_read_or_rejected(npz_watch, check, names):
    check(npz_watch, zipped(ENTRIES | dict.fromkeys(names, ENTRIES["params/output/bias"])))


def test_pickle_in_an_npz_is_not_executed(npz_watch, check, tmp_path):
    np.savez(tmp_path / "pickled.npz", **ARRAYS, **{"params/a": np.array([Canary()], object)})
    assert check(npz_watch, (tmp_path / "pickled.npz").read_bytes()) is None
    assert "params/a is not an array of numbers" in npz_watch.error


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_size_of_an_npz_is_bounded(compression, npz_watch, check, monkeypatch):
    content = zipped(ENTRIES | {"params/a": entry(np.zeros(10_000, np.float32))}, compression)
    monkeypatch.setattr(npz, "MAX_BYTES", 41_000)
    assert check(npz_watch, content)
    monkeypatch.setattr(npz, "MAX_BYTES", 40_000)
    assert check(npz_watch, content) is None
    assert "params/a has 40000 bytes, more than the " in npz_watch.error


def framed(header, data=b"", size=None):
    """A .safetensors with this header, of the claimed size."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


VALID = [safetensors.numpy.save(ARRAYS, METADATA), safetensors.numpy.save(ARRAYS)]


@given(mutated(VALID))
@examples(0.4)
def test_damaged_safetensors_is_read_or_rejected(safetensors_watch, check, content):
    check(safetensors_watch, content)


NUMBERS = st.sampled_from([0, 1, 3, 4, 12, 48, -1, 2**31, 2**62, 2**63, 2**64 - 1, 2**64, 1.5, "3", None, True])
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32"] * 6 + ["F64", "BF16", "F8_E4M3", "F4", "C64", "BOOL", "f32", "", 3, None]),
        "shape": st.lists(NUMBERS, max_size=4) | st.sampled_from([[3], [1] * 5_000, [0, 2**62, 2**62], {}, None]),
        "data_offsets": st.lists(NUMBERS, max_size=3) | st.sampled_from([[0, 12], [12, 24], [4, 16], [24, 12]]),
    }
)


@given(st.dictionaries(NAMES, TENSORS, max_size=3), st.sampled_from([0, 12, 24, 48]))
@examples(0.3)
def test_safetensors_with_arbitrary_tensors_is_read_or_rejected(safetensors_watch, check, tensors, size):
    check(safetensors_watch, framed(tensors, bytes(size)))


LITERALS = [
    "[" * 50_000,
    "[" * 500,
    "1" * 5_000,
    "1e999",
    "NaN",
    '"\ud800"',
    "{}",
    "[32, 32, 3]",
    '["cat"]',
    "true",
    "",
]
VALUES = st.sampled_from(LITERALS) | st.text(max_size=40) | st.sampled_from([3, None, [], {}])


@given(st.dictionaries(st.sampled_from([*METADATA, "format"]), VALUES, max_size=3))
@examples(0.3)
def test_safetensors_with_arbitrary_metadata_is_read_or_rejected(safetensors_watch, check, metadata):
    tensors = {"params/a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    check(safetensors_watch, framed({"__metadata__": metadata} | tensors, bytes(12)))


def tensor(shape=(3,), offsets=(0, 12), dtype="F32"):
    return {"params/a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


BOMBS = {
    "a header of exabytes": (framed(tensor(), bytes(12), 2**62), "its header claims"),
    "a header longer than the file": (framed(tensor(), bytes(12), 2**19), "not a readable .safetensors"),
    "a long header": (framed(b"{" + b" " * 2**21 + b"}"), "its header claims"),
    "terabytes": (framed(tensor([2**40], [0, 2**42])), "not a readable .safetensors"),
    "a size that overflows": (framed(tensor([2**62, 4, 3], [0, 12]), bytes(12)), "not a readable .safetensors"),
    "more values than stored": (framed(tensor([4]), bytes(12)), "not a readable .safetensors"),
    "data after the end": (framed(tensor(), bytes(13)), "not a readable .safetensors"),
    "overlapping tensors": (
        framed(tensor() | {"params/b": tensor()["params/a"]}, bytes(12)),
        "not a readable .safetensors",
    ),
    "half precision": (framed(tensor([6], dtype="BF16"), bytes(12)), "has an entry params/a of bfloat16; convert it"),
    "an unknown dtype": (framed(tensor(dtype="F33"), bytes(12)), "not a readable .safetensors"),
    "nested brackets": (framed(b"{" + b'"params/a":[' * 10_000), "not a readable .safetensors"),
    "a deep name": (framed({"params" + "/a" * 400_000: tensor()["params/a"]}, bytes(12)), "has an entry 'params/a/a"),
    "no tensor": (framed({}), "has no entry params/..."),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_safetensors_bomb_is_rejected(bomb, safetensors_watch, check):
    content, words = BOMBS[bomb]
    assert check(safetensors_watch, content) is None
    assert words in safetensors_watch.error


def test_size_of_a_safetensors_is_bounded(safetensors_watch, check, monkeypatch):
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", len(VALID[0]))
    monkeypatch.setattr(reader, "MAX_BYTES", 0)
    assert check(safetensors_watch, VALID[0])
    monkeypatch.setattr(reader, "MAX_BYTES", -1)
    assert check(safetensors_watch, VALID[0]) is None
    assert f"it has {len(VALID[0])} bytes, more than" in safetensors_watch.error
