"""`python -m benchmarks.keras_control [EXPERIMENT ...]`: the reference notebook's recipe in Keras itself.

Trains `cnn_augmented` and `mlp` with five seeds and `cnn` with ten, on TensorFlow, with Keras' own fit, ModelCheckpoint
and ImageDataGenerator (`pip install '.[benchmarks]'`). Each run writes results/keras_control/EXPERIMENT/seedN.json
when it ends. Runs that have a record are skipped; a stopped run begins anew. `make results` updates the tables.
"""

import functools
import importlib.metadata
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import control
from benchmarks.machine import describe
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.config import base_config
from cifar_flax.data import Dataset, Split, load
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.checksums import add_checksum, of_bytes
from cifar_flax.workdir.environment import environment

BATCH_SIZE = 32
NUM_EPOCHS = 20
NUM_CLASSES = 10
NETWORKS = {"cnn_augmented": "cnn", "mlp": "mlp", "cnn": "cnn"}  # of each experiment
AUGMENTATION = {"width_shift_range": 0.1, "height_shift_range": 0.1, "horizontal_flip": True}
ADAM_FIELDS = ("learning_rate", "beta_1", "beta_2", "epsilon")


def arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The images as float32 in [0, 1] and the labels as rows of zeros and a one."""
    return split.images.astype(np.float32) / 255, np.eye(NUM_CLASSES, dtype=np.float32)[split.labels]


def build(network: str) -> Any:
    """The notebook's network, compiled as in the notebook."""
    import keras

    from benchmarks.contestants.keras_fit import NETWORKS as LAYERS

    model = keras.Sequential([keras.Input((32, 32, 3)), *LAYERS[network](), keras.layers.Softmax()])
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])  # Adam at 1e-3
    return model


def training_batches(experiment: str, images: np.ndarray, labels: np.ndarray) -> Any:
    """The batches of an epoch, for `fit`: all 1,407, in a new order in each epoch.

    With augmentation, the notebook passes steps_per_epoch=1406 to `fit`. Keras 3 would then end every other epoch after
    the one batch that is left of 1,407. Without it, the notebook passes arrays. After `set_random_seed`, Keras 3 on
    TensorFlow shuffles arrays into the same order in all epochs, which Keras 2.2.4 did not.
    """
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(**augmentation(experiment)).flow(images, labels, batch_size=BATCH_SIZE)


def augmentation(experiment: str) -> dict[str, Any]:
    return AUGMENTATION if experiment == "cnn_augmented" else {}


def train(experiment: str, seed: int, dataset: Dataset, num_epochs: int = NUM_EPOCHS) -> dict[str, Any]:
    """Trains one run and tests the epoch with the lowest validation loss once. Returns its record."""
    import keras

    keras.utils.set_random_seed(seed)  # of Python, NumPy and TensorFlow; ImageDataGenerator draws from NumPy's
    model = build(NETWORKS[experiment])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = str(Path(folder) / "best.weights.h5")
        history = model.fit(
            training_batches(experiment, *arrays(dataset.train)),
            epochs=num_epochs,
            validation_data=arrays(dataset.validation),
            callbacks=[keras.callbacks.ModelCheckpoint(best, save_best_only=True, save_weights_only=True)],
            verbose=2,
        ).history
        seconds = time.perf_counter() - start
        model.load_weights(best)
    test_loss, test_accuracy = model.evaluate(*arrays(dataset.test), verbose=0)
    return {
        "experiment": experiment,
        "seed": seed,
        "num_train_examples": len(dataset.train),
        "num_validation_examples": len(dataset.validation),
        "num_test_examples": len(dataset.test),
        "trainable_parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "adam": {name: model.optimizer.get_config()[name] for name in ADAM_FIELDS},
        "batch_size": BATCH_SIZE,
        "augmentation": augmentation(experiment),
        **best_epoch(history),
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "fit_seconds": seconds,
        "epochs": epochs(history),
    }


def best_epoch(history: dict[str, list[float]]) -> dict[str, Any]:
    """The first epoch with the lowest validation loss, which is the one that ModelCheckpoint keeps."""
    best = int(np.argmin(history["val_loss"]))
    return {
        "best_epoch": best + 1,
        "best_validation_loss": history["val_loss"][best],
        "best_validation_accuracy": history["val_accuracy"][best],
    }


def epochs(history: dict[str, list[float]]) -> list[dict[str, float]]:
    """The history of `fit` under the names of results/reference.json."""
    columns = {
        "train_loss": history["loss"],
        "train_accuracy": history["accuracy"],
        "validation_loss": history["val_loss"],
        "validation_accuracy": history["val_accuracy"],
    }
    return [
        {"epoch": number, **dict(zip(columns, values, strict=True))}
        for number, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]


def provenance() -> dict[str, Any]:
    """The fields of a record about the day, the machine, the versions and the code."""
    machine = describe()
    machine["versions"]["scipy"] = importlib.metadata.version("scipy")  # interpolates for ImageDataGenerator
    return {
        "date": date.today().isoformat(),
        "machine": machine,
        "git_commit": environment(jax.devices()[:1])["git_commit"],
        "script_sha256": of_bytes(Path(__file__).read_bytes()),
    }


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m benchmarks.keras_control", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"default: {' '.join(NETWORKS)}")
    chosen = parser.parse_args(argv).experiments or list(NETWORKS)
    for name in chosen:
        if name not in NETWORKS:
            parser.error(f"EXPERIMENT: {name!r} is not valid; use {', '.join(NETWORKS)}")
    read = functools.cache(lambda: load(base_config()))
    for experiment in chosen:
        for seed in control.SEEDS[experiment]:
            path = control.record_path(experiment, seed)
            if path.exists():
                print(f"{path} exists", flush=True)
                continue
            print(f"{experiment}, seed {seed}", flush=True)
            record = provenance() | train(experiment, seed, read())
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(add_checksum(record), indent=2) + "\n")
            print(f"{experiment}, seed {seed}: test accuracy {record['test_accuracy']:.2%}, wrote {path}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default, which exit_code would change
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # removes the temporary folder
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
