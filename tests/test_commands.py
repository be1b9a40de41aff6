"""The commands on a run: evaluate, predict, export, and the function behind them."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cifar_flax import evaluate, export, predict, train
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run
from cifar_flax.predict import read_image
from cifar_flax.workdir import checksums

SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(autouse=True)
def run(workdir, tiny_config, tiny_dataset, monkeypatch):
    """What run.json holds of a finished run in `workdir`."""
    monkeypatch.setattr(evaluate, "load", lambda config: tiny_dataset)
    return train.train_and_evaluate(tiny_config, workdir, jax.devices()[:1])


def output(command, capsys, *arguments):
    capsys.readouterr()
    assert command.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_evaluate_gives_the_recorded_numbers_again_to_the_last_digit(workdir, run, tiny_dataset, capsys):
    found = json.loads(output(evaluate, capsys, "--workdir", workdir, "--json"))
    assert (found["loss"], found["accuracy"]) == (run["test_loss"], run["test_accuracy"])
    assert (found["num_images"], found["epoch"], found["status"]) == (27, run["best_epoch"], "done")
    counts = np.bincount(tiny_dataset.test.labels, minlength=3)
    shares = [found["accuracy_by_class"][name] for name in tiny_dataset.class_names]
    assert np.average(shares, weights=counts) == pytest.approx(found["accuracy"])
    found = json.loads(output(evaluate, capsys, "--workdir", workdir, "--split=validation", "--json"))
    recorded = (run["best_validation_loss"], run["best_validation_accuracy"])
    assert (found["loss"], found["accuracy"]) == recorded


def test_loading_a_run_says_nothing_and_changes_nothing(workdir, caplog, capfd):
    left = workdir / "checkpoints" / "best" / "9.orbax-checkpoint-tmp-1"  # as a killed process leaves it
    left.mkdir()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    load_run(workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert [record for record in caplog.records if record.levelname != "INFO"] == []
    assert capfd.readouterr() == ("", "")
    left.rmdir()


def test_evaluate_is_readable_and_says_when_a_run_is_unfinished(workdir, run, capsys):
    text = output(evaluate, capsys, "--workdir", workdir)
    assert f"test: 27 images, loss {run['test_loss']:.4f}, accuracy {run['test_accuracy']:.2%}" in text
    assert "so far" not in text
    stored = (workdir / "run.json").read_text()
    (workdir / "run.json").write_text(json.dumps(checksums.seal({**run, "status": "interrupted"})))
    assert "the best so far (the run is interrupted)" in output(evaluate, capsys, "--workdir", workdir)
    (workdir / "run.json").write_text(stored)


def test_the_classifier_agrees_with_the_evaluation(workdir, run, tiny_dataset):
    classifier = load_run(workdir)
    probabilities = classifier(tiny_dataset.test.images)
    assert probabilities.shape == (27, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    right = probabilities.argmax(1) == tiny_dataset.test.labels
    assert right.mean() == pytest.approx(run["test_accuracy"])
    assert classifier(tiny_dataset.test.images[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="uint8"):
        classifier(tiny_dataset.test.images / 255)


def test_predict_on_enlarged_images_gives_what_their_own_pixels_give(workdir, tiny_dataset, tmp_path, capsys):
    images, paths = tiny_dataset.test.images[:10], []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"image {i}.png")
        enlarged = Image.fromarray(image)
        enlarged.resize((8 * (i + 1), 8 * (i + 1)), Image.Resampling.NEAREST).save(paths[-1])
    found = json.loads(output(predict, capsys, "--workdir", workdir, "--json", *paths))
    classifier = load_run(workdir)
    for one, path, probabilities in zip(found, paths, classifier(images), strict=True):
        assert one["image"] == str(path)
        assert list(one["classes"].values()) == sorted(map(float, probabilities), reverse=True)[:3]
    assert "image 0.png: " in output(predict, capsys, "--workdir", workdir, paths[0])


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")]
    + [("webp", mode) for mode in ("RGB", "RGBA")]
    + [("jpg", mode) for mode in ("RGB", "L", "CMYK")],
)
def test_pictures_of_every_kind_are_read(suffix, mode, tmp_path):
    light = np.full((8, 8), 200, np.uint8)
    picture = Image.fromarray(light.astype(np.uint16) * 257 if mode == "I;16" else light)
    (picture if mode == "I;16" else picture.convert("RGB").convert(mode)).save(tmp_path / f"picture.{suffix}")
    for shape in (SHAPE, (8, 8, 1)):
        image = read_image(tmp_path / f"picture.{suffix}", shape)
        assert image.shape == shape
        assert abs(int(image.mean()) - 200) < 10  # black and white are dithered to that


def test_a_picture_is_turned_upright_cut_in_its_middle_and_laid_on_white(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 100
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", SHAPE).min() == 100

    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255  # its upper half is white
    turned = Image.Exif()
    turned[0x0112] = 3  # stored upside down
    Image.fromarray(half).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", SHAPE), half[::-1])

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", SHAPE).min() == 255


def test_export_holds_every_parameter(workdir, run, tmp_path, capsys):
    assert "parameters.npz" in output(export, capsys, "--workdir", workdir)
    output(export, capsys, "--workdir", workdir, f"--output={tmp_path / 'mine.npz'}")
    with np.load(tmp_path / "mine.npz") as arrays:
        trained = {name: array for name, array in arrays.items() if name.startswith("params/")}
        assert sum(array.size for array in trained.values()) == run["trainable_parameters"]
        assert arrays["batch_stats/norm1/mean"].shape == (4,)
    classifier = load_run(workdir)
    np.testing.assert_array_equal(trained["params/conv1/kernel"], classifier.params["conv1"]["kernel"])
    (workdir / "parameters.npz").unlink()


def picture(folder, kind):
    path = folder / f"{kind}.png"
    if kind == "truncated":
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2_000])
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["absent", "truncated", "text", "bomb", "folder"])
def test_a_picture_that_cannot_be_read_is_named(kind, workdir, tmp_path, capsys):
    path = picture(tmp_path, kind)
    assert predict.main(["--workdir", str(workdir), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {path}: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("command", [evaluate, predict, export])
@pytest.mark.parametrize("kind", ["absent", "no_checkpoint"])
def test_a_workdir_without_a_checkpoint_is_named_and_left_alone(command, kind, run, tmp_path, capsys):
    used = tmp_path / "run"
    if kind == "no_checkpoint":
        used.mkdir()
        (used / "run.json").write_text(json.dumps(run))
        (used / "config.json").write_text('{"model": "tiny"}')
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--workdir", str(used), *(["picture.png"] if command is predict else [])]
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert str(used) in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_images_of_another_shape_are_refused(workdir, tiny_dataset):
    with pytest.raises(BadInput, match=r"\[8, 8, 1\]"):
        evaluate.evaluate(load_run(workdir), type(tiny_dataset.test)(tiny_dataset.test.images[..., :1], None))


@pytest.mark.parametrize("arguments", [[], ["--workdir=x", "--split=tests"], ["--workdir=x", "stray"]])
def test_a_mistake_in_the_arguments_is_one_line(arguments, capsys):
    assert evaluate.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flush", [True, False])
def test_an_output_that_is_cut_off_is_no_error(flush):
    """As `| head -1` does it, while the command still writes, or with its last lines still to be flushed."""
    command = f"print('first', flush=True), sys.stdin.read(), print('second', flush={flush})"
    code = f"import sys; from cifar_flax.cli.commandline import exit_code; sys.exit(exit_code(lambda: ({command})))"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
