"""The splits that are made for sources without their own: seeded, and the same fraction of each class."""

import numpy as np
import pytest

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import Source, Split
from cifar_flax.data.split import interleaved, split_off
from cifar_flax.errors import BadInput

LABELS = np.repeat([0, 1, 2], [10, 100, 30]).astype(np.int32)  # sorted by class


def split(labels=LABELS):
    """A split whose images can be told apart."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.asarray(labels, np.int32))


def load(monkeypatch, source, **fields):
    monkeypatch.setattr(data, "read", lambda config: source)
    config = base_config()
    config.update({"dataset": "pictures", "num_validation": 14, **fields})
    return data.load(config)


def test_each_prefix_of_interleaved_images_has_the_fractions_of_the_whole():
    mixed = interleaved(split())
    assert sorted(mixed.images.ravel()) == list(range(140))
    assert (mixed.labels == LABELS[mixed.images.ravel()]).all()
    for length in (14, 28, 70):
        np.testing.assert_allclose(np.bincount(mixed.labels[:length]), length * np.array([10, 100, 30]) / 140, atol=1)


def test_a_test_split_has_the_same_fraction_of_each_class_and_no_training_image():
    train, test = split_off(split(), 0.2)
    assert np.bincount(test.labels).tolist() == [2, 20, 6]
    assert sorted([*train.images.ravel(), *test.images.ravel()]) == list(range(140))
    assert (np.diff(test.images.ravel().astype(int)) > 0).all()  # the order is kept


def test_each_class_keeps_an_image_on_either_side():
    train, test = split_off(split([0, 0, 1, 1, 1, 2]), 0.01)
    assert np.bincount(test.labels).tolist() == [1, 1]
    assert sorted(train.labels) == [0, 1, 1, 2]


def test_all_runs_are_tested_on_the_same_images(monkeypatch):
    source = Source(interleaved(split()), None, ("a", "b", "c"))
    first, second = (load(monkeypatch, source, test_share=0.2, seed=seed) for seed in (0, 1))
    assert first.sha256() == second.sha256()
    assert np.bincount(first.test.labels).tolist() == [2, 20, 6]
    assert (len(first.train), len(first.validation)) == (98, 14)


@pytest.mark.parametrize(
    ("test", "fields", "message"),
    [
        (
            None,
            {},
            "config.test_share: 'pictures' has no test split; set the fraction of the images to test on, such as",
        ),
        (
            split(),
            {"test_share": 0.2},
            "config.test_share: 0.2 is not valid; use 0, because 'pictures' has a test split",
        ),
        (
            split(),
            {"num_validation": 140},
            "leaves none of the 140 training images of 'pictures'; use a smaller number",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(monkeypatch, test, fields, message):
    with pytest.raises(BadInput) as error:
        load(monkeypatch, Source(split(), test, ("a", "b", "c")), **fields)
    assert message in str(error.value)


def test_one_image_per_class_cannot_be_split(monkeypatch):
    with pytest.raises(BadInput, match="has only one image of each class; add more images"):
        load(monkeypatch, Source(split([0, 1, 2]), None, ("a", "b", "c")), test_share=0.5)
