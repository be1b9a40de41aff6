"""Networks written to files: every format holds the network that was trained, and the files can be read again."""

import json
import os
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from safetensors import safe_open
from tiny import Tiny

from cifar_flax.errors import BadInput
from cifar_flax.models import MODELS, Normalized
from cifar_flax.weights import FORMATS, read
from cifar_flax.weights.contents import Network, Weights, is_normalized

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 25, 25, 3), np.uint8)
NAMES = ["cat", "dog", "ship"]


def network(model, image_shape=(8, 8, 3), **settings):
    """A network with random parameters and running statistics."""
    images = IMAGES[:, : image_shape[0], : image_shape[1], : image_shape[2]] / np.float32(255)
    variables = jax.device_get(jax.jit(lambda: model.init(jax.random.key(0), images, train=False))())
    arrays = flatten_dict(variables, sep="/")
    arrays |= {name: array + RNG.random(array.shape, np.float32) for name, array in arrays.items() if array.ndim == 1}
    metadata = {"model": "tiny", "class_names": NAMES, "image_shape": list(image_shape), "license": ""}
    return Network(model, Weights(arrays, metadata | {"normalize": is_normalized(arrays)}))


@pytest.fixture(scope="module")
def tiny():
    return network(Tiny(3))


def logits(network, arrays, images):
    variables = unflatten_dict(arrays, sep="/")
    return np.asarray(
        jax.jit(lambda x: network.module.apply(variables, x / 255, train=False))(images.astype(np.float32))
    )


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_weights_are_read_as_they_were_written(form, tiny, tmp_path):
    FORMATS[form].write(tmp_path / "file", tiny)
    weights = read(tmp_path / "file", "config.init_from", None)
    assert set(weights.arrays) == set(tiny.weights.arrays)
    for name, array in tiny.weights.arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], array, strict=True)
    images = IMAGES[:, :8, :8]
    np.testing.assert_array_equal(logits(tiny, weights.arrays, images), logits(tiny, tiny.weights.arrays, images))


def test_metadata_of_safetensors_are_strings_and_read_as_values(tiny, tmp_path):
    FORMATS["safetensors"].write(tmp_path / "file", tiny)
    with safe_open(tmp_path / "file", "numpy") as stored:
        metadata = stored.metadata()
    assert metadata["model"] == "tiny"
    assert json.loads(metadata["class_names"]) == NAMES
    assert metadata["license"] == ""
    known = {name: value for name, value in tiny.weights.metadata.items() if name != "license"}
    assert read(tmp_path / "file", "config.init_from", None).metadata == known


def test_network_that_standardizes_its_images_is_marked(tmp_path):
    for form in ("npz", "safetensors"):
        FORMATS[form].write(tmp_path / form, network(Normalized(Tiny(3))))
        assert read(tmp_path / form, "config.init_from", None).metadata["normalize"] is True


def test_transposed_arrays_and_scalars_keep_their_values(tmp_path):
    arrays = {"params/a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "params/b": np.float32(3)}
    FORMATS["safetensors"].write(tmp_path / "file", Network(None, Weights(arrays, {})))
    result = read(tmp_path / "file", "config.init_from", None).arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], np.asarray(array), strict=True)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mlp", "float32"), ("normalized cnn", "float32"), ("airbench", "float32"), ("airbench", "bfloat16")],
)
def test_program_computes_the_logits_of_the_network_for_any_number_of_images(name, dtype, tmp_path):
    model = MODELS[name.split()[-1]](3, dtype=jnp.dtype(dtype))
    trained = network(Normalized(model) if name.startswith("normalized") else model, (25, 25, 3))
    FORMATS["stablehlo"].write(tmp_path, trained)
    program = export.deserialize(bytearray((tmp_path / "network.jax_export").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 7):
        result = program.call(IMAGES[:count])
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, logits(trained, trained.weights.arrays, IMAGES[:count]), atol=1e-5)
    description = json.loads((tmp_path / "network.json").read_text())
    assert trained.weights.metadata.items() <= description.items()
    assert description["input"] == "images [N, H, W, C] uint8"


def test_network_for_one_batch_size_is_not_exported_as_a_program(tmp_path):
    class OneByOne(Tiny):
        @nn.compact
        def __call__(self, images, *, train):
            dense = nn.Dense(3, name="output")
            return jnp.stack([dense(images[i].ravel()) for i in range(images.shape[0])])

    with pytest.raises(BadInput, match=r"^--format: this network cannot be exported to stablehlo \(.*another format$"):
        FORMATS["stablehlo"].write(tmp_path, network(OneByOne(3)))
    assert list(tmp_path.iterdir()) == []


def refusal(path):
    with pytest.raises(BadInput) as caught:
        read(path, "config.init_from", None)
    message = str(caught.value)
    assert message.startswith(f"config.init_from: {path} ")
    assert message.isprintable()
    return message


def test_what_is_not_a_file_of_weights_is_refused(tmp_path):
    assert "does not exist; name an exported .npz" in refusal(tmp_path / "missing")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    assert "is empty" in refusal(tmp_path / "empty")
    (tmp_path / "text").write_text("conv1: 3\n")
    assert r"it begins with b'conv1: 3\n'; name an exported .npz" in refusal(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "torch.pt", "w") as file:
        file.writestr("archive/data.pkl", b"")
    assert "has no entry params/...; name a file that python -m cifar_flax.export wrote" in refusal(
        tmp_path / "torch.pt"
    )


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"x_train": np.zeros(3, np.float32)}, "has no entry params/..."),
        ({"params/a": np.zeros(3)}, "has an entry params/a of float64; convert it to float32"),
        ({"params/a": np.zeros(3, np.float32), "other/b": np.zeros(3, np.float32)}, "has an entry 'other/b'"),
        (
            {"params/a": np.zeros(3, np.float32), "params/a/b": np.zeros(3, np.float32)},
            "has entries params/a and params/a/b",
        ),
        ({"params/a\n": np.zeros(3, np.float32)}, r"has an entry 'params/a\n'"),
        ({"params/a": np.zeros(3, np.float32), "params//b": np.zeros(3, np.float32)}, "has an entry 'params//b'"),
    ],
)
def test_arrays_that_are_no_variables_of_a_network_are_refused(form, entries, words, tmp_path):
    FORMATS[form].write(tmp_path / "file", Network(None, Weights(entries, {})))
    assert words in refusal(tmp_path / "file")


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"class_names": "cat, dog"}, "class_names"),
        ({"class_names": ["cat", "cat"]}, "class_names"),
        ({"image_shape": [8, -8, 3]}, "image_shape"),
        ({"image_shape": [8, 8]}, "image_shape"),
        ({"normalize": 1}, "normalize"),
    ],
)
def test_invalid_metadata_are_refused(metadata, field, tmp_path):
    arrays = {"params/a": np.zeros(3, np.float32)}
    FORMATS["safetensors"].write(tmp_path / "file", Network(None, Weights(arrays, metadata)))
    assert f"has metadata whose {field} is " in refusal(tmp_path / "file")
