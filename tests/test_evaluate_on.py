"""`evaluate --on`: a run's network on other images, by corruption and severity, with calibration, JSON and page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from run_records import ONE_DEVICE

from cifar_flax import evaluate, inference, train
from cifar_flax.data import Split, tfds
from cifar_flax.data.corruptions import BENCHMARK
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run
from cifar_flax.reporting.calibration import fit_temperature, scores
from cifar_flax.reporting.evaluations import Table
from cifar_flax.training import streaming

pytestmark = pytest.mark.medium

COUNT = 8


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(autouse=True)
def run(workdir, tiny_config, tiny_dataset, monkeypatch):
    """The content of run.json of a finished run in `workdir`; images are sent in small pieces."""
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    monkeypatch.setattr(tfds, "is_prepared", lambda name, data_dir: True)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 2**12)
    return train.train_and_evaluate(tiny_config, workdir, ONE_DEVICE)


@pytest.fixture
def corrupted(tmp_path, tiny_dataset):
    """A folder like CIFAR-10-C, of two corruptions of the benchmark and an extra one, and its splits by their keys."""
    rng, test = np.random.default_rng(0), tiny_dataset.test[:COUNT]
    folder, splits = tmp_path / "CIFAR-10-C", {}
    folder.mkdir()
    for name in ("saturate", "fog", "snow"):
        images = rng.integers(0, 256, (5 * COUNT, 8, 8, 3), np.uint8) // 2 + np.tile(test.images, (5, 1, 1, 1)) // 2
        np.save(folder / f"{name}.npy", images)
        splits |= {(name, s): Split(images[(s - 1) * COUNT :][:COUNT], test.labels) for s in range(1, 6)}
    np.save(folder / "labels.npy", np.tile(test.labels, 5).astype(np.uint8))
    return folder, splits


def output_of(capsys, *arguments):
    capsys.readouterr()
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr()


def json_of(capsys, *arguments):
    return json.loads(output_of(capsys, *arguments, "--json").out)


def test_corruptions_have_the_values_of_their_slices_and_one_program(
    workdir, corrupted, tiny_dataset, capsys, monkeypatch
):
    folder, splits = corrupted
    lowered, lower = [], streaming.StreamedEvaluation.lower
    monkeypatch.setattr(
        streaming.StreamedEvaluation, "lower", lambda *arguments: lowered.append(None) or lower(*arguments)
    )
    result = json_of(capsys, "--workdir", workdir, "--on", folder)
    assert len(lowered) == 1
    classifier = load_run(workdir)
    evaluator = evaluate.Evaluator(classifier)
    validation = tiny_dataset.validation
    temperature = fit_temperature(evaluator(validation).logits, validation.labels)
    assert result["temperature"] == pytest.approx(temperature)
    for (name, severity), split in splits.items():
        values, by_hand = result["corruptions"][name][f"{severity}"], evaluator(split)
        correct = classifier(split.images).argmax(-1) == split.labels
        assert (values["loss"], values["accuracy"]) == (by_hand.loss, correct.mean())
        expected = scores(by_hand.logits, split.labels)
        assert values["loss"] == pytest.approx(expected.negative_log_likelihood, rel=1e-5)
        assert (values["brier_score"], values["calibration_error"]) == expected[1:]
        scaled = [values[f"scaled_{name}"] for name in ("loss", "brier_score", "calibration_error")]
        assert scaled == pytest.approx(list(scores(by_hand.logits, split.labels, temperature)))

    def mean(names, severities):
        return np.mean([result["corruptions"][name][f"{s}"]["accuracy"] for name in names for s in severities])

    for severity in range(1, 6):  # without the extra corruption
        accuracy = result["benchmark"][f"{severity}"]["accuracy"]
        assert accuracy == pytest.approx(mean(["fog", "snow"], [severity]))
    assert result["benchmark"]["mean"]["accuracy"] == pytest.approx(mean(["fog", "snow"], range(1, 6)))
    assert result["corruptions"]["saturate"]["mean"]["accuracy"] == pytest.approx(mean(["saturate"], range(1, 6)))


def test_table_and_page_have_the_same_numbers(workdir, corrupted, tmp_path, capsys):
    folder, _ = corrupted
    text = output_of(capsys, "--workdir", workdir, "--on", folder, "--report", tmp_path / "page.html").out
    result = json_of(capsys, "--workdir", workdir, "--on", folder)
    page = (tmp_path / "page.html").read_text()
    accuracy = result["benchmark"]["mean"]["accuracy"]
    for shown in (text, page):
        assert f"{folder}: 3 corruptions, {15 * COUNT} images" in shown
        assert f"mean over 2 of the {len(BENCHMARK)} corruptions of the benchmark: accuracy {accuracy:.2%}" in shown
        assert shown.index("snow") < shown.index("fog") < shown.index("saturate")
    assert 'src="data:image/svg' in page
    for name, row in result["corruptions"].items():
        cells = [f"{100 * values['accuracy']:.2f}" for values in row.values()]
        assert " ".join([name, *cells]) in " ".join(text.split())
        assert f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) in page
    for values in result["benchmark"].values():
        assert f"{values['loss']:.4f}" in text
        assert f"{values['scaled_brier_score']:.4f}" in page


def test_plain_set_is_evaluated_as_the_test_images_are(workdir, run, tiny_dataset, tmp_path, capsys):
    test = tiny_dataset.test
    names = np.array(["light", "dark", "middle"])  # in another order
    np.savez(tmp_path / "set.npz", images=test.images, labels=(test.labels + 1) % 3, class_names=names)
    result = json_of(capsys, "--workdir", workdir, "--on", tmp_path / "set.npz")
    plain = json_of(capsys, "--workdir", workdir)
    assert (result["loss"], result["accuracy"]) == (run["test_loss"], run["test_accuracy"])
    for field in ("num_images", "brier_score", "calibration_error", "accuracy_by_class"):
        assert result[field] == plain[field]
    assert "temperature" not in plain
    text = output_of(capsys, "--workdir", workdir, "--on", tmp_path / "set.npz", "--report", tmp_path / "page.html").out
    assert f"set.npz: 27 images, loss {run['test_loss']:.4f}, accuracy {run['test_accuracy']:.2%}" in text
    assert f"at temperature {result['temperature']:.3f}, fitted on the run's validation images: loss " in text
    assert '<th scope="row">middle</th>' in (tmp_path / "page.html").read_text()


def test_names_of_classes_and_files_are_no_markup():
    names = ["[other]", "[/s]", ":smile:", "[bold]x"]
    text = str(Table("caption", ["class", "accuracy"], [[(name, ["50.00 %"]) for name in names]]))
    assert [line.split()[0] for line in text.splitlines()[-4:]] == names


@pytest.mark.parametrize("reason", ["none", "elsewhere"])
def test_without_validation_images_there_is_no_temperature(
    reason, workdir, corrupted, tiny_dataset, monkeypatch, capsys
):
    folder, _ = corrupted

    def not_found(config):
        raise BadInput("config.dataset: /photos does not exist")

    without = replace(tiny_dataset, validation=tiny_dataset.validation[:0])
    monkeypatch.setattr(inference, "load", not_found if reason == "elsewhere" else lambda config: without)
    if reason == "none":
        monkeypatch.setattr(inference, "refuse_other_data", lambda *arguments: None)
    captured = output_of(capsys, "--workdir", workdir, "--on", folder)
    by_number, reason_why = captured.err.splitlines()
    assert by_number.endswith("which count as dark, middle, light")
    assert reason_why.startswith("no temperature: the run")
    assert "at T" not in captured.out
    if reason == "elsewhere":
        assert evaluate.main([f"--workdir={workdir}", f"--on={folder}", "--dataset=/photos"]) == 2


@pytest.mark.parametrize("prepared_in", ["here", "there", "nowhere"])
def test_run_dataset_is_looked_for_in_both_folders_and_never_downloaded(
    prepared_in, workdir, corrupted, tiny_dataset, monkeypatch, capsys
):
    folder, _ = corrupted
    loaded = []

    def load(config):
        loaded.append(config.data_dir)
        return tiny_dataset

    monkeypatch.setattr(inference, "load", load)
    prepared = {"here": ["here"], "there": [None], "nowhere": []}[prepared_in]  # None: the run's folder
    monkeypatch.setattr(tfds, "is_prepared", lambda name, data_dir: data_dir in prepared)
    captured = output_of(capsys, "--workdir", workdir, "--on", folder, "--data_dir=here")
    assert loaded == prepared
    assert ("tiny is not prepared; name the folder that has it with --data_dir" in captured.err) == (not loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on=absent.npy"], "error: --on: .*absent.npy does not exist"),
        (["--on=x", "--split=train"], "error: --split: train is of the run's dataset, which --on replaces; leave out"),
        (["--report=absent/page.html"], "error: --report: there is no folder .*absent; create it, or name another"),
        (["--report=/"], "error: --report: / is a folder; name a file"),
    ],
)
def test_unusable_arguments_are_one_line(arguments, message, workdir, capsys):
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.match(message, captured.err)
