"""Malicious and damaged files of Keras: HDF5 of Keras 2 and 3, and `.keras`."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from hostile import examples, mutated, watching
from hypothesis import given
from hypothesis import strategies as st

from cifar_flax.weights import keras_layers, read
from cifar_flax.weights.keras_layers import Layer

pytestmark = pytest.mark.medium

RNG = np.random.default_rng(0)
SHAPES = {"CONV": [(2, 2, 3, 4), (4,)], "NORM": [(4,)] * 4, "FC": [(4, 2), (2,)]}
CLASSES = {"CONV": "conv2d", "NORM": "batch_normalization", "FC": "dense"}
NETWORK = (
    Layer("Conv2D", "CONV", {"filters": 4, "kernel_size": [2, 2], "activation": "relu"}, "conv"),
    Layer("BatchNormalization", "NORM", {"epsilon": 1e-3}, "norm"),
    Layer("Flatten", "FLAT", {}),
    Layer("Dense", "FC", {"activation": "softmax"}, "output"),
)
DESCRIPTION = {
    "class_name": "Sequential",
    "config": {
        "name": "small",
        "layers": [{"class_name": layer.kind, "config": {"name": layer.name} | layer.settings} for layer in NETWORK],
    },
}


def hdf5_file(write, **settings):
    content = io.BytesIO()
    with h5py.File(content, "w", **settings) as file:
        write(file)
    return content.getvalue()


def keras_2(file):
    file.attrs["layer_names"] = np.array([name.encode() for name in SHAPES])
    for name, shapes in SHAPES.items():
        group = file.create_group(name)
        group.attrs["weight_names"] = np.array([f"{name}/{index}:0".encode() for index in range(len(shapes))])
        for index, shape in enumerate(shapes):
            group[f"{name}/{index}:0"] = RNG.random(shape, np.float32)


def model_of_keras_2(file):
    file.attrs["model_config"] = json.dumps(DESCRIPTION).encode()
    keras_2(file.create_group("model_weights"))


def keras_3(file):
    for name, shapes in SHAPES.items():
        group = file.create_group(f"layers/{CLASSES[name]}/vars")
        group.attrs["name"] = name
        for index, shape in enumerate(shapes):
            group[str(index)] = RNG.random(shape, np.float32)


def archive(content, description):
    """A `.keras` with this HDF5 file and this description."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as file:
        file.writestr(zipfile.ZipInfo("config.json"), description)
        file.writestr(zipfile.ZipInfo("model.weights.h5"), content)
    return stored.getvalue()


FILES = [hdf5_file(keras_2), hdf5_file(keras_2, libver="latest"), hdf5_file(model_of_keras_2), hdf5_file(keras_3)]
FILES += [hdf5_file(keras_3, track_order=True), archive(FILES[3], json.dumps(DESCRIPTION))]


@pytest.fixture(scope="module")
def keras_watch():
    with pytest.MonkeyPatch.context() as patch, watching("weights_keras") as watch:
        patch.setitem(keras_layers.LAYERS, "small", NETWORK)
        yield watch


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """A function that reads a file with the given content, and checks the result if the file is accepted."""
    path = tmp_path_factory.mktemp("keras") / "file"

    def check(watch, content):
        path.write_bytes(content)
        weights = watch(read, path, "config.init_from", "small")
        if weights is None:
            assert watch.error.startswith(f"config.init_from: {path} ")
            assert len(watch.error) < 1_000
            return None
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.arrays.values())
        assert weights.arrays["params/conv/kernel"].shape[:2] == (2, 2)
        return weights

    return check


@pytest.mark.parametrize("content", FILES)
def test_intact_file_is_read(keras_watch, check, content):
    assert check(keras_watch, content)


@given(mutated(FILES))
@examples(0.7)
def test_damaged_file_is_read_or_rejected(keras_watch, check, content):
    check(keras_watch, content)


VALUES = st.sampled_from([None, True, 3, 1e-3, float("nan"), "relu", "Dense", [2, 2], {}, [], "\x00\n", "\u2028" * 9])
SETTINGS = st.dictionaries(st.sampled_from(["name", "activation", "filters", "kernel_size", "epsilon"]), VALUES)
KINDS = (
    st.sampled_from(["Conv2D", "BatchNormalization", "Flatten", "Dense", "Lambda", "InputLayer", "Dropout"]) | VALUES
)
ONE = st.fixed_dictionaries({"class_name": KINDS, "config": SETTINGS | VALUES}) | VALUES
DESCRIPTIONS = st.fixed_dictionaries({"config": st.fixed_dictionaries({"layers": st.lists(ONE)}) | st.lists(ONE)})
TEXTS = DESCRIPTIONS.map(json.dumps) | st.sampled_from(
    ["[" * 100_000, '{"config":' * 20_000, "1" * 5_000, "\ud800", ""]
)


def compare(description):
    keras_layers.check_description("config.init_from: file", "small", description, normalized=False)


@given(
    DESCRIPTIONS.map(json.dumps)
    | TEXTS
    | mutated([json.dumps(DESCRIPTION).encode()]).map(lambda content: content.decode(errors="replace"))
)
@examples(0.25)
def test_any_description_is_compared_or_rejected(keras_watch, description):
    keras_watch(compare, description)
    if keras_watch.error:
        assert keras_watch.error.startswith("config.init_from: file ")
        assert len(keras_watch.error) < 1_000


@given(st.dictionaries(st.sampled_from([*SHAPES, "other", "\n", "é" * 99]), st.lists(st.lists(st.integers(0, 5)))))
@examples(0.05)
def test_any_layers_are_read_or_rejected(keras_watch, layers):
    arrays = [(name, [np.zeros(shape, np.float32) for shape in shapes]) for name, shapes in layers.items()]
    result = keras_watch(keras_layers.from_keras, "config.init_from: file", "small", arrays)
    if result is None:
        assert keras_watch.error.startswith("config.init_from: file is not of small: ")
    else:
        assert "params/conv/kernel" in result


@pytest.mark.parametrize("size", [2**20, 2**21])
def test_long_description_is_rejected(keras_watch, check, size):
    description = json.dumps(DESCRIPTION)
    content = archive(FILES[3], description + " " * (size - len(description)))
    assert (check(keras_watch, content) is None) == (size > 2**20)
    if keras_watch.error:
        assert "it describes its layers in more than 1048576 characters" in keras_watch.error
