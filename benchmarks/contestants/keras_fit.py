"""Keras `fit` and `evaluate`, as in the reference notebook, on the backend that KERAS_BACKEND selects."""

import time
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.contestants import Images, Settings

EVAL_BATCH_SIZE = 200


def mlp() -> list[Any]:
    return [
        layers.Flatten(),
        layers.Dense(1000, activation="relu"),
        layers.Dropout(0.2),
        layers.Dense(512, activation="relu"),
        layers.Dropout(0.2),
        layers.Dense(10),
    ]


def cnn() -> list[Any]:
    blocks = [
        (layers.Conv2D(features, 2, padding="same", activation="relu"), layers.MaxPooling2D())
        for features in (16, 32, 64)
    ]
    return [
        *(layer for block in blocks for layer in block),
        layers.Dropout(0.3),
        layers.Flatten(),
        layers.Dense(500, activation="relu"),
        layers.Dropout(0.4),
        layers.Dense(10),
    ]


def alexnet() -> list[Any]:
    def conv(features: int, kernel: int, strides: int = 1) -> Any:
        return layers.Conv2D(features, kernel, strides, padding="same", activation="relu")

    return [
        *(conv(96, 3, 2), layers.MaxPooling2D(2, 2), layers.BatchNormalization()),
        *(conv(256, 5), layers.MaxPooling2D(3, 2), layers.BatchNormalization()),
        *(conv(384, 3), conv(384, 3), conv(256, 3), layers.MaxPooling2D(3, 2), layers.BatchNormalization()),
        layers.Flatten(),
        *(layers.Dense(4096, activation="relu"), layers.Dropout(0.4)),
        *(layers.Dense(4096, activation="relu"), layers.Dropout(0.4)),
        layers.Dense(10),
    ]


NETWORKS = {"mlp": mlp, "cnn": cnn, "alexnet": alexnet}


class KerasFit:
    """Calls `fit` on arrays in memory, for at most one epoch per call."""

    def __init__(self, network: str, images: Images, batch_size: int) -> None:
        self.batch_size = batch_size
        self.train_images = images.train_images.astype(np.float32) / 255
        self.test_images = images.test_images.astype(np.float32) / 255
        self.train_labels, self.test_labels = images.train_labels, images.test_labels
        self.model = keras.Sequential([keras.Input((32, 32, 3)), *NETWORKS[network]()])
        self.model.compile(
            optimizer=keras.optimizers.Adam(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self.num_parameters = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)
        start = time.perf_counter()
        self.train(1)
        self.compile_seconds = time.perf_counter() - start

    def train(self, num_steps: int) -> None:
        while num_steps:
            chunk = min(num_steps, len(self.train_labels) // self.batch_size)
            rows, num_steps = slice(chunk * self.batch_size), num_steps - chunk
            history = self.model.fit(
                self.train_images[rows], self.train_labels[rows], batch_size=self.batch_size, epochs=1, verbose=0
            )
            assert np.isfinite(history.history["loss"]).all()

    def evaluate(self) -> float:
        _, accuracy = self.model.evaluate(self.test_images, self.test_labels, batch_size=EVAL_BATCH_SIZE, verbose=0)
        return float(accuracy)

    def peak_device_bytes(self) -> None:
        return None


def build(network: str, images: Images, settings: Settings) -> KerasFit:
    """Computes with the framework's default precision and evaluates in batches of EVAL_BATCH_SIZE."""
    return KerasFit(network, images, settings.batch_size)
