"""The commands evaluate, predict and export, and load_run, on a finished run."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cifar_flax import evaluate, export, inference, predict, train
from cifar_flax.data.pictures import read_image
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run, load_split
from cifar_flax.workdir import checksums

pytestmark = pytest.mark.medium

SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(autouse=True)
def run(workdir, tiny_config, tiny_dataset, monkeypatch):
    """The content of run.json of a finished run in `workdir`."""
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    return train.train_and_evaluate(tiny_config, workdir, jax.devices()[:1])


def output_of(command, capsys, *arguments):
    capsys.readouterr()
    assert command.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_evaluate_reproduces_the_recorded_results_exactly(workdir, run, tiny_dataset, capsys):
    result = json.loads(output_of(evaluate, capsys, "--workdir", workdir, "--json"))
    assert (result["loss"], result["accuracy"]) == (run["test_loss"], run["test_accuracy"])
    assert (result["num_images"], result["epoch"], result["status"]) == (27, run["best_epoch"], "done")
    counts = np.bincount(tiny_dataset.test.labels, minlength=3)
    accuracies = [result["accuracy_by_class"][name] for name in tiny_dataset.class_names]
    assert np.average(accuracies, weights=counts) == pytest.approx(result["accuracy"])
    result = json.loads(output_of(evaluate, capsys, "--workdir", workdir, "--split=validation", "--json"))
    recorded = (run["best_validation_loss"], run["best_validation_accuracy"])
    assert (result["loss"], result["accuracy"]) == recorded


def test_loading_a_run_is_silent_and_changes_no_file(workdir, caplog, capfd):
    leftover = workdir / "checkpoints" / "best" / "9.orbax-checkpoint-tmp-1"  # left by a killed process
    leftover.mkdir()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    load_run(workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert [record for record in caplog.records if record.levelname != "INFO"] == []
    assert capfd.readouterr() == ("", "")
    leftover.rmdir()


def test_evaluate_states_that_a_run_is_unfinished(workdir, run, capsys):
    text = output_of(evaluate, capsys, "--workdir", workdir)
    assert f"test: 27 images, loss {run['test_loss']:.4f}, accuracy {run['test_accuracy']:.2%}" in text
    assert "so far" not in text
    stored = (workdir / "run.json").read_text()
    (workdir / "run.json").write_text(json.dumps(checksums.add_checksum({**run, "status": "interrupted"})))
    assert "the best so far (the run is interrupted)" in output_of(evaluate, capsys, "--workdir", workdir)
    (workdir / "run.json").write_text(stored)


def test_classifier_reproduces_the_test_accuracy(workdir, run, tiny_dataset):
    classifier = load_run(workdir)
    probabilities = classifier(tiny_dataset.test.images)
    assert probabilities.shape == (27, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    correct = probabilities.argmax(1) == tiny_dataset.test.labels
    assert correct.mean() == pytest.approx(run["test_accuracy"])
    assert classifier(tiny_dataset.test.images[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="uint8"):
        classifier(tiny_dataset.test.images / 255)


def test_predict_gives_enlarged_images_the_same_probabilities(workdir, tiny_dataset, tmp_path, capsys):
    images, paths = tiny_dataset.test.images[:10], []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"image {i}.png")
        enlarged = Image.fromarray(image)
        enlarged.resize((8 * (i + 1), 8 * (i + 1)), Image.Resampling.NEAREST).save(paths[-1])
    result = json.loads(output_of(predict, capsys, "--workdir", workdir, "--json", *paths))
    classifier = load_run(workdir)
    for prediction, path, probabilities in zip(result, paths, classifier(images), strict=True):
        assert prediction["image"] == str(path)
        assert list(prediction["classes"].values()) == sorted(map(float, probabilities), reverse=True)[:3]
    assert "image 0.png: " in output_of(predict, capsys, "--workdir", workdir, paths[0])


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")]
    + [("webp", mode) for mode in ("RGB", "RGBA")]
    + [("jpg", mode) for mode in ("RGB", "L", "CMYK")],
)
def test_images_of_common_formats_and_modes_are_read(suffix, mode, tmp_path):
    gray = np.full((8, 8), 200, np.uint8)
    image = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray)
    (image if mode == "I;16" else image.convert("RGB").convert(mode)).save(tmp_path / f"image.{suffix}")
    for shape in (SHAPE, (8, 8, 1)):
        pixels = read_image(tmp_path / f"image.{suffix}", shape)
        assert pixels.shape == shape
        assert abs(int(pixels.mean()) - 200) < 10  # mode 1 is dithered


def test_image_is_rotated_by_exif_center_cropped_and_placed_on_white(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 100
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", SHAPE).min() == 100

    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(half).save(tmp_path / "rotated.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "rotated.png", SHAPE), half[::-1])

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "transparent.png")
    assert read_image(tmp_path / "transparent.png", SHAPE).min() == 255


def test_export_contains_all_parameters(workdir, run, tmp_path, capsys):
    assert "parameters.npz" in output_of(export, capsys, "--workdir", workdir)
    output_of(export, capsys, "--workdir", workdir, f"--output={tmp_path / 'mine.npz'}")
    with np.load(tmp_path / "mine.npz") as arrays:
        params = {name: array for name, array in arrays.items() if name.startswith("params/")}
        assert sum(array.size for array in params.values()) == run["trainable_parameters"]
        assert arrays["batch_stats/norm1/mean"].shape == (4,)
    classifier = load_run(workdir)
    np.testing.assert_array_equal(params["params/conv1/kernel"], classifier.params["conv1"]["kernel"])
    (workdir / "parameters.npz").unlink()


def unusable_image(folder, kind):
    path = folder / f"{kind}.png"
    if kind == "truncated":
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2_000])
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "bomb", "folder"])
def test_unreadable_image_is_reported(kind, workdir, tmp_path, capsys):
    path = unusable_image(tmp_path, kind)
    assert predict.main(["--workdir", str(workdir), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {path}: ")
    assert captured.err.count("\n") == 1


@pytest.fixture
def photos(tmp_path, monkeypatch, tiny_dataset):
    """A folder of four readable pictures, a broken one, and other files; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("b.png", "A.PNG", "sub/c.bmp", "sub/deep/d.tiff")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny_dataset.test.images[index]).save(f"photos/{name}")
    unusable_image(Path("photos/sub"), "truncated")
    Path("photos/notes.txt").write_text("other files are skipped")
    Path("photos/._b.png").write_text("attributes that macOS stores")
    Path("photos/sub/upward").symlink_to("..")
    Path("elsewhere").mkdir()
    Image.fromarray(tiny_dataset.test.images[4]).save("elsewhere/e.jpg")
    Path("photos/linked").symlink_to("../elsewhere")
    return "photos"


