"""The experiments differ in accuracy on synthetic images as they do on photographs."""

from pathlib import Path

import jax
import pytest

from cifar_flax.main import parse
from cifar_flax.train import train_and_evaluate

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
def test_experiments_differ_in_accuracy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracy = {}
    for name in ("mlp", "cnn", "cnn_augmented"):
        config, workdir = parse(["--config", f"{EXPERIMENTS}/{name}.py:demo"])
        accuracy[name] = train_and_evaluate(config, workdir, jax.devices()[:1])["test_accuracy"]
    assert accuracy["mlp"] + 0.08 < accuracy["cnn"]
    assert accuracy["cnn"] + 0.08 < accuracy["cnn_augmented"]
    assert max(accuracy.values()) < 0.97


@pytest.mark.slow
def test_bfloat16_learns_as_well_as_float32(tmp_path):
    accuracy = {}
    for dtype in ("float32", "bfloat16"):
        overrides = [f"--config.dtype={dtype}", "--config.num_epochs=3"]
        config, _ = parse(["--config", f"{EXPERIMENTS}/cnn.py:demo", *overrides])
        accuracy[dtype] = train_and_evaluate(config, tmp_path / dtype, jax.devices()[:1])["best_validation_accuracy"]
    assert accuracy["float32"] > 0.6
    assert abs(accuracy["bfloat16"] - accuracy["float32"]) < 0.05
