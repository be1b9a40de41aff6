"""What the drawings are made for: the experiments stand apart on them as they do on photographs."""

from pathlib import Path

import jax
import pytest

from cifar_flax.main import parse
from cifar_flax.train import train_and_evaluate

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.mark.slow
def test_the_experiments_stand_apart_on_the_drawings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracy = {}
    for name in ("mlp", "cnn", "cnn_augmented"):
        config, workdir = parse(["--config", f"{EXPERIMENTS}/{name}.py:demo"])
        accuracy[name] = train_and_evaluate(config, workdir, jax.devices()[:1])["test_accuracy"]
    assert accuracy["mlp"] + 0.08 < accuracy["cnn"]
    assert accuracy["cnn"] + 0.08 < accuracy["cnn_augmented"]
    assert max(accuracy.values()) < 0.97