IN_PHOTOS = ("A.PNG", "b.png", "linked/e.jpg", "sub/c.bmp", "sub/deep/d.tiff")


def test_broken_picture_does_not_stop_the_others(workdir, photos, capsys):
    arguments = ["./photos/b.png", "missing.png", f"{photos}/sub/truncated.png", "photos/A.PNG"]
    assert predict.main([f"--workdir={workdir}", *arguments]) == 2
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == ["./photos/b.png", "photos/A.PNG"]
    lines = captured.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["error", arguments[1]], ["error", arguments[2]]]
    assert predict.main([f"--workdir={workdir}", "--json", *arguments]) == 2
    captured = capsys.readouterr()
    alone = output_of(predict, capsys, f"--workdir={workdir}", "--json", "./photos/b.png", "photos/A.PNG")
    assert json.loads(captured.out) == json.loads(alone)
    assert captured.err.splitlines() == lines


def test_all_pictures_of_a_folder_are_answered_in_order(workdir, photos, capsys):
    assert predict.main([f"--workdir={workdir}", "--json", "--eval_batch_size=2", photos]) == 2
    captured = capsys.readouterr()
    assert [entry["image"] for entry in json.loads(captured.out)] == [f"photos/{name}" for name in IN_PHOTOS]
    assert captured.err.startswith("error: photos/sub/truncated.png: ")
    assert captured.err.count("\n") == 1
    Path("photos/sub/truncated.png").unlink()
    together = json.loads(output_of(predict, capsys, f"--workdir={workdir}", "--json", "photos/"))
    alone = output_of(predict, capsys, f"--workdir={workdir}", "--json", *(f"photos/{name}" for name in IN_PHOTOS))
    assert together == json.loads(alone)


