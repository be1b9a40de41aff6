"""`benchmarks.robustness`: its records, and what the page says about them."""

import json
from statistics import fmean

import jax
import numpy as np
import pytest

from benchmarks import publish, robustness, robustness_tables
from benchmarks.corruptions import CORRUPTIONS, corrupt
from cifar_flax import inference, train
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.data import Dataset, Split
from cifar_flax.data.corruptions import BENCHMARK, SEVERITIES
from cifar_flax.errors import BadInput
from cifar_flax.workdir.checksums import add_checksum, of_array
from cifar_flax.workdir.identity import differences, only_adds_epochs

pytestmark = pytest.mark.medium

PUBLISHED = robustness_tables.load()


def split(count, seed):
    """Images [count, 32, 32, 3] of three classes that differ in brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    return Split((rng.integers(0, 100, (count, 32, 32, 3)) + 70 * labels[:, None, None, None]).astype(np.uint8), labels)


def made_up(experiment, clean, temperature):
    """A record in which each severity takes one point of accuracy, and two with corruptions that do not count."""

    def values(accuracy):
        scores = {"loss": 1.5, "brier_score": 0.5, "calibration_error": 0.125}
        scaled = {f"scaled_{name}": value / 2 for name, value in scores.items()} if temperature else {}
        return {"accuracy": accuracy, **scores, **scaled}

    def row(points):
        return {f"{s}": values(clean - points * s / 100) for s in SEVERITIES} | {
            "mean": values(clean - points * 3 / 100)
        }

    machine = {"processor": "a processor", "platform": "cpu", "threads": 2}
    names = ("python", "jax", "numpy", "scipy", "matplotlib", "pillow", "libjpeg-turbo")
    return add_checksum(
        {
            "date": "2000-01-01", "machine": machine | {"versions": dict.fromkeys(names, "1")},
            "experiment": experiment, "seed": 0, "epoch": 3, "run_test_accuracy": clean,
            "run_git_commit": "c" * 40, "run_sha256": "d" * 64, "network_sha256": "a" * 64, "temperature": temperature,
            "clean": values(clean), "benchmark": row(1),
            "corruptions": {name: row(1 if name in BENCHMARK else 2) for name in CORRUPTIONS},
        }
    )  # fmt: skip


@pytest.fixture
def workdir(tiny_config, tmp_path, monkeypatch):
    """A run on images of 32x32. Only two corruptions are measured."""
    monkeypatch.setattr(robustness, "CORRUPTIONS", ("contrast", "saturate"))
    dataset = Dataset(split(64, 0), split(21, 1), split(27, 2), ("dark", "middle", "light"))
    for module in (train, inference):
        monkeypatch.setattr(module, "load", lambda _: dataset)
    tiny_config.augment = "none"
    train.train_and_evaluate(tiny_config, tmp_path / "run", jax.devices()[:1])
    return tmp_path / "run"


def test_record_has_what_the_network_answers_to_corrupted_images(workdir, tmp_path, capsys):
    of_another_network = made_up("tiny", 0.7, 1.25)
    (tmp_path / "tiny.json").write_text(json.dumps(of_another_network))
    command = [str(workdir), f"--output={tmp_path}"]
    assert robustness.main(command) == 0
    [record] = robustness_tables.load(tmp_path)
    classifier, test = inference.load_run(workdir), split(27, 2)
    images = corrupt(test.images, "contrast", 5)
    probabilities = classifier(images)
    measured = record["corruptions"]["contrast"]["5"]
    assert measured["accuracy"] == pytest.approx((probabilities.argmax(-1) == test.labels).mean())
    assert measured["loss"] == pytest.approx(-np.log(probabilities[np.arange(27), test.labels]).mean(), rel=1e-4)
    assert record["images_sha256"]["contrast"][4] == of_array(images)
    assert record["clean"]["accuracy"] == record["run_test_accuracy"] == classifier.run["test_accuracy"]
    assert record["benchmark"]["mean"] == record["corruptions"]["contrast"]["mean"]  # saturate does not count
    assert not differences(record["recipe"], classifier.config)

    capsys.readouterr()
    assert robustness.main(command) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny.json'} exists\n"
    assert robustness.main([str(workdir), *command]) == 2
    assert "second run of tiny" in capsys.readouterr().err


def test_tables_and_figure_show_the_records(tmp_path):
    for record in (made_up("airbench94", 0.9, None), made_up("cnn", 0.7, 1.25)):
        (tmp_path / f"{record['experiment']}.json").write_text(json.dumps(record))
    records = robustness_tables.load(tmp_path)
    sections = robustness_tables.sections(records)
    assert "| `cnn` | 0 | 70.00 | **67.00** | 3.00 | 69.00 | 68.00 | 67.00 | 66.00 | 65.00 |" in sections["robustness"]
    assert "| `fog` | 67.00 | 87.00 |" in sections["robustness by corruption"]  # the reference's experiments come first
    assert "| `saturate` | 64.00 | 84.00 |" in sections["robustness by corruption"]
    scaled = "1.500 → 0.750 | 0.500 → 0.250 | 12.50 → 6.25 |"
    assert f"| `cnn`, corrupted | 1.250 | 67.00 | {scaled}" in sections["calibration"]
    assert "| `airbench94`, clean | none | 90.00 | 1.500 | 0.500 | 12.50 |" in sections["calibration"]
    assert "| `cnn` | 0 | 3 | trained again | 70.00 |" in sections["measured networks"]
    panels = robustness_tables.figure(records).axes
    assert [axis.get_title() for axis in panels][-2:] == ["gaussian blur *", "saturate *"]
    np.testing.assert_allclose(panels[-1].lines[0].get_ydata(), [0.7, 0.68, 0.66, 0.64, 0.62, 0.6])


def test_an_edited_record_is_refused(tmp_path):
    path = tmp_path / "cnn.json"
    path.write_text(json.dumps(made_up("cnn", 0.7, 1.25)).replace("0.7", "0.8"))
    with pytest.raises(BadInput, match=str(path)):
        robustness_tables.load(tmp_path)


def test_without_records_the_page_says_so(tmp_path):
    assert set(robustness_tables.sections(robustness_tables.load(tmp_path)).values()) == {robustness_tables.NO_RECORD}


def test_published_records_are_complete_and_their_numbers_are_on_the_page():
    page = (publish.ROOT / "docs/robustness.md").read_text()
    for record in PUBLISHED:
        recipe = load_experiment(str(publish.ROOT / "experiments" / f"{record['experiment']}.py"))
        recipe.seed = record["seed"]
        assert not differences(record["recipe"], recipe)
        assert not only_adds_epochs(record["recipe"], recipe)
        assert (record["dataset"], record["clean"]["num_images"], record["num_images"]) == ("cifar10", 10_000, 700_000)
        assert (record["temperature"] is None) == (recipe.num_validation == 0)
        assert record["clean"]["accuracy"] == pytest.approx(record["run_test_accuracy"], abs=5e-4)
        assert record["images_sha256"] == PUBLISHED[0]["images_sha256"]
        assert list(record["corruptions"]) == list(CORRUPTIONS)
        rows = [record["corruptions"][name] for name in CORRUPTIONS if name in BENCHMARK]
        mean = fmean(row[f"{severity}"]["accuracy"] for row in rows for severity in SEVERITIES)
        cells = f"| `{record['experiment']}` | {record['seed']} | {100 * record['clean']['accuracy']:.2f} "
        assert f"{cells}| **{100 * mean:.2f}** |" in page
