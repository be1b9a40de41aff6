"""Published numbers match the committed run records, and the records match the committed experiments."""

import json
import math
import re
import statistics
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import accuracy, accuracy_figures, publish
from benchmarks.intervals import mean_with_interval
from cifar_flax import train
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.errors import BadInput
from cifar_flax.workdir import checksums
from cifar_flax.workdir.identity import differences, only_adds_epochs

pytestmark = pytest.mark.medium

ALL_RUNS = accuracy.load_runs(publish.RESULTS)
RECORDS = [records for runs in ALL_RUNS.values() for records in runs]


def test_published_files_match_the_records():
    differing = [str(path) for path, text in publish.published_files().items() if path.read_text() != text]
    assert differing == [], "run `make results` and review what it changes"


def test_all_sections_and_cards_are_generated():
    pages = "".join((publish.ROOT / page).read_text() for page in publish.PAGES)
    for name in publish.tables(ALL_RUNS, accuracy.load_reference(publish.RESULTS)):
        assert pages.count(f"<!-- {name}: make results -->") == pages.count(f"<!-- end of {name} -->") == 1
    for path in (publish.ROOT / "experiments").glob("*.py"):
        assert len(re.findall(r"^Result: ", path.read_text(), re.MULTILINE)) == 1


def test_readme_has_mean_and_standard_deviation_of_the_records():
    readme = (publish.ROOT / "README.md").read_text()
    for name, runs in ALL_RUNS.items():
        accuracies = [json.loads((records.workdir / "run.json").read_text())["test_accuracy"] for records in runs]
        mean = f"{100 * statistics.fmean(accuracies):.2f}"
        deviation = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        assert re.search(rf"\| `{name}` \| {mean}{deviation} %( \[.*\])? \| {len(accuracies)} \|", readme)


def test_a_mean_has_the_interval_of_students_t():
    """The half width is t(0.975, 2 degrees of freedom) = 4.303 times the deviation, 0.01, over sqrt(3)."""
    assert mean_with_interval([0.70, 0.71, 0.72]) == "71.00 ± 1.00 % [68.52, 73.48]"
    assert mean_with_interval([0.70, 0.71, 0.72], bold=True) == "**71.00 ± 1.00 %** [68.52, 73.48]"
    assert mean_with_interval([0.7]) == "70.00 %"
    assert mean_with_interval([0.7, None]) == "none"


def test_sentence_on_the_seeds_of_muon_has_the_p_value_of_a_one_sided_test(monkeypatch):
    """The mean is 0.0010 above the goal and its standard error 0.0004: t = 2.5 with 3 degrees of freedom."""
    monkeypatch.setattr(accuracy, "MUON_SEEDS", range(4))
    accuracies = [0.9390, 0.9398, 0.9402, 0.9410]
    deviation = statistics.stdev(accuracies)
    accuracies = [0.94 + (value - 0.94) * 0.0008 / deviation for value in accuracies]

    def run(seed):
        record = {"seed": seed, "test_accuracy": 0.93, "tta_test_accuracy": accuracies[seed], "train_seconds": 3600}
        return SimpleNamespace(run=record, epochs=lambda: [{"epoch_seconds": 150 + seed}, {"epoch_seconds": 300}])

    unfinished = accuracy.muon({accuracy.MUON: [run(0), run(2)]})
    assert unfinished.startswith("2 of the 4 runs have ended. Still missing: seeds 1, 3. ")
    text = accuracy.muon({accuracy.MUON: [run(seed) for seed in range(4)]})
    assert "94.00 ± 0.08 %** [93.87, 94.13] with test-time augmentation" in text
    assert "p = 0.044 (" in text
    assert "fastest of the 8 epochs took 150 s on one CPU. At this speed a run takes 5 minutes. These took 60" in text


@pytest.mark.parametrize("records", RECORDS, ids=lambda records: "-".join(records.workdir.parts[-2:]))
def test_record_is_complete_and_matches_its_experiment(records):
    name, seed = records.workdir.parts[-2:]
    assert (records.run["experiment"], f"seed{records.run['seed']}") == (name, seed)
    recipe = load_experiment(str(publish.ROOT / "experiments" / f"{name}.py"))
    recipe.seed = records.run["seed"]
    assert not differences(records.config, recipe)
    assert not only_adds_epochs(records.config, recipe)
    counts = [records.run[f"num_{split}_examples"] for split in ("train", "validation", "test")]
    assert counts == [50_000 - recipe.num_validation, recipe.num_validation, 10_000]
    epochs = records.epochs()
    assert [line["epoch"] for line in epochs] == list(range(1, math.ceil(recipe.num_epochs) + 1))
    best = min(epochs, key=lambda line: line["validation_loss"]) if recipe.num_validation else epochs[-1]
    assert best["epoch"] == records.run["best_epoch"]
    assert best.get("validation_accuracy") == records.run["best_validation_accuracy"]
    assert ("tta_test_accuracy" in records.run) == (recipe.tta != "none")
    for field in ("test_accuracy", "tta_test_accuracy"):
        correct = 10_000 * records.run.get(field, 0)
        assert correct == pytest.approx(round(correct), abs=1e-2)
    assert sorted(path.name for path in records.workdir.iterdir()) == sorted(accuracy.RECORD_FILES)


def test_reference_is_complete():
    for name, reference in accuracy.load_reference(publish.RESULTS).items():
        assert [line["epoch"] for line in reference["epochs"]] == list(range(1, 21))
        best = min(reference["epochs"], key=lambda line: line["validation_loss"])
        assert best["validation_accuracy"] == pytest.approx(reference["test_accuracy"], abs=0.02), name


@pytest.fixture
def workdir(tiny_config, tmp_path):
    train.train_and_evaluate(tiny_config, tmp_path / "run", jax.devices()[:1])
    return tmp_path / "run"


def test_copy_records_copies_a_finished_run_unchanged(workdir, tmp_path):
    accuracy.copy_records(workdir, tmp_path / "results")
    for name in accuracy.RECORD_FILES:
        copied = tmp_path / "results" / "tiny" / "seed0" / name
        assert copied.read_bytes() == (workdir / name).read_bytes()
    [[records]] = accuracy.load_runs(tmp_path / "results").values()
    figure = accuracy_figures.curves([records], None)
    plotted = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_array_equal(
        plotted, [[line[f"{s}_loss"] for line in records.epochs()] for s in ("train", "validation")]
    )


@pytest.mark.parametrize("kind", ["unfinished", "edited", "edited_epochs"])
def test_copy_records_refuses_unfinished_and_edited_runs(workdir, tmp_path, kind):
    run = json.loads((workdir / "run.json").read_text())
    if kind == "unfinished":
        (workdir / "run.json").write_text(json.dumps(checksums.add_checksum(run | {"status": "running"})))
    elif kind == "edited":
        (workdir / "run.json").write_text(json.dumps(run | {"test_accuracy": 0.99}))
    else:
        (workdir / "metrics.jsonl").write_text((workdir / "metrics.jsonl").read_text().replace("0.", "0.9", 1))
    with pytest.raises(BadInput, match=str(workdir)):
        accuracy.copy_records(workdir, tmp_path / "results")
    assert not (tmp_path / "results").exists()
