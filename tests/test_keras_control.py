"""The control in Keras itself: its records, and what the tables conclude from them."""

import json

import numpy as np
import pytest

from benchmarks import control, intervals, keras_control
from cifar_flax.data import Dataset, Split
from cifar_flax.errors import BadInput
from cifar_flax.workdir.checksums import add_checksum

MACHINE = {"processor": "a processor", "threads": 1, "versions": {"python": "3", "keras": "3"}}
REFERENCE = {"mlp": {"test_accuracy": 0.75}}
OURS = {"mlp": [{"test_accuracy": a, "best_validation_loss": 2 - a} for a in (0.7, 0.71)]}


def write_records(folder, accuracies):
    for seed, accuracy in enumerate(accuracies):
        epochs = {
            "loss": [2.0, 1.0, 1.0],
            "accuracy": [0.1] * 3,
            "val_loss": [3.0, 2.0 + seed / 100, 2.0 + seed / 100],
            "val_accuracy": [0.1] * 3,
        }
        fields = {"experiment": "mlp", "seed": seed, "test_accuracy": accuracy, "fit_seconds": 1.0, "machine": MACHINE}
        record = fields | keras_control.best_epoch(epochs) | {"epochs": keras_control.epochs(epochs)}
        path = folder / "mlp" / f"seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(add_checksum(record)))


def test_interval_and_p_value_are_those_of_students_t():
    low, high = intervals.prediction_interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose([low, high], [2 - 4.302653 * np.sqrt(4 / 3), 2 + 4.302653 * np.sqrt(4 / 3)], rtol=1e-6)
    assert intervals.p_value(high, [1.0, 2.0, 3.0]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("accuracies", "verdict"), [([0.5, 0.7, 0.8, 0.9, 0.6], "within"), ([0.5] * 4 + [0.51], "outside")]
)
def test_conclusion_is_drawn_when_all_seeds_are_there(tmp_path, accuracies, verdict):
    write_records(tmp_path, accuracies[:4])
    text = control.details(control.load(tmp_path), OURS, REFERENCE)
    assert "(4) | 70.50 ± 0.71 % [64.15, 76.85] (2) |" in text
    assert "| `mlp` | 3 | 2 of 3 |" in text  # of two equal losses the first
    assert "interval" not in text
    write_records(tmp_path, accuracies)
    text = control.details(control.load(tmp_path), OURS, REFERENCE)
    assert f"75.00 % is {verdict} Keras' interval" in text
    assert "-0.725 (" in text  # (1.3 + 1.29) / 2 - 2.02, the difference of the losses


def test_edited_record_is_refused(tmp_path):
    write_records(tmp_path, [0.5])
    [path] = tmp_path.glob("*/*")
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(BadInput, match=str(path)):
        control.load(tmp_path)


def test_published_records_follow_the_recipe():
    for name, records in control.load().items():
        for record in records:
            counts = [record[f"num_{split}_examples"] for split in ("train", "validation", "test")]
            assert (counts, len(record["epochs"])) == ([45_000, 5_000, 10_000], 20)
            assert record["trainable_parameters"] == {"mlp": 3_590_642}.get(name, 528_054)
            best = record["epochs"][record["best_epoch"] - 1]
            assert best["validation_loss"] == min(line["validation_loss"] for line in record["epochs"])
        assert [record["seed"] for record in records] == list(range(len(records)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras uses old names of SciPy
def test_keras_trains_augmented_images_and_tests_the_best_epoch():
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    images = np.random.default_rng(0).integers(0, 256, (72, 32, 32, 3), np.uint8)
    train, other = (Split(images, np.full(72, label, np.int32)) for label in (1, 2))
    record = keras_control.train("cnn_augmented", 0, Dataset(train, other, other, tuple("abcdefghij")), num_epochs=2)
    assert record["trainable_parameters"] == 528_054
    assert record["adam"] == pytest.approx({"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7})
    first, second = (line["validation_loss"] for line in record["epochs"])
    assert first < second  # the other label becomes less and less likely
    assert record["best_epoch"] == 1
    assert record["test_loss"] == pytest.approx(first, rel=1e-5)
