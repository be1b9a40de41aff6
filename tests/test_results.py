"""Every published number is that of a committed run record, and the records are of the committed recipes."""

import json
import math
import re
import statistics

import jax
import numpy as np
import pytest

from benchmarks import accuracy, publish
from cifar_flax import train
from cifar_flax.config import differences, extends, load_experiment
from cifar_flax.errors import BadInput
from cifar_flax.workdir import checksums

FOUND = accuracy.experiments(publish.RESULTS)
RUNS = [records for runs in FOUND.values() for records in runs]


def test_what_is_published_is_what_the_records_give():
    differing = [str(path) for path, text in publish.published().items() if path.read_text() != text]
    assert differing == [], "make results, and look at what it changes"


def test_every_table_and_every_card_is_a_generated_one():
    pages = "".join((publish.ROOT / page).read_text() for page in publish.PAGES)
    for name in publish.tables(FOUND, accuracy.reference(publish.RESULTS)):
        assert pages.count(f"<!-- {name}: make results -->") == pages.count(f"<!-- end of {name} -->") == 1
    for path in (publish.ROOT / "experiments").glob("*.py"):
        assert len(re.findall(r"^Result: ", path.read_text(), re.MULTILINE)) == 1


def test_the_readme_says_the_mean_and_deviation_of_the_records():
    readme = (publish.ROOT / "README.md").read_text()
    for name, runs in FOUND.items():
        found = [json.loads((records.workdir / "run.json").read_text())["test_accuracy"] for records in runs]
        mean = f"{100 * statistics.fmean(found):.2f}"
        spread = f" ± {100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
        assert f"| `{name}` | {mean}{spread} % | {len(found)} |" in readme


@pytest.mark.parametrize("records", RUNS, ids=lambda records: "-".join(records.workdir.parts[-2:]))
def test_a_record_is_of_the_committed_recipe_and_whole(records):
    name, seed = records.workdir.parts[-2:]
    assert (records.run["experiment"], f"seed{records.run['seed']}") == (name, seed)
    recipe = load_experiment(str(publish.ROOT / "experiments" / f"{name}.py"))
    recipe.seed = records.run["seed"]
    assert not differences(records.config, recipe)
    assert not extends(records.config, recipe)
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
    assert sorted(path.name for path in records.workdir.iterdir()) == sorted(accuracy.FILES)


def test_the_reference_is_complete():
    for name, theirs in accuracy.reference(publish.RESULTS).items():
        assert [line["epoch"] for line in theirs["epochs"]] == list(range(1, 21))
        best = min(theirs["epochs"], key=lambda line: line["validation_loss"])
        assert best["validation_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.02), name


@pytest.fixture
def workdir(tiny_config, tmp_path):
    train.train_and_evaluate(tiny_config, tmp_path / "run", jax.devices()[:1])
    return tmp_path / "run"


def test_a_finished_run_is_taken_over_as_it_is(workdir, tmp_path):
    accuracy.take_over(workdir, tmp_path / "results")
    for name in accuracy.FILES:
        taken = tmp_path / "results" / "tiny" / "seed0" / name
        assert taken.read_bytes() == (workdir / name).read_bytes()
    [[records]] = accuracy.experiments(tmp_path / "results").values()
    figure = accuracy.curves([records], None)
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_array_equal(
        drawn, [[line[f"{s}_loss"] for line in records.epochs()] for s in ("train", "validation")]
    )


@pytest.mark.parametrize("kind", ["unfinished", "edited", "edited_epochs"])
def test_a_run_that_is_not_as_it_was_left_is_not_published(workdir, tmp_path, kind):
    run = json.loads((workdir / "run.json").read_text())
    if kind == "unfinished":
        (workdir / "run.json").write_text(json.dumps(checksums.seal(run | {"status": "running"})))
    elif kind == "edited":
        (workdir / "run.json").write_text(json.dumps(run | {"test_accuracy": 0.99}))
    else:
        (workdir / "metrics.jsonl").write_text((workdir / "metrics.jsonl").read_text().replace("0.", "0.9", 1))
    with pytest.raises(BadInput, match=str(workdir)):
        accuracy.take_over(workdir, tmp_path / "results")
    assert not (tmp_path / "results").exists()
