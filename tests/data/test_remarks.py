"""Data that can be trained on but looks wrong is remarked on; usual data is not."""

import numpy as np
import pytest

from cifar_flax import data
from cifar_flax.config import base_config
from cifar_flax.data import Dataset, Split
from cifar_flax.data.remarks import remarks


def images(count, seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def split(count, seed, labels=None, num_classes=4, **arguments):
    labels = np.arange(count) % num_classes if labels is None else np.asarray(labels)
    return Split(images(count, seed, **arguments), labels.astype(np.int32))


def dataset(train=None, validation=None, test=None, class_names=("cat", "dog", "emu", "fox")):
    train, validation, test = train or split(120, 0), validation or split(40, 1), test or split(60, 2)
    return Dataset(train, validation, test, class_names)


def of_channels(channels):
    return dataset(*(split(count, count, shape=(8, 8, channels)) for count in (120, 40, 60)))


def of_one_class():
    return dataset(*(split(count, count, num_classes=1) for count in (120, 40, 60)), ("cat",))


def sorted_by_class():
    """200 images of each of 4 classes in order, of which the first 60 are the validation split."""
    combined = split(800, 0, np.arange(800) // 200)
    return dataset(combined[60:], combined[:60])


TRAIN = split(120, 0)
WRONG = {
    "two channels": (of_channels(2), ["the images have 2 channels; check that their axes are [N, H, W, C]"]),
    "one class": (of_one_class(), ["there is only one class, cat, so there is nothing to learn"]),
    "scaled": (
        dataset(Split(TRAIN.images // 255, TRAIN.labels)),
        ["no pixel of the training images is above 1; they should be from 0 to 255, not scaled to [0, 1]"],
    ),
    "scaled test images": (
        dataset(test=Split(split(60, 2).images // 255, split(60, 2).labels)),
        ["no pixel of the test images is above 1; they should be from 0 to 255, not scaled to [0, 1]"],
    ),
    "one image": (
        dataset(Split(np.repeat(TRAIN.images[:1], 120, 0), TRAIN.labels)),
        ["all 120 training images are the same"],
    ),
    "one color": (
        dataset(Split(np.broadcast_to(TRAIN.images[:, :1, :1, :1], (120, 8, 8, 3)), TRAIN.labels)),
        ["each of the 120 training images has a single color"],
    ),
    "labels from 1": (
        dataset(split(120, 0, 1 + np.arange(120) % 3), split(40, 1, 1 + np.arange(40) % 3)),
        ["1 of the 4 classes have no training images: cat"],
    ),
    "untested classes": (
        dataset(test=split(60, 2, np.arange(60) % 2)),
        ["2 of the 4 classes have no test images: emu, fox"],
    ),
    "sorted by class": (
        sorted_by_class(),
        [
            "3 of the 4 classes of the training images have no validation images: dog, emu, fox; the first "
            "config.num_validation training images are the validation split, so shuffle a training set that is "
            "sorted by class"
        ],
    ),
    "tested on the training images": (
        dataset(TRAIN, test=TRAIN),
        ["120 of the 120 test images are also training or validation images, so the test accuracy will be too high"],
    ),
    "split with repetition": (
        dataset(TRAIN, test=Split(np.concatenate([TRAIN.images[:20], images(40, 9)]), split(60, 2).labels)),
        ["20 of the 60 test images are also training or validation images, so the test accuracy will be too high"],
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_data_that_looks_wrong_is_remarked_on(kind):
    wrong, expected = WRONG[kind]
    assert remarks(wrong) == [f"config.dataset: {remark}" for remark in expected]


USUAL = {
    "RGB": dataset(),
    "gray": of_channels(1),
    "RGBA": of_channels(4),
    "no validation split": dataset(validation=TRAIN[:0]),
    "a few validation images": dataset(validation=split(5, 1, [0, 0, 1, 1, 0])),
    "many rare classes": dataset(
        split(4000, 0, num_classes=1000),
        Split(images(1000, 1), np.random.default_rng(0).integers(0, 1000, 1000).astype(np.int32)),
        split(1000, 2, num_classes=1000),
        tuple(f"class {i}" for i in range(1000)),
    ),
    "Fortran order": dataset(Split(np.asfortranarray(TRAIN.images), TRAIN.labels)),
    "few duplicates": dataset(test=Split(np.concatenate([TRAIN.images[:3], images(57, 9)]), split(60, 2).labels)),
}


@pytest.mark.parametrize("kind", USUAL)
def test_usual_data_is_not_remarked_on(kind):
    assert remarks(USUAL[kind]) == []


def test_synthetic_data_is_not_remarked_on():
    config = base_config()
    config.dataset = "synthetic"
    assert remarks(data.load(config)) == []
