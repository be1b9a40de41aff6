"""The benchmark's own numbers: counted work, our contestant, and every round kept."""

import json

import numpy as np
import pytest

from benchmarks import contestants, publish, roofline


@pytest.mark.parametrize(
    ("network", "operations", "parameters"),
    [
        # forward 2 x 32 images x inputs x outputs; the gradients cost as much again each, but the images' has no use
        ("mlp", 2 * 32 * (2 * 3072 * 1000 + 3 * 1000 * 512 + 3 * 512 * 10), 3_590_642),
        (
            "cnn",
            2 * 32 * (2 * 1024 * 12 * 16 + 3 * (256 * 64 * 32 + 64 * 128 * 64) + 3 * (1024 * 500 + 500 * 10)),
            528_054,
        ),
        ("alexnet", 16_415_981_568, 21_591_114),
        # whitening's kernel is fixed; what a pooling drops is not computed
        (
            "airbench94",
            2 * 32 * 961 * 12 * 24
            + 3 * 2 * 32 * 9 * (900 * 24 * 64 + 225 * 64 * 64 + 196 * 64 * 256 + (49 + 36 + 9) * 256 * 256)
            + 3 * 2 * 32 * 256 * 10,
            1_971_352,
        ),
    ],
)
def test_the_work_of_a_step_is_counted_from_its_shapes(network, operations, parameters):
    work = roofline.training_step(network, 32)
    assert work.operations == operations
    assert work.bytes == (20 if network == contestants.AIRBENCH else 28) * parameters


def test_our_contestant_trains_past_an_epoch_and_evaluates():
    random = np.random.default_rng(0)
    labels = np.arange(96, dtype=np.int32) % 10
    pictures = random.integers(0, 256, (96, 32, 32, 3), np.uint8)
    ours = contestants.build(contestants.US, "mlp", contestants.Images(pictures, labels, pictures, labels), 32)
    ours.train(40)
    assert ours.num_parameters == 3_590_642
    assert ours.evaluate() > 0.5  # by heart


def test_a_record_keeps_every_round_of_everyone():
    record = json.loads((publish.RESULTS / "speed_cpu.json").read_text())
    assert set(record["networks"]) == {"mlp", "cnn", "alexnet"}
    for network in record["networks"].values():
        assert set(contestants.CONTESTANTS) - {contestants.AUGMENTED} <= set(network["contestants"])
        for measured in network["contestants"].values():
            assert len(measured["train"]) == len(measured["evaluate"]) >= 3
    [airbench] = json.loads((publish.RESULTS / "speed_airbench94_cpu.json").read_text())["networks"].values()
    assert set(airbench["contestants"]) == set(contestants.OF_AIRBENCH)
    assert min(len(measured["train"]) for measured in airbench["contestants"].values()) >= 3
