"""The pictures of the fine-tuning benchmark, its experiment and its results."""

import json

import numpy as np
import pytest

from benchmarks import fine_tuning, five_shapes, table
from cifar_flax.config import base_config
from cifar_flax.data import load
from cifar_flax.data.synthetic import SHAPES
from cifar_flax.main import parse

RECORD = json.loads(fine_tuning.REPORT.read_text())


def test_pictures_are_reproducible_and_differ_between_seeds_and_classes():
    pictures = five_shapes.pictures(2, [0, 0])
    assert pictures.images.shape == (10, 32, 32, 3)
    assert pictures.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_array_equal(pictures.images, five_shapes.pictures(2, [0, 0]).images)
    others = [five_shapes.pictures(2, seed).images for seed in ([1, 0], [0, 1])]
    distinct = {image.tobytes() for images in (pictures.images, *others) for image in images}
    assert len(distinct) == 30
    assert not set(five_shapes.SHAPES) & set(SHAPES)


@pytest.mark.medium
def test_written_pictures_are_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(five_shapes, "NUM_IMAGES", {"train": 4, "test": 2})
    five_shapes.write(tmp_path / "shapes", seed=3)
    config = base_config()
    config.update(dataset=str(tmp_path / "shapes"), num_validation=0)
    dataset = load(config)
    assert dataset.class_names == tuple(five_shapes.SHAPES)
    drawn = five_shapes.pictures(2, [3, 1])
    np.testing.assert_array_equal(dataset.test.images, drawn.images)
    np.testing.assert_array_equal(dataset.test.labels, drawn.labels)
    assert np.bincount(dataset.train.labels).tolist() == [4] * 5


def test_experiment_starts_from_the_demo_and_its_variants_from_nothing():
    config, _ = parse(["--config", "experiments/cnn_finetuned.py"])
    assert (config.init_from, config.dataset) == ("runs/cnn_demo", "runs/five_shapes")
    for variant in ("smoke", "demo"):
        config, _ = parse(["--config", f"experiments/cnn_finetuned.py:{variant}"])
        assert (config.init_from, config.frozen_epochs, config.dataset) == (None, 0.0, "synthetic")


def test_results_contain_all_starts_and_seeds():
    assert [(start["source"], start["title"]) for start in RECORD["starts"]] == [
        (start.source, start.title) for start in fine_tuning.STARTS
    ]
    assert [start["is_experiment"] for start in RECORD["starts"]].count(True) == 1
    assert RECORD["seeds"] == list(fine_tuning.SEEDS)
    assert RECORD["class_names"] == list(five_shapes.SHAPES)
    for start in RECORD["starts"]:
        assert len(start["test_accuracy"]) == len(RECORD["seeds"])


def test_trained_weights_gain_accuracy_with_every_seed():
    by_source = {None: [], "cnn": [], "cnn_augmented": []}
    for start in RECORD["starts"]:
        by_source[start["source"]].append(start["test_accuracy"])
    nothing, trained, augmented = (np.array(accuracies) for accuracies in by_source.values())
    assert (trained.min(axis=0) > nothing.max(axis=0) + 0.1).all()
    assert (augmented.min(axis=0) > trained.max(axis=0)).all()


def test_table_has_mean_deviation_and_interval_of_the_seeds():
    starts = [
        {"source": None, "title": "all layers", "is_experiment": False, "test_accuracy": [0.2, 0.4]},
        {"source": "cnn", "title": "only the output layer", "is_experiment": True, "test_accuracy": [0.7, 0.7]},
    ]
    record = RECORD | {"seeds": [0, 1], "starts": starts}
    text = table.fine_tuning(record)
    assert "| random weights | all layers | **30.00 ± 14.14 %** [-97.06, 157.06] | 20.0, 40.0 |" in text
    assert "| `cnn:demo` | only the output layer | **70.00 ± 0.00 %** [70.00, 70.00] | 70.0, 70.0 |" in text
    assert table.fine_tuning_card(record) == (
        "70.00 ± 0.00 % test accuracy, 30.00 ± 14.14 % from random weights, seeds 0 to 1 (docs/weights.md)"
    )
