"""Files of Keras: what Keras 2 and 3 save is read, and what is written is the same network in Keras."""

import importlib.util
import io
import json
import marshal
import sys
import zipfile

import h5py
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from notebook import notebook_model
from processes import run

from cifar_flax.errors import BadInput
from cifar_flax.models import MODELS, Normalized
from cifar_flax.weights import keras_files, read

pytestmark = pytest.mark.medium

CLASSES = 5
SIDES = {"mlp": 8, "cnn": 8, "alexnet": 27}
NAMES = {
    "mlp": {"fc1": "hidden_layer_1", "fc2": "hidden_layer_2", "output": "output"},
    "cnn": {"conv1": "CONV1", "conv2": "CONV2", "conv3": "CONV3", "fc1": "FC1", "output": "FC2"},
    "alexnet": {
        "conv1": "CONV_1", "norm1": "NORM_1", "conv2": "CONV2", "norm2": "NORM_2", "conv3": "CONV3", "conv4": "CONV4",
        "conv5": "CONV5", "norm5": "NORM_5", "fc1": "FC1", "fc2": "FC2", "output": "dense_3",
    },
}  # fmt: skip
CLASS = {"conv": "conv2d", "norm": "batch_normalization", "fc": "dense", "output": "dense"}
WEIGHTS = {
    "kernel": ("params/{}/kernel", "params/{}/bias"),
    "gamma": ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var"),
}
IN_KERAS = {"kernel": ("kernel", "bias"), "gamma": ("gamma", "beta", "moving_mean", "moving_variance")}


def module_of(name, normalize=False):
    return Normalized(MODELS[name](CLASSES)) if normalize else MODELS[name](CLASSES)


def random_arrays(name, normalize=False):
    """Arrays of a network, with running statistics that are not those of a new one."""
    images = jax.ShapeDtypeStruct((1, SIDES[name], SIDES[name], 3), np.float32)
    shapes = jax.eval_shape(lambda x: module_of(name, normalize).init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(0)

    def values(path, leaf):
        array = rng.standard_normal(leaf.shape, np.float32) * np.float32(0.05)
        return np.abs(array) + np.float32(0.5) if path.endswith(("var", "variance", "scale")) else array

    return {path: values(path, leaf) for path, leaf in flatten_dict(shapes, sep="/").items()}


def layers_of(name, arrays, names=None):
    """The layers as Keras has them: name, class, and arrays by their names in Keras."""
    layers = []
    for ours, theirs in (names or NAMES[name]).items():
        kind = "gamma" if ours.startswith("norm") else "kernel"
        values = (arrays[path.format(ours)] for path in WEIGHTS[kind])
        layers.append((theirs, CLASS[ours.rstrip("12345")], dict(zip(IN_KERAS[kind], values, strict=True))))
    return layers


def write_keras_2(path, layers, description=None, chunk=None):
    """Writes layers as Keras 2.2.4 does: weights only or, with a description, a model. `chunk` divides long lists."""
    with h5py.File(path, "w") as file:
        root = file
        if description is not None:
            file.attrs["model_config"] = json.dumps(description).encode()
            root = file.create_group("model_weights")
        root.attrs["backend"], root.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        names = np.array([b"input", *(name.encode() for name, _, _ in layers)])
        if chunk:
            for number, start in enumerate(range(0, len(names), chunk)):
                root.attrs[f"layer_names{number}"] = names[start : start + chunk]
        else:
            root.attrs["layer_names"] = names
        root.create_group("input").attrs["weight_names"] = np.array([])
        for name, _, arrays in layers:
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{weight}:0".encode() for weight in arrays])
            for weight, array in arrays.items():
                group[f"{name}/{weight}:0"] = array
    return path


def write_keras_3(path, layers, named=True, first=0, root="layers"):
    """Writes weights as Keras 3 does, in early versions without names. Layers of a class are counted from `first`."""
    counts = {}
    with h5py.File(path, "w") as file:
        for name, kind, arrays in [("DROP1", "dropout", {}), *layers]:
            number = counts[kind] = counts.get(kind, first - 1) + 1
            group = file.create_group(f"{root}/{kind}_{number}/vars" if number else f"{root}/{kind}/vars")
            if named:
                group.attrs["name"] = name
            for index, array in enumerate(arrays.values()):
                group[str(index)] = array
        file["optimizer/vars/0"] = 3
    return path


def write_keras(path, layers, description):
    """Writes a `.keras` of Keras 3."""
    content = io.BytesIO()
    write_keras_3(content, layers)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(description))
        file.writestr("model.weights.h5", content.getvalue())
    return path


