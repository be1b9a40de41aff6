"""The benchmarks: the work counted for a step, our contestant, and the recorded rounds."""

import json

import numpy as np
import pytest

from benchmarks import contestants, costs, publish, roofline

pytestmark = pytest.mark.medium


@pytest.mark.parametrize(
    ("network", "operations", "parameters"),
    [
        # forward pass and both gradients: 2 x 32 images x inputs x outputs each; the images need no gradient
        ("mlp", 2 * 32 * (2 * 3072 * 1000 + 3 * 1000 * 512 + 3 * 512 * 10), 3_590_642),
        (
            "cnn",
            2 * 32 * (2 * 1024 * 12 * 16 + 3 * (256 * 64 * 32 + 64 * 128 * 64) + 3 * (1024 * 500 + 500 * 10)),
            528_054,
        ),
        ("alexnet", 16_415_981_568, 21_591_114),
        # the whitening kernel is fixed; outputs that a pooling drops are not computed
        (
            "airbench94",
            2 * 32 * 961 * 12 * 24
            + 3 * 2 * 32 * 9 * (900 * 24 * 64 + 225 * 64 * 64 + 196 * 64 * 256 + (49 + 36 + 9) * 256 * 256)
            + 3 * 2 * 32 * 256 * 10,
            1_971_352,
        ),
    ],
)
def test_training_step_counts_work_from_shapes(network, operations, parameters):
    work = roofline.training_step(network, 32)
    assert work.operations == operations
    assert work.bytes == (20 if network == contestants.AIRBENCH else 28) * parameters


def test_our_contestant_trains_beyond_an_epoch_and_evaluates():
    random = np.random.default_rng(0)
    labels = np.arange(96, dtype=np.int32) % 10
    images = random.integers(0, 256, (96, 32, 32, 3), np.uint8)
    settings = contestants.Settings(batch_size=32)
    ours = contestants.build(contestants.OURS, "mlp", contestants.Images(images, labels, images, labels), settings)
    ours.train(40)
    assert ours.num_parameters == 3_590_642
    assert ours.evaluate() > 0.5  # it memorizes the images


def test_our_contestant_has_the_sizes_that_grow():
    images, labels = np.zeros((32, 16, 16, 3), np.uint8), np.arange(32, dtype=np.int32) % 7
    settings = contestants.Settings(batch_size=8, num_classes=7)
    ours = contestants.build(contestants.OURS, "cnn", contestants.Images(images, labels, images, labels), settings)
    convolutions = (4 * 3 + 1) * 16 + (4 * 16 + 1) * 32 + (4 * 32 + 1) * 64
    assert ours.num_parameters == convolutions + (2 * 2 * 64 + 1) * 500 + (500 + 1) * 7


def test_costs_and_engines_have_all_points_and_rounds():
    points = json.loads((publish.RESULTS / "costs_cpu.json").read_text())["points"]
    measured = [(point["grows"], point["work"][point["grows"]]) for point in points]
    assert measured == [(name, value) for name, values in costs.GROWING.items() for value in values]
    for state in json.loads((publish.RESULTS / "engines_cpu.json").read_text()).values():
        for network in state["networks"].values():
            assert list(network["contestants"]) == list(state["variants"])
            assert min(len(rates["train"]) for rates in network["contestants"].values()) >= 5


def test_speed_results_contain_all_rounds_of_all_contestants():
    record = json.loads((publish.RESULTS / "speed_cpu.json").read_text())
    assert set(record["networks"]) == {"mlp", "cnn", "alexnet"}
    for network in record["networks"].values():
        assert set(contestants.CONTESTANTS) - {contestants.AUGMENTED} <= set(network["contestants"])
        for measured in network["contestants"].values():
            assert len(measured["train"]) == len(measured["evaluate"]) >= 3
    [airbench] = json.loads((publish.RESULTS / "speed_airbench94_cpu.json").read_text())["networks"].values()
    assert set(airbench["contestants"]) == set(contestants.AIRBENCH_CONTESTANTS)
    assert min(len(measured["train"]) for measured in airbench["contestants"].values()) >= 3
