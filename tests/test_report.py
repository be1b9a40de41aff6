"""The report: numbers of the run, nothing to fetch, nothing that a name could break."""

import json
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from run_records import interrupt_after, run_of

from cifar_flax import evaluate, report, train
from cifar_flax.data import Dataset, Split
from cifar_flax.errors import Interrupted
from cifar_flax.inference import load_run
from cifar_flax.reporting import html
from cifar_flax.reporting.calibration import calibrate

ONE = jax.devices()[:1]


class Page(HTMLParser):
    """The text of a page's cells, rows by rows, and what it refers to."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.references, self.text, self._open = [], [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
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
def trained(tiny_config, tiny_dataset, tmp_path, monkeypatch):
    """Trains the tiny network, in a folder by the seed, on another dataset if one is given."""

    def run(seed=0, dataset=tiny_dataset, **fields):
        monkeypatch.setattr(train, "load", lambda config: dataset)
        for command in (evaluate, report):
            monkeypatch.setattr(command, "load", lambda config: dataset)
        tiny_config.update(seed=seed, **fields)
        train.train_and_evaluate(tiny_config, tmp_path / f"seed{seed}", ONE)
        return tmp_path / f"seed{seed}"

    return run


def page_of(capsys, *arguments):
    capsys.readouterr()
    assert report.main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    return Page(report.Path(re.fullmatch(r"report      (\S+)\n", out)[1]))


def test_the_page_of_a_run_has_its_numbers_and_fetches_nothing(trained, tiny_dataset, capsys):
    workdir = trained()
    page = page_of(capsys, workdir)
    assert (workdir / "report.html").exists()
    assert f"{run_of(workdir)['test_accuracy']:.2%} of the test images are right." in page.text
    assert page.references
    assert all(reference.startswith("data:") for reference in page.references)
    assert "http://" not in (workdir / "report.html").read_text().replace("http://www.w3.org", "")

    found = evaluate.evaluate(load_run(workdir), tiny_dataset.test)["accuracy_by_class"]
    rows = {row[0]: row for row in page.rows if row and row[0] in found and "%" in row[1]}
    assert {name: row[1] for name, row in rows.items()} == {name: f"{share:.1%}" for name, share in found.items()}
    counts = np.array([row[1:] for row in page.rows if row[0] in found and row not in rows.values()], int)
    assert counts.sum(1).tolist() == np.bincount(tiny_dataset.test.labels).tolist()
    assert np.trace(counts) / counts.sum() == pytest.approx(run_of(workdir)["test_accuracy"])
    assert all(field in page.text for field in ("label_smoothing", "processor", "orbax-checkpoint"))


def test_the_most_confident_mistakes_come_first_and_are_mistakes(trained, tiny_dataset):
    classifier = load_run(trained())
    probabilities = classifier(tiny_dataset.test.images)
    wrong = probabilities.argmax(-1) != tiny_dataset.test.labels
    page = html.report_of_run(classifier, tiny_dataset.test, "test", [*report._records(trained()).epochs()])
    shown = page.partition("Most confident mistakes")[2].partition("<h2>")[0]
    sure = [float(found) for found in re.findall(r"([\d.]+)% sure", shown)]
    assert sure == [round(100 * share, 1) for share in sorted(probabilities.max(-1)[wrong].tolist())[::-1]][:16]
    assert shown.count("✗") == len(sure)
    assert "✓" not in shown


def test_an_unfinished_run_is_asked_the_validation_images(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "PIECE_SECONDS", 0.0)
    interrupt_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        trained()
    text = page_of(capsys, tmp_path / "seed0").text
    share = json.loads((tmp_path / "seed0" / "metrics.jsonl").read_text())["validation_accuracy"]
    assert f"{share:.2%} of the validation images are right so far: the run is interrupted" in text


def test_several_runs_are_compared_and_seeds_are_averaged(trained, capsys, tmp_path):
    workdirs = [trained(seed) for seed in (0, 1, 2)] + [trained(3, learning_rate=0.01)]
    page = page_of(capsys, *workdirs, "--out", tmp_path / "all.html")
    header, *rows = page.rows
    accuracies = [run_of(workdir)["test_accuracy"] for workdir in workdirs]
    assert [row[header.index("test")] for row in rows] == [f"{share:.2%}" for share in accuracies]
    assert [row[header.index("run")] for row in rows] == ["seed0", "seed1", "seed2", "seed3"]
    mean, deviation = 100 * statistics.fmean(accuracies[:3]), 100 * statistics.stdev(accuracies[:3])
    assert f"{mean:.2f} ± {deviation:.2f} % of the test images (seeds 0 to 2;" in page.text  # seed 3: another recipe
    assert all(reference.startswith("data:") for reference in page.references)


@pytest.mark.parametrize("channels", [1, 3])
def test_names_are_text_and_grey_images_are_shown(trained, tiny_dataset, capsys, channels):
    names = ("<script>alert(1)</script>", "$5 & $^{", "\N{SNOWMAN}")
    splits = (
        Split(split.images[..., :channels], split.labels)
        for split in (tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test)
    )
    workdir = trained(dataset=Dataset(*splits, names))
    page = page_of(capsys, workdir)
    assert "<script" not in (workdir / "report.html").read_text()
    assert set(names) <= {row[0] for row in page.rows}


def test_a_confusion_matrix_of_many_classes_is_a_picture(trained, tiny_dataset, capsys):
    page = page_of(capsys, trained(dataset=replace(tiny_dataset, class_names=tuple(f"class {i}" for i in range(21)))))
    assert max(len(row) for row in page.rows) == 4
    assert sum(reference.startswith("data:image/svg") for reference in page.references) == 4


@pytest.mark.parametrize("kind", ["nothing", "no_epoch", "damaged", "not_numbers", "no_folder"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_mistake_is_one_line_and_exit_code_2(trained, capsys, tmp_path, kind, count):
    workdir, arguments = trained(), []
    if kind == "nothing":
        workdir = tmp_path / "nothing"
    elif kind == "no_folder":
        arguments = ["--out", str(tmp_path / "none" / "report.html")]
    elif kind == "no_epoch":
        (workdir / "metrics.jsonl").write_text("")
    else:
        (workdir / "metrics.jsonl").write_text("{" if kind == "damaged" else '{"epoch": 1}\n')
    capsys.readouterr()
    other = [str(trained(1))] * (count - 1)
    capsys.readouterr()
    assert report.main([str(workdir), *other, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(tmp_path / "none") in err if kind == "no_folder" else str(workdir) in err
    assert not (workdir / "report.html").exists()


def test_calibration_by_hand():
    # bins (0, 1/2] and (1/2, 1]: confidences 0.4 and 0.5, one right; 0.6, 0.8 and 1.0, all right
    largest, right = np.array([0.4, 0.5, 0.6, 0.8, 1.0]), np.array([True, False, True, True, True])
    probabilities = np.stack([largest, 1 - largest - 0.3 * (largest <= 0.5), 0.3 * (largest <= 0.5)], -1)
    found = calibrate(probabilities, np.where(right, 0, 1), num_bins=2)
    assert found.num_images.tolist() == [2, 3]
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert found.confidence.tolist() == pytest.approx([0.45, 0.8])
    assert found.error == pytest.approx((2 * 0.05 + 3 * 0.2) / 5)