def description_of(name, **changes):
    """Keras' description of the notebook's MLP, as far as it is read, with changes of the first dense layer."""
    layers = [("Flatten", {"name": "input"}), ("Dense", {"name": "hidden_layer_1", "units": 1000} | changes)]
    layers += [("Dropout", {"name": "dropout_1"}), ("Dense", {"name": "hidden_layer_2", "activation": "relu"})]
    layers += [("Dense", {"name": "output", "activation": "softmax"})]
    described = [{"class_name": kind, "config": config} for kind, config in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": described}}


def assert_arrays(path, model, expected):
    weights = read(path, "config.init_from", model)
    assert weights.metadata == {"model": model, "normalize": "batch_stats/normalize/mean" in expected}
    assert weights.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(weights.arrays[name], array, strict=True)


def refusal(path, model):
    with pytest.raises(BadInput) as caught:
        read(path, "config.init_from", model)
    message = str(caught.value)
    assert message.startswith(f"config.init_from: {path} ")
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize("model", NAMES)
def test_weights_of_keras_2_are_read(model, tmp_path):
    arrays = random_arrays(model)
    assert_arrays(write_keras_2(tmp_path / "cifar10.weights.best.hdf5", layers_of(model, arrays)), model, arrays)


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("named", [True, False])
def test_weights_of_keras_3_are_read(model, named, tmp_path):
    arrays = random_arrays(model)
    path = write_keras_3(tmp_path / "model.weights.h5", layers_of(model, arrays), named, first=0 if named else 9)
    assert_arrays(path, model, arrays)


def test_models_are_read_and_not_only_weights(tmp_path):
    arrays, description = random_arrays("mlp"), description_of("mlp", activation="relu")
    layers = layers_of("mlp", arrays)
    assert_arrays(write_keras_2(tmp_path / "model.h5", layers, description), "mlp", arrays)
    assert_arrays(write_keras(tmp_path / "model.keras", layers, description), "mlp", arrays)
    description["config"] = description["config"]["layers"]  # until Keras 2.2.2
    assert_arrays(write_keras_2(tmp_path / "old.h5", layers, description), "mlp", arrays)


def test_weights_of_keras_2_12_are_read(tmp_path):
    arrays = random_arrays("cnn")
    path = tmp_path / "model.weights.h5"
    write_keras_3(path, layers_of("cnn", arrays), named=False, root="_layer_checkpoint_dependencies")
    assert_arrays(path, "cnn", arrays)


def test_layers_are_found_by_the_names_of_the_notebook_in_any_order(tmp_path):
    arrays = random_arrays("cnn")
    layers = layers_of("cnn", arrays)[::-1]
    assert_arrays(write_keras_2(tmp_path / "file.h5", layers), "cnn", arrays)


def test_layers_with_other_names_are_found_by_their_order(tmp_path):
    arrays = random_arrays("cnn")
    layers = layers_of("cnn", arrays, dict(zip(NAMES["cnn"], ["a", "c", "b", "FC2", "FC1"], strict=True)))
    assert_arrays(write_keras_2(tmp_path / "file.h5", layers), "cnn", arrays)


def test_lists_of_names_may_be_divided(tmp_path):
    arrays = random_arrays("cnn")
    assert_arrays(write_keras_2(tmp_path / "file.h5", layers_of("cnn", arrays), chunk=2), "cnn", arrays)


def test_other_precisions_are_converted(tmp_path):
    arrays = random_arrays("mlp")
    arrays["params/fc1/bias"] = arrays["params/fc1/bias"].astype(np.float16)
    layers = layers_of("mlp", arrays | {"params/output/bias": arrays["params/output/bias"].astype(">f8")})
    expected = arrays | {"params/fc1/bias": arrays["params/fc1/bias"].astype(np.float32)}
    assert_arrays(write_keras_2(tmp_path / "file.h5", layers), "mlp", expected)


def test_other_network_is_refused_with_layer_and_shapes(tmp_path):
    layers = {model: layers_of(model, random_arrays(model)) for model in ("mlp", "cnn")}
    mlp, cnn = (write_keras_2(tmp_path / model, layers[model]) for model in layers)
    start = f"config.init_from: {mlp} is not of cnn: "
    has = "it has 'hidden_layer_1' [192, 1000], [1000], and no Conv2D layer for CONV1"
    assert refusal(mlp, "cnn") == f"{start}{has}; choose the experiment of its network"
    assert "its layer 'CONV1' has [2, 2, 3, 16], and CONV_1 has [3, 3, 3, 96]" in refusal(cnn, "alexnet")
    assert "its layer 'FC1' has [64, 500], and hidden_layer_1 has [64, 1000]" in refusal(cnn, "mlp")
    assert "which can be read for mlp, cnn, alexnet, and the model is airbench" in refusal(mlp, "airbench")
    more = [*layers["mlp"], ("extra", "dense", {"kernel": np.zeros((5, 5), "f"), "bias": np.zeros(5, "f")})]
    assert "it also has the layer 'extra' [5, 5], [5]" in refusal(write_keras_2(tmp_path / "more", more), "mlp")
    more = [*layers["mlp"], ("lstm", "lstm", {"a": np.zeros((5, 5), "f"), "b": np.zeros((5, 5), "f")})]
    assert "it has the layer 'lstm' [5, 5], [5, 5]" in refusal(write_keras_2(tmp_path / "lstm", more), "mlp")
    wrong = [(*layer[:2], layer[2] | {"bias": np.zeros(7, "f")}) for layer in layers["mlp"]]
    assert "[7], and hidden_layer_1 has [1000]" in refusal(write_keras_2(tmp_path / "bias", wrong), "mlp")


def test_network_that_computes_something_else_is_refused(tmp_path):
    layers = layers_of("mlp", random_arrays("mlp"))
    path = write_keras(tmp_path / "tanh.keras", layers, description_of("mlp", activation="tanh"))
    assert "its layer 'hidden_layer_1' has activation tanh, and hidden_layer_1 has relu" in refusal(path, "mlp")
    for kind in ("Normalization", "ReLU"):
        description = description_of("mlp")
        description["config"]["layers"].insert(0, {"class_name": kind, "config": {"name": "first"}})
        path = write_keras(tmp_path / "first.keras", layers, description)
        assert f"its layer 'first' is a {kind}, and input is a Flatten" in refusal(path, "mlp")
    description = description_of("mlp")
    description["config"]["layers"].append({"class_name": "Softmax", "config": {"name": "softmax"}})
    assert "it also has the layer 'softmax' (Softmax)" in refusal(write_keras(path, layers, description), "mlp")
    description["config"]["layers"] = description["config"]["layers"][:2]
    assert "it has no layer for hidden_layer_2" in refusal(write_keras(path, layers, description), "mlp")
    for broken in ({}, [], {"config": 3}, {"config": [3]}, {"config": {"layers": [{"class_name": "Dense"}]}}):
        assert "has no description of its layers that can be read" in refusal(write_keras(path, layers, broken), "mlp")


def test_lambda_layer_is_refused_and_not_executed(tmp_path):
    def attack(x):
        from pathlib import Path

        Path("executed").touch()
        return x

    code = {"class_name": "__lambda__", "config": {"code": marshal.dumps(attack.__code__).hex()}}
    description = description_of("mlp")
    layer = {"class_name": "Lambda", "config": {"name": "lambda", "function": code}}
    description["config"]["layers"].insert(1, layer)
    for write in (write_keras, write_keras_2):
        path = write(tmp_path / "file", layers_of("mlp", random_arrays("mlp")), description)
        assert "its layer 'lambda' is a Lambda, and hidden_layer_1 is a Dense" in refusal(path, "mlp")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def edit(change):
    """Applies a change to the array of a bias in a file of Keras 2."""

    def edit(file):
        values = file["output/output/bias:0"][()]
        del file["output/output/bias:0"]
        change(file["output/output"], values)

    return edit


def add_external(group, values):
    h5py.File(group.file.filename + ".other", "w")["secret"] = values
    group["bias:0"] = h5py.ExternalLink(group.file.filename + ".other", "secret")


def add_virtual(group, values):
    h5py.File(group.file.filename + ".other", "w")["secret"] = values
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[:] = h5py.VirtualSource(group.file.filename + ".other", "secret", values.shape)
    group.create_virtual_dataset("bias:0", layout)


def add_raw(group, values):
    group.create_dataset("bias:0", values.shape, "f4", external=[(group.file.filename, 0, values.nbytes)])


def set_layer_names(names):
    return lambda file: file.attrs.update(layer_names=names)


STRINGS = h5py.string_dtype()
REFUSED = {
    "external link": (edit(add_external), "output/bias:0 is a link to another place, and links are not followed"),
    "soft link": (
        edit(lambda group, _: group.update({"bias:0": h5py.SoftLink("/hidden_layer_1/hidden_layer_1/bias:0")})),
        "output/bias:0 is a link to another place, and links are not followed",
    ),
    "virtual dataset": (edit(add_virtual), "is compressed, virtual or incomplete, which Keras does not do"),
    "data in another file": (edit(add_raw), "is compressed, virtual or incomplete, which Keras does not do"),
    "filter": (
        edit(lambda group, values: group.create_dataset("bias:0", data=values, compression="gzip")),
        "is compressed, virtual or incomplete, which Keras does not do",
    ),
    "claimed size": (
        edit(lambda group, _: group.create_dataset("bias:0", (2**40,), "f4")),
        "is compressed, virtual or incomplete, which Keras does not do",
    ),
    "integers": (edit(lambda group, _: group.create_dataset("bias:0", data=[1, 2, 3])), "is of int64, not of floating"),
    "variable length": (
        edit(lambda group, _: group.create_dataset("bias:0", data=["a", "b", "c"], dtype=STRINGS)),
        "is of object, not of floating-point numbers",
    ),
    "references": (
        edit(lambda group, _: group.create_dataset("bias:0", data=[group.ref] * 3, dtype=h5py.ref_dtype)),
        "is of object, not of floating-point numbers",
    ),
    "group": (edit(lambda group, _: group.create_group("bias:0")), "output has an array that is none"),
    "missing array": (edit(lambda group, _: None), "it has no output/bias:0"),
    "no names": (lambda file: file.attrs.pop("layer_names"), "it has no layers"),
    "a number as names": (set_layer_names(3), "its layer_names are not a list of at most 1000 names"),
    "numbers as names": (set_layer_names([3]), "(TypeError: "),
    "many names": (set_layer_names([b"output"] * 1001), "its layer_names are not a list of at most 1000 names"),
    "many arrays": (set_layer_names([b"output", b"hidden_layer_1"] * 50), "its arrays are larger than the file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_keras_does_not_write_are_refused(name, tmp_path):
    path = write_keras_2(tmp_path / "file.h5", layers_of("mlp", random_arrays("mlp")))
    change, words = REFUSED[name]
    with h5py.File(path, "r+") as file:
        change(file)
    assert words in refusal(path, "mlp")


def test_values_that_are_not_finite_are_refused(tmp_path):
    arrays = random_arrays("mlp")
    arrays["params/fc2/kernel"][3, 4] = np.nan
    path = write_keras_2(tmp_path / "file.h5", layers_of("mlp", arrays))
    assert "has a value in params/fc2/kernel that is not finite" in refusal(path, "mlp")


def test_endless_loop_is_ended(tmp_path, monkeypatch):
    program = tmp_path / "loop.py"
    program.write_text(f"{keras_files.READER.read_text().split('def _answer')[0]}\nMAX_SECONDS = 1\n")
    with program.open("a") as file:
        file.write("def _answer(*_):\n    while True: pass\nmain()\n")
    monkeypatch.setattr(keras_files, "READER", program)
    path = write_keras_2(tmp_path / "file.h5", layers_of("mlp", random_arrays("mlp")))
    assert "is not a readable file of Keras (the process that opened it was killed by SIGXCPU)" in refusal(path, "mlp")


def test_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.keras", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(10**7))
    assert "config.json is compressed, which Keras does not do" in refusal(tmp_path / "file.keras", "mlp")


def test_network_without_counterpart_is_not_written(tmp_path):
    with pytest.raises(
        BadInput, match=r"^--format: keras is possible for mlp, cnn, alexnet, and the model of this run"
    ):
        keras_files.write(tmp_path / "file", "airbench", {}, [8, 8, 3], 3)


def test_missing_keras_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(
        BadInput, match=r"^--format: keras needs the package keras, and keras is not installed; install"
    ):
        keras_files.write(tmp_path / "file", "mlp", random_arrays("mlp"), [8, 8, 3], CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not importlib.util.find_spec("keras"), reason="keras is not installed")
def test_file_is_written_by_keras_on_jax_without_a_word(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/weights'); import test_keras_files as tests;"
        "from cifar_flax.cli.commandline import silence_libraries; silence_libraries();"
        "from cifar_flax.weights import keras_files;"
        "keras_files.write(Path(sys.argv[1]), 'mlp', tests.random_arrays('mlp'), [8, 8, 3], tests.CLASSES);"
        "import keras; assert keras.backend.backend() == 'jax'"
    )
    variables = {"KERAS_BACKEND": None, "PYTHONPATH": "tests:."}
    assert run([sys.executable, "-c", code, str(tmp_path / "x.tmp")], variables=variables) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tmp"]
    assert_arrays(tmp_path / "x.tmp", "mlp", random_arrays("mlp"))


# of TensorFlow, which Keras does not avoid
QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@QUIET
@pytest.mark.parametrize("case", ["mlp", "cnn", "alexnet", "normalized cnn"])
def test_written_file_is_the_same_network_in_keras(keras, case, tmp_path):
    model, normalize = case.split()[-1], case.startswith("normalized")
    arrays, side = random_arrays(model, normalize), SIDES[model]
    path = tmp_path / "model.keras"
    keras_files.write(path, model, arrays, [side, side, 3], CLASSES)
    loaded = keras.models.load_model(path)
    images = np.random.default_rng(1).random((7, side, side, 3), np.float32)
    logits = module_of(model, normalize).apply(unflatten_dict(arrays, sep="/"), images, train=False)
    assert np.ptp(logits) > 0.01
    np.testing.assert_allclose(loaded.predict(images, verbose=0), jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)
    loaded.layers[-1].activation = keras.activations.linear
    np.testing.assert_allclose(np.asarray(loaded(images)), logits, rtol=1e-5, atol=1e-5)
    assert_arrays(path, model, arrays)
    names = [layer.name for layer in loaded.layers if layer.weights][normalize:]
    assert names == [*(NAMES[model] | ({"output": "dense"} if model == "alexnet" else {})).values()]
    if not normalize:
        notebook = notebook_model(keras, model, (side, side, 3), CLASSES)
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            notebook.load_weights(path)
        np.testing.assert_allclose(notebook.predict(images, verbose=0), jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)


@QUIET
@pytest.mark.parametrize("model", ["cnn", "alexnet"])
def test_files_that_keras_saves_of_the_notebooks_network_are_read(keras, model, tmp_path):
    side = SIDES[model]
    network, arrays = notebook_model(keras, model, (side, side, 3), CLASSES), random_arrays(model)
    layers = [layer for layer in network.layers if layer.weights]
    for layer, (_, _, weights) in zip(layers, layers_of(model, arrays), strict=True):
        layer.set_weights([*weights.values()])
    network.save(tmp_path / "model.keras")
    network.save(tmp_path / "model.h5")
    network.save_weights(tmp_path / "model.weights.h5")
    for path in tmp_path.iterdir():
        assert_arrays(path, model, arrays)
