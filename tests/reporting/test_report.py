"""The HTML report: it has the numbers of the run, is self-contained, and escapes class names."""

import json
import os
import re
import shutil
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from run_records import ONE_DEVICE, interrupt_after, run_of

from cifar_flax import evaluate, inference, report, train
from cifar_flax.data import Dataset, Split
from cifar_flax.errors import Interrupted
from cifar_flax.inference import load_run
from cifar_flax.reporting import html
from cifar_flax.reporting.calibration import calibrate

pytestmark = pytest.mark.medium


class Page(HTMLParser):
    """The text and table cells of a page, and the URLs in it."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.urls, self.text, self._open = [], [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.urls += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data.strip()


@pytest.fixture
def train_run(tiny_config, tiny_dataset, tmp_path, monkeypatch):
    """A function that trains the tiny network and returns its workdir, which is named after the seed."""

    def run(seed=0, dataset=tiny_dataset, **fields):
        monkeypatch.setattr(train, "load", lambda config: dataset)
        monkeypatch.setattr(inference, "load", lambda config: dataset)
        tiny_config.update(seed=seed, **fields)
        train.train_and_evaluate(tiny_config, tmp_path / f"seed{seed}", ONE_DEVICE)
        return tmp_path / f"seed{seed}"

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def copy_run(train_run, trained, tiny_dataset, tmp_path, monkeypatch):
    """A function that copies the run of a seed to `tmp_path`. Each seed is trained once for all tests."""
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)

    def copy(seed=0):
        name = f"seed{seed}"
        if not (trained / name).exists():
            train_run(seed).rename(trained / name)
        return shutil.copytree(trained / name, tmp_path / name)

    return copy


def page_of(capsys, *arguments):
    capsys.readouterr()
    assert report.main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    return Page(report.Path(re.fullmatch(r"report      (\S+)\n", out)[1]))


def test_report_of_a_run_has_its_numbers_and_is_self_contained(train_run, tiny_dataset, capsys):
    workdir = train_run()
    page = page_of(capsys, workdir)
    assert (workdir / "report.html").exists()
    assert f"{run_of(workdir)['test_accuracy']:.2%} test accuracy." in page.text
    assert page.urls
    assert all(url.startswith("data:") for url in page.urls)
    assert "http://" not in (workdir / "report.html").read_text().replace("http://www.w3.org", "")

    accuracies = evaluate.evaluate(load_run(workdir), tiny_dataset.test)["accuracy_by_class"]
    rows = {row[0]: row for row in page.rows if row and row[0] in accuracies and "%" in row[1]}
    assert {name: row[1] for name, row in rows.items()} == {
        name: f"{accuracy:.1%}" for name, accuracy in accuracies.items()
    }
    counts = np.array([row[1:] for row in page.rows if row[0] in accuracies and row not in rows.values()], int)
    assert counts.sum(1).tolist() == np.bincount(tiny_dataset.test.labels).tolist()
    assert np.trace(counts) / counts.sum() == pytest.approx(run_of(workdir)["test_accuracy"])
    assert all(field in page.text for field in ("label_smoothing", "processor", "orbax-checkpoint"))


def test_most_confident_mistakes_are_shown_in_order_of_confidence(train_run, tiny_dataset):
    classifier = load_run(train_run())
    probabilities = classifier(tiny_dataset.test.images)
    wrong = probabilities.argmax(-1) != tiny_dataset.test.labels
    page = html.report_of_run(classifier, tiny_dataset.test, "test", [*report.open_started_run(train_run()).epochs()])
    shown = page.partition("Most confident mistakes")[2].partition("<h2>")[0]
    confidences = [float(text) for text in re.findall(r"<br>([\d.]+)%", shown)]
    expected = sorted(probabilities.max(-1)[wrong].tolist(), reverse=True)
    assert confidences == [round(100 * confidence, 1) for confidence in expected][:16]
    assert shown.count("✗") == len(confidences)
    assert "✓" not in shown


def test_report_of_an_unfinished_run_uses_the_validation_images(train_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0.0)
    interrupt_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        train_run()
    text = page_of(capsys, tmp_path / "seed0").text
    accuracy = json.loads((tmp_path / "seed0" / "metrics.jsonl").read_text())["validation_accuracy"]
    assert f"{accuracy:.2%} validation accuracy so far; the run is interrupted" in text


def test_runs_of_another_origin_are_not_averaged():
    configs, runs = {"seed": 0}, [{"status": "done", "experiment": "cnn", "seed": 0, "test_accuracy": 0.5}] * 2
    same, imported = ([SimpleNamespace(config=configs, run=run) for run in runs] for _ in range(2))
    assert len(html.means(dict(enumerate(same)))) == 1
    imported[1].run = runs[1] | {"imported_from": {"file": "model.keras", "sha256": "0"}}
    assert html.means(dict(enumerate(imported))) == []


def test_report_of_several_runs_compares_them_and_averages_seeds(train_run, copy_run, capsys, tmp_path):
    workdirs = [copy_run(seed) for seed in (0, 1, 2)] + [train_run(3, learning_rate=0.01)]
    page = page_of(capsys, *workdirs, "--out", tmp_path / "all.html")
    header, *rows = page.rows
    accuracies = [run_of(workdir)["test_accuracy"] for workdir in workdirs]
    assert [row[header.index("test")] for row in rows] == [f"{accuracy:.2%}" for accuracy in accuracies]
    assert [row[header.index("run")] for row in rows] == ["seed0", "seed1", "seed2", "seed3"]
    mean, deviation = 100 * statistics.fmean(accuracies[:3]), 100 * statistics.stdev(accuracies[:3])
    assert f"{mean:.2f} ± {deviation:.2f} % test accuracy (seeds 0 to 2;" in page.text  # seed 3 has another recipe
    assert all(url.startswith("data:") for url in page.urls)


@pytest.mark.parametrize("channels", [1, 3])
def test_class_names_are_escaped_and_gray_images_are_shown(train_run, tiny_dataset, capsys, channels):
    names = ("<script>alert(1)</script>", "$5 & $^{", "\N{SNOWMAN}")
    splits = (
        Split(split.images[..., :channels], split.labels)
        for split in (tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test)
    )
    workdir = train_run(dataset=Dataset(*splits, names))
    page = page_of(capsys, workdir)
    assert "<script" not in (workdir / "report.html").read_text()
    assert set(names) <= {row[0] for row in page.rows}


def test_confusion_matrix_of_many_classes_is_a_figure(train_run, tiny_dataset, capsys):
    page = page_of(capsys, train_run(dataset=replace(tiny_dataset, class_names=tuple(f"class {i}" for i in range(21)))))
    assert max(len(row) for row in page.rows) == 4
    assert sum(url.startswith("data:image/svg") for url in page.urls) == 4


@pytest.mark.parametrize("kind", ["missing", "no_epochs", "damaged", "not_numbers", "no_folder", "pipe"])
@pytest.mark.parametrize("count", [1, 3])
def test_unusable_run_or_output_exits_with_code_2_and_one_line(copy_run, capsys, tmp_path, monkeypatch, kind, count):
    monkeypatch.chdir(tmp_path)
    workdir, arguments = copy_run(), []
    if kind == "missing":
        workdir = tmp_path / "missing"
    elif kind == "no_folder":
        arguments = ["--out", str(tmp_path / "none" / "report.html")]
    elif kind == "pipe":
        os.mkfifo("pipe.html")
        arguments = ["--out", "pipe.html"]
    elif kind == "no_epochs":
        (workdir / "metrics.jsonl").write_text("")
    else:
        (workdir / "metrics.jsonl").write_text("{" if kind == "damaged" else '{"epoch": 1}\n')
    capsys.readouterr()
    others = [str(copy_run(seed)) for seed in range(1, count)]
    capsys.readouterr()
    assert report.main([str(workdir), *others, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str({"no_folder": tmp_path / "none", "pipe": tmp_path / "pipe.html"}.get(kind, workdir)) in err
    assert not (workdir / "report.html").exists()
    if others and not arguments:  # the page of the others is written
        assert [row[0] for row in Page(tmp_path / "report.html").rows] == ["run", "seed1", "seed2"]
    elif kind == "pipe":
        assert (tmp_path / "pipe.html").is_fifo()


def test_each_unusable_run_is_a_line(train_run, capsys, tmp_path):
    arguments = [str(tmp_path / name) for name in ("none", "seed0", "nothing")]
    train_run()
    capsys.readouterr()
    assert report.main([*arguments, f"--out={tmp_path / 'all.html'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        f"error: --workdir: there is no run in {arguments[0]}",
        f"error: --workdir: there is no run in {arguments[2]}",
    ]
    assert [row[0] for row in Page(tmp_path / "all.html").rows] == ["run", "seed0"]
    assert report.main([arguments[0], arguments[2], f"--out={tmp_path / 'none.html'}"]) == 2
    assert not (tmp_path / "none.html").exists()


def test_calibration_matches_values_computed_by_hand():
    # bins (0, 1/2] and (1/2, 1]: confidences 0.4 and 0.5, one correct; 0.6, 0.8 and 1.0, all correct
    confidences, correct = np.array([0.4, 0.5, 0.6, 0.8, 1.0]), np.array([True, False, True, True, True])
    probabilities = np.stack(
        [confidences, 1 - confidences - 0.3 * (confidences <= 0.5), 0.3 * (confidences <= 0.5)], -1
    )
    calibration = calibrate(probabilities, np.where(correct, 0, 1), num_bins=2)
    assert calibration.num_images.tolist() == [2, 3]
    assert calibration.accuracy.tolist() == [0.5, 1.0]
    assert calibration.confidence.tolist() == pytest.approx([0.45, 0.8])
    assert calibration.error == pytest.approx((2 * 0.05 + 3 * 0.2) / 5)
