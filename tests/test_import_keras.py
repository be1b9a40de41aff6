"""Weights of Keras as a run: what the other commands do with it, and what is refused."""

import json
import os
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from notebook import notebook_model
from processes import ROOT, SHORT, write_dataset
from run_records import run_of

from cifar_flax import evaluate, export, import_keras, main, predict, report
from cifar_flax.config import base_config
from cifar_flax.data import load
from cifar_flax.inference import load_run

pytestmark = pytest.mark.medium

SIDE, CLASSES = 8, 3
SIZES = (SIDE * SIDE * 3, 1000, 512, CLASSES)
PREPARED = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def random_layers(sizes=SIZES, seed=0):
    """(kernel, bias) of each dense layer."""
    rng = np.random.default_rng(seed)
    pairs = pairwise(sizes)
    return [
        (rng.normal(0, 0.05, pair).astype(np.float32), rng.normal(0, 1, pair[1]).astype(np.float32)) for pair in pairs
    ]


def write_hdf5(path, layers, names=("hidden_layer_1", "hidden_layer_2", "output")):
    """The weights of the notebook's MLP as Keras 2.2.4 stores them."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in ("input", *names)])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        file.create_group("input").attrs["weight_names"] = np.array([])
        for name, weights in zip(names, layers, strict=True):
            group, stored = file.create_group(name), [f"{name}/kernel:0", f"{name}/bias:0"]
            group.attrs["weight_names"] = np.array([weight.encode() for weight in stored])
            for weight, values in zip(stored, weights, strict=True):
                group[weight] = values
    return path


def logits_of(layers, images):
    x = images.reshape(len(images), -1).astype(np.float64) / 255
    for number, (kernel, bias) in enumerate(layers, start=1):
        x = x @ kernel + bias
        x = np.maximum(x, 0) if number < len(layers) else x
    return x


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "images.npz", side=SIDE, num_classes=CLASSES)


@pytest.fixture
def weights(tmp_path):
    return write_hdf5(tmp_path / "cifar10.mlp.weights.best.hdf5", random_layers())


@pytest.fixture
def call(dataset, tmp_path):
    """A function that calls a command on the config of the MLP and the workdir `run`, and returns its exit code."""

    def call(command, *arguments, experiment="mlp"):
        config = [f"--config={ROOT / 'experiments' / experiment}.py", f"--config.dataset={dataset}", *SHORT]
        return command(list(map(str, [*config, f"--workdir={tmp_path / 'run'}", *arguments])))

    return call


@pytest.fixture
def refused(call, weights, tmp_path, capsys):
    """A function that calls import_keras, asserts that it is refused in one line, and returns the line."""

    def refused(*arguments, file=weights, **keywords):
        capsys.readouterr()
        assert call(import_keras.main, file, *arguments, **keywords) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        return err

    return refused


def test_imported_weights_are_a_finished_run(call, weights, dataset, tmp_path, capsys):
    assert call(import_keras.main, weights) == 0
    out = capsys.readouterr().out
    run = run_of(tmp_path / "run")
    assert run["status"] == "done"
    assert run["imported_from"] == {"file": weights.name, "sha256": sha256(weights.read_bytes()).hexdigest()}
    assert run["trainable_parameters"] == sum(array.size for layer in random_layers() for array in layer)
    with np.load(dataset) as stored:
        images, labels = stored["x_test"], stored["y_test"]
        train_images, train_labels = stored["x_train"][16:], stored["y_train"][16:]
    logits = logits_of(random_layers(), images)
    assert run["test_accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-6)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    assert run["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert f"imported    {weights.name}: mlp, " in out
    assert "as imported: validation loss" in out
    assert f"test accuracy {run['test_accuracy']:.2%} (loss {run['test_loss']:.4f}), as imported" in out
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (line["epoch"], line["step"], line["epoch_seconds"]) == (0, 0, 0)
    correct = logits_of(random_layers(), train_images).argmax(-1) == train_labels
    assert line["train_accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    assert line["validation_accuracy"] == run["best_validation_accuracy"]
    probabilities = load_run(tmp_path / "run")(images)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("num_validation", [16, 0])
def test_all_commands_take_imported_weights(num_validation, call, weights, dataset, tmp_path, capsys):
    workdir, changed = tmp_path / "run", f"--config.num_validation={num_validation}"
    assert call(import_keras.main, weights, changed) == 0
    run = run_of(workdir)
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == run["test_accuracy"]
    assert result["epoch"] == 0
    assert report.main([str(workdir)]) == 0
    page = (workdir / "report.html").read_text()
    assert f"imported from {weights.name} (SHA-256 {run['imported_from']['sha256']})" in page
    assert "trained on" not in page
    assert "Learning curves" not in page
    assert export.main([f"--workdir={workdir}"]) == 0
    with np.load(workdir / "parameters.npz") as arrays:
        for number, (kernel, bias) in enumerate(random_layers()):
            layer = ("fc1", "fc2", "output")[number]
            np.testing.assert_array_equal(arrays[f"params/{layer}/kernel"], kernel)
            np.testing.assert_array_equal(arrays[f"params/{layer}/bias"], bias)
    assert call(main.main, changed, f"--config.init_from={workdir}", f"--workdir={tmp_path / 'next'}") == 0
    assert run_of(tmp_path / "next")["init_from"]["taken"].keys() == {"fc1", "fc2"}  # the classes have no names
    capsys.readouterr()
    assert report.main([str(workdir), str(tmp_path / "next"), f"--out={tmp_path / 'both.html'}"]) == 0


def test_imported_weights_predict_pictures(call, weights, tmp_path, capsys):
    from PIL import Image

    assert call(import_keras.main, weights) == 0
    picture = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    capsys.readouterr()
    assert predict.main([f"--workdir={tmp_path / 'run'}", str(tmp_path / "picture.png")]) == 0
    assert str(logits_of(random_layers(), picture[None]).argmax()) in capsys.readouterr().out


def test_training_command_leaves_imported_weights_alone(call, weights, tmp_path, capsys):
    assert call(import_keras.main, weights) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert call(main.main) == 0
    out = capsys.readouterr().out
    assert "This run is done; nothing is trained again." in out
    assert "as imported: validation loss" in out
    assert call(main.main, "--config.num_epochs=3") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "holds imported weights, which are not trained further there" in err
    assert f"--config.init_from={tmp_path / 'run'}" in err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_averaged_weights_of_an_import_are_the_imported_ones(call, weights, tmp_path):
    assert call(import_keras.main, weights, "--config.average_every=2", "--config.tta=mirror_translate") == 0
    assert "tta_test_accuracy" in run_of(tmp_path / "run")
    params = load_run(tmp_path / "run").params
    np.testing.assert_array_equal(params["fc1"]["kernel"], random_layers()[0][0])


def test_workdir_with_a_run_is_refused(call, refused, weights):
    assert call(import_keras.main, weights) == 0
    assert "holds a run; choose another workdir" in refused()


def test_other_classes_and_images_are_refused(refused, tmp_path):
    other = write_hdf5(tmp_path / "other.h5", random_layers((*SIZES[:-1], 10)))
    err = refused(file=other)
    assert f"FILE: {other.name}: params/output/bias is [10] in the file, and [3] in the config's network" in err
    other = write_hdf5(tmp_path / "larger.h5", random_layers((3072, *SIZES[1:])))
    assert "params/fc1/kernel is [3072, 1000] in the file, and [192, 1000]" in refused(file=other)
    assert not (tmp_path / "run").exists()


def test_other_network_is_refused_with_layer_and_shapes(refused, tmp_path):
    other = write_hdf5(tmp_path / "other.h5", random_layers((SIZES[0], 300, 512, 3)))
    err = refused(file=other)
    assert all(words in err for words in (f"FILE: {other}", "hidden_layer_1", "[192, 300]", "[192, 1000]"))


def test_standardized_network_needs_its_statistics(refused):
    assert "batch_stats/normalize/mean is nothing in the file, and [1, 1, 1, 3]" in refused("--config.normalize=true")


def test_unusable_arguments_are_refused_in_one_line(refused, weights, tmp_path):
    (tmp_path / "text.h5").write_text("not a file of Keras")
    assert f"FILE: {tmp_path / 'text.h5'} is not a readable file of Keras" in refused(file=tmp_path / "text.h5")
    for name in ("missing.h5", "."):
        err = refused(f"--workdir={tmp_path / 'runs' / 'new'}", file=tmp_path / name)
        assert err.startswith(f"error: FILE: {tmp_path / name} ")
    assert not (tmp_path / "runs").exists()
    assert "config.init_from" in refused(f"--config.init_from={weights}")
    assert "airbench" in refused(experiment="airbench94")
    values = random_layers()
    values[1][0][3, 4] = np.nan
    assert "not finite" in refused(file=write_hdf5(tmp_path / "nan.h5", values))


@pytest.mark.slow
@pytest.mark.skipif(not (PREPARED / "cifar10").is_dir(), reason=f"no cifar10 prepared in {PREPARED}; set TFDS_DATA_DIR")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of TensorFlow in Keras
@pytest.mark.parametrize("name", ["cnn"])  # alexnet takes minutes
def test_network_trained_by_keras_has_the_accuracy_that_keras_measures(name, tmp_path):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    dataset = load(base_config())
    model = notebook_model(keras, name)
    images, labels = dataset.train.images[:1280] / np.float32(255), np.eye(10, dtype=np.float32)[dataset.train.labels]
    for layer in model.layers:
        layer.momentum = 0.8  # of BatchNorm, whose statistics would need more steps with the default
    model.fit(images, labels[:1280], batch_size=32, epochs=1, verbose=0)
    test_images = dataset.test.images / np.float32(255)
    _, accuracy = model.evaluate(test_images, np.eye(10)[dataset.test.labels], batch_size=200, verbose=0)
    file = tmp_path / f"cifar10.{name}.weights.best.hdf5"
    model.save(file)  # as the notebook's ModelCheckpoint does

    workdir, config = tmp_path / "run", ROOT / "experiments" / f"{name}.py"
    few, names = dataset.train[:400], np.array(dataset.class_names)  # training images, which are also evaluated
    arrays = {
        "x_train": few.images,
        "y_train": few.labels,
        "x_test": dataset.test.images,
        "y_test": dataset.test.labels,
    }
    np.savez(tmp_path / "images.npz", **arrays, class_names=names)
    images = [f"--config.dataset={tmp_path / 'images.npz'}", "--config.num_validation=100"]
    assert import_keras.main([str(file), f"--config={config}", f"--workdir={workdir}", *images]) == 0
    assert f"{run_of(workdir)['test_accuracy']:.4f}" == f"{accuracy:.4f}"
    assert accuracy > 0.11  # not one class for all images

    classifier = load_run(workdir)
    variables = {"params": classifier.params, "batch_stats": classifier.batch_stats}
    model.layers[-1].activation = keras.activations.linear
    logits = jax.jit(lambda images: classifier.model.apply(variables, images, train=False))
    for start in range(0, len(test_images), 1000):
        batch = test_images[start : start + 1000]
        expected = keras.ops.convert_to_numpy(model(batch, training=False))
        np.testing.assert_allclose(logits(batch), expected, rtol=1e-5, atol=1e-5)