def test_folder_without_pictures_is_one_bad_item(workdir, photos, capsys):
    Path("empty").mkdir()
    assert predict.main([f"--workdir={workdir}", "empty", f"{photos}/b.png"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("photos/b.png: ")
    assert captured.err == "error: empty: the folder contains no pictures; name a picture, or a folder with some\n"


def test_name_with_a_line_break_is_one_line(workdir, photos, capsys):
    Path("photos/b.png").rename("photos/b\n.png")
    assert output_of(predict, capsys, f"--workdir={workdir}", "photos/b\n.png").startswith("photos/b\\n.png: ")


@pytest.mark.parametrize("kind", ["folder", "pipe", "full disk", "loop"])
def test_unusable_output_is_reported_and_kept(kind, workdir, tmp_path, monkeypatch, capsys):
    output = tmp_path / "parameters.npz"
    output_of(export, capsys, "--workdir", workdir, "--output", output)
    before = output.read_bytes()
    if kind != "full disk":
        output.unlink()
        {"folder": output.mkdir, "pipe": lambda: os.mkfifo(output), "loop": lambda: output.symlink_to(output)}[kind]()

    def savez(file, **arrays):
        file.write(b"half of the arrays")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)
    assert export.main(["--workdir", str(workdir), "--output", str(output)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --output: {output} ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [output]
    if kind == "full disk":
        assert output.read_bytes() == before
    else:
        assert not output.is_file()


def test_output_through_a_link_is_written_to_its_target(workdir, tmp_path, capsys):
    (tmp_path / "link.npz").symlink_to("target.npz")
    output_of(export, capsys, "--workdir", workdir, "--output", tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    with np.load(tmp_path / "target.npz") as arrays:
        assert "params/conv1/kernel" in arrays


@pytest.mark.parametrize("command", [evaluate, predict, export])
@pytest.mark.parametrize("kind", ["missing", "no_checkpoint"])
def test_workdir_without_a_checkpoint_is_reported_and_not_changed(command, kind, run, tmp_path, capsys):
    workdir = tmp_path / "run"
    if kind == "no_checkpoint":
        workdir.mkdir()
        (workdir / "run.json").write_text(json.dumps(run))
        (workdir / "config.json").write_text('{"model": "tiny"}')
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--workdir", str(workdir), *(["image.png"] if command is predict else [])]
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert str(workdir) in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_data_dir_of_a_command_does_not_change_the_config_of_the_run(workdir):
    classifier = load_run(workdir)
    load_split(classifier, "test", data_dir="/elsewhere")
    assert classifier.config.data_dir is None


def test_images_of_another_shape_are_rejected(workdir, tiny_dataset, monkeypatch):
    gray = replace(tiny_dataset, test=replace(tiny_dataset.test, images=tiny_dataset.test.images[..., :1]))
    monkeypatch.setattr(inference, "load", lambda config: gray)
    with pytest.raises(BadInput, match=r"^--dataset: tiny is not what the run was trained on"):
        load_split(load_run(workdir), "test")


@pytest.mark.parametrize("arguments", [[], ["--workdir=x", "--split=tests"], ["--workdir=x", "stray"]])
def test_invalid_argument_exits_with_code_2_and_one_line(arguments, capsys):
    assert evaluate.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
