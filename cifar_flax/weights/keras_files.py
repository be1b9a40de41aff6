"""Files of Keras: reads those of Keras 2 and 3 without Keras, and writes a `.keras` with it."""

import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from cifar_flax.data import child
from cifar_flax.errors import BadInput, import_problem, printable
from cifar_flax.weights.contents import Weights, is_normalized, reject
from cifar_flax.weights.keras_layers import (
    LAYERS,
    NORMALIZATION,
    Given,
    Layer,
    array_names,
    check_description,
    from_keras,
    layers_of,
)
from cifar_flax.weights.transfer import HEAD

READER = Path(__file__).with_name("hdf5.py")  # a program


def read(path: Path, field: str, model: str | None) -> Weights:
    """Reads a `.h5`, `.hdf5`, `.weights.h5` or `.keras`. Nothing in it is executed.

    The shapes that depend on the images or on the number of classes are not checked.

    Args:
        path: the file.
        field: the field or flag that named it, for error messages.
        model: the network that it is expected to hold.

    Raises:
        BadInput: it cannot be read, or is of another network. The message names the field and the file.
    """
    source = printable(f"{field}: {path}")
    try:
        if not path.is_file():  # a pipe would block
            reject(source, f"is not a file{'' if path.exists() else ', it does not exist'}; name a file of Keras")
    except OSError as error:
        reject(source, f"cannot be read ({error.strerror}); name a file of Keras")
    if model not in LAYERS:
        reject(source, f"is a file of Keras, which can be read for {', '.join(LAYERS)}, and the model is {model}")
    description, layers = _read_layers(source, path)
    arrays = from_keras(source, model, layers)
    if description:
        check_description(source, model, description, is_normalized(arrays))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            reject(source, f"has a value in {name} that is not finite; save the model again")
    return Weights(arrays, {"model": model, "normalize": is_normalized(arrays)})


def _read_layers(source: str, path: Path) -> tuple[str, list[Given]]:
    """The description of the layers, perhaps empty, and the layers with their arrays. Another process reads them."""
    import h5py

    def array(output: IO[bytes], shape: list[int]) -> np.ndarray:
        return np.frombuffer(output.read(4 * math.prod(shape)), np.float32).reshape(shape)

    try:
        with path.open("rb") as file, child.output_of(READER, h5py, file) as output:
            header = json.loads(output.readline())
            layers = [(name, [array(output, shape) for shape in shapes]) for name, shapes in header["layers"]]
    except child.ChildFailed as error:
        reject(source, f"is not a readable file of Keras ({error}); save the model again")
    except OSError as error:
        reject(source, f"cannot be read ({error.strerror})")
    return header["description"], layers


def write(
    path: Path, model: str, arrays: Mapping[str, np.ndarray], image_shape: Sequence[int], num_classes: int
) -> None:
    """Writes a `.keras` file: the network of the notebook with these weights, for images [N, H, W, C] in [0, 1].

    Raises:
        BadInput: the notebook has no such network, or Keras is not installed.
    """
    if model not in LAYERS:
        raise BadInput(
            f"--format: keras is possible for {', '.join(LAYERS)}, and the model of this run is {model}; "
            "choose another format"
        )
    keras = _import_keras()
    with keras.device("cpu:0"), tempfile.TemporaryDirectory(dir=path.parent, prefix=".keras.") as folder:
        saved = Path(folder) / "model.keras"  # Keras demands the suffix
        _make_model(keras, model, arrays, image_shape, num_classes).save(saved)
        saved.replace(path)


def _import_keras() -> Any:
    """Keras with the backend that the user chose, otherwise jax. It leaves accelerators to this process' JAX."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with suppress(RuntimeError):  # it has started already
                tf.config.set_visible_devices([], "GPU")
    except Exception as error:  # of a package that is missing or does not fit the others
        raise BadInput(
            f"--format: keras needs the package keras, and {import_problem(error, 'keras')}; install it (pip install "
            "keras) or choose another format"
        ) from error
    return keras


def _make_model(
    keras: Any, model: str, arrays: Mapping[str, np.ndarray], image_shape: Sequence[int], num_classes: int
) -> Any:
    network = keras.Sequential(name=model)
    network.add(keras.Input(tuple(image_shape)))
    for layer in layers_of(model, is_normalized(arrays)):
        settings = layer.settings | ({"units": num_classes} if layer.ours == HEAD else {})
        network.add(getattr(keras.layers, layer.kind)(name=layer.name, dtype="float32", **settings))
        if layer.ours:
            network.layers[-1].set_weights(_weights(layer, arrays))
    return network


def _weights(layer: Layer, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    weights = [arrays[name] for name in array_names(layer)]
    if layer is not NORMALIZATION:
        return weights
    mean, variance = (array.ravel() for array in weights)
    return [mean, np.maximum(variance, 1e-6), np.array(0)]  # the smallest variance that `Normalize` divides by; count
