"""The networks of the reference notebook as its Keras layers, and the arrays here that belong to each layer."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cifar_flax.weights.contents import reject
from cifar_flax.weights.transfer import HEAD


class Layer(NamedTuple):
    """A layer of Keras.

    Attributes:
        kind: its class.
        name: its name in the notebook.
        settings: arguments of the class. Those of dropout layers do not matter for trained weights.
        ours: the name of the layer here; empty if it has no arrays.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    ours: str = ""


def _conv(ours: str, name: str, filters: int, side: int, stride: int = 1) -> Layer:
    settings = {"filters": filters, "kernel_size": [side, side], "strides": [stride, stride], "padding": "same"}
    return Layer("Conv2D", name, settings | {"activation": "relu", "data_format": "channels_last"}, ours)


def _pool(name: str, side: int) -> Layer:
    settings = {"pool_size": [side, side], "strides": [2, 2], "padding": "valid", "data_format": "channels_last"}
    return Layer("MaxPooling2D", name, settings)


def _norm(ours: str, name: str) -> Layer:
    return Layer("BatchNormalization", name, {"epsilon": 1e-3}, ours)


def _dense(ours: str, name: str, units: int) -> Layer:
    return Layer("Dense", name, {"units": units, "activation": "relu"}, ours)


def _dropout(name: str, rate: float) -> Layer:
    return Layer("Dropout", name, {"rate": rate})


def _output(name: str) -> Layer:
    return Layer("Dense", name, {"activation": "softmax"}, HEAD)  # with a unit per class


UNNAMED = "dense"  # the name that Keras gives to the last layer of the notebook's AlexNet, perhaps with a number
LAYERS = {
    "mlp": (
        Layer("Flatten", "input", {"data_format": "channels_last"}),
        _dense("fc1", "hidden_layer_1", 1000),
        _dropout("dropout_1", 0.2),
        _dense("fc2", "hidden_layer_2", 512),
        _dropout("dropout_2", 0.2),
        _output("output"),
    ),
    "cnn": (
        _conv("conv1", "CONV1", 16, 2),
        _pool("POOL1", 2),
        _conv("conv2", "CONV2", 32, 2),
        _pool("POOL2", 2),
        _conv("conv3", "CONV3", 64, 2),
        _pool("POOL3", 2),
        _dropout("DROP1", 0.3),
        Layer("Flatten", "FLAT1", {"data_format": "channels_last"}),
        _dense("fc1", "FC1", 500),
        _dropout("DROP2", 0.4),
        _output("FC2"),
    ),
    "alexnet": (
        _conv("conv1", "CONV_1", 96, 3, 2),
        _pool("POOL_1", 2),
        _norm("norm1", "NORM_1"),
        _conv("conv2", "CONV2", 256, 5),
        _pool("POOL2", 3),
        _norm("norm2", "NORM_2"),
        _conv("conv3", "CONV3", 384, 3),
        _conv("conv4", "CONV4", 384, 3),
        _conv("conv5", "CONV5", 256, 3),
        _pool("POOL5", 3),
        _norm("norm5", "NORM_5"),
        Layer("Flatten", "FLAT", {"data_format": "channels_last"}),
        _dense("fc1", "FC1", 4096),
        _dropout("DROP1", 0.4),
        _dense("fc2", "FC2", 4096),
        _dropout("DROP2", 0.4),
        _output(UNNAMED),
    ),
}
NORMALIZATION = Layer("Normalization", "normalization", {"axis": [-1], "invert": False}, "normalize")

# Keras' class -> the arrays of such a layer here, in the order of Keras, and their numbers of dimensions in Keras
ARRAYS = {
    "Conv2D": (("params/{}/kernel", "params/{}/bias"), (4, 1)),
    "Dense": (("params/{}/kernel", "params/{}/bias"), (2, 1)),
    "BatchNormalization": (
        ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var"),
        (1, 1, 1, 1),
    ),
    "Normalization": (("batch_stats/{}/mean", "batch_stats/{}/variance"), (1, 1)),
}
KINDS = {dimensions: kind for kind, (_, dimensions) in ARRAYS.items()}

ADVICE = "choose the experiment of its network"
MAX_QUOTED = 80  # characters of a file in a message

Given = tuple[str, list[np.ndarray]]  # a layer of a file: its name and its arrays


def layers_of(model: str, normalized: bool) -> tuple[Layer, ...]:
    """The layers of a network; with `normalized`, the first one standardizes the images."""
    return (*[NORMALIZATION] * normalized, *LAYERS[model])


def array_names(layer: Layer) -> list[str]:
    """The names of the layer's arrays here, in the order of Keras."""
    return [name.format(layer.ours) for name in ARRAYS[layer.kind][0]]


def from_keras(source: str, model: str, layers: list[Given]) -> dict[str, np.ndarray]:
    """The arrays of a file of Keras under their names here.

    Layers are found by the notebook's names if the file has them all, otherwise by their order among those of the same
    kind.

    Args:
        source: the field and the file, for messages.
        model: the network.
        layers: of the file, in their order.

    Raises:
        BadInput: the file is of another network.
    """
    given = _by_kind(source, model, layers)
    expected = [layer for layer in layers_of(model, "Normalization" in given) if layer.ours]
    order = {layer.name: index for index, layer in enumerate(expected) if layer.name != UNNAMED}
    if set(order) - {NORMALIZATION.name} <= {name for name, _ in layers}:
        for candidates in given.values():
            candidates.sort(key=lambda layer: order.get(layer[0], len(order)))
    arrays: dict[str, np.ndarray] = {}
    for layer in expected:
        candidates = given.get(layer.kind, [])
        if not candidates:
            with_arrays = [f"{_quoted(name)} {_shapes(values)}" for name, values in layers if values]
            found = with_arrays[0] if with_arrays else "no layer"
            reject(source, f"is not of {model}: it has {found}, and no {layer.kind} layer for {layer.name}; {ADVICE}")
        name, values = candidates.pop(0)
        _check_shapes(source, model, layer, name, values)
        arrays |= dict(zip(array_names(layer), values, strict=True))
    for name, values in (layer for candidates in given.values() for layer in candidates):
        reject(source, f"is not of {model}: it also has the layer {_quoted(name)} {_shapes(values)}; {ADVICE}")
    return {name: array.reshape(1, 1, 1, -1) if "/normalize/" in name else array for name, array in arrays.items()}


def _by_kind(source: str, model: str, layers: list[Given]) -> dict[str, list[Given]]:
    """The layers that have arrays by their kinds, which the numbers of dimensions tell."""
    kinds: dict[str, list[Given]] = {}
    for name, arrays in layers:
        kind = KINDS.get(tuple(array.ndim for array in arrays))
        if arrays and not kind:
            reject(source, f"is not of {model}: it has the layer {_quoted(name)} {_shapes(arrays)}; {ADVICE}")
        if kind:
            kinds.setdefault(kind, []).append((name, arrays))
    return kinds


def _check_shapes(source: str, model: str, layer: Layer, name: str, arrays: list[np.ndarray]) -> None:
    """Checks the sizes that depend neither on the images nor on the number of classes."""
    units = layer.settings.get("filters", layer.settings.get("units", arrays[-1].size))
    inputs = arrays[0].shape[-2:-1]
    kernel = (*layer.settings.get("kernel_size", ()), *inputs, units)
    expected = [kernel, *[(units,)] * (len(arrays) - 1)]
    for array, shape in zip(arrays, expected, strict=True):
        if array.shape != shape:
            reject(
                source,
                f"is not of {model}: its layer {_quoted(name)} has {list(array.shape)}, and {layer.name} has "
                f"{list(shape)}; {ADVICE}",
            )


def _quoted(value: Any) -> str:
    return repr(value)[:MAX_QUOTED]


def _shapes(arrays: list[np.ndarray]) -> str:
    return ", ".join(str(list(array.shape)) for array in arrays)[:MAX_QUOTED]


def check_description(source: str, model: str, description: str, normalized: bool) -> None:
    """Checks that a description of a model in JSON is of this network: its layers compute the same.

    Names of layers and dropout do not matter.

    Raises:
        BadInput: it is of another network.
    """
    try:
        config = json.loads(description)["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list until Keras 2.2.2
        given = [(str(layer["class_name"]), dict(layer["config"])) for layer in layers]
    except (ValueError, TypeError, KeyError, RecursionError):
        reject(source, "has no description of its layers that can be read; save the model again")
    given = [layer for layer in given if layer[0] not in ("InputLayer", "Dropout")]
    expected = [layer for layer in layers_of(model, normalized) if layer.kind != "Dropout"]
    for (kind, config), layer in zip(given, expected, strict=False):
        _check_layer(source, model, layer, kind, config)
    if len(given) > len(expected):
        kind, config = given[len(expected)]
        reject(
            source,
            f"is not of {model}: it also has the layer {_quoted(config.get('name'))} ({kind[:MAX_QUOTED]}); {ADVICE}",
        )
    if len(given) < len(expected):
        reject(source, f"is not of {model}: it has no layer for {expected[len(given)].name}; {ADVICE}")


def _check_layer(source: str, model: str, layer: Layer, kind: str, config: Mapping[str, Any]) -> None:
    name = f"its layer {_quoted(config.get('name'))}"
    if kind != layer.kind:
        reject(
            source, f"is not of {model}: {name} is a {kind[:MAX_QUOTED]}, and {layer.name} is a {layer.kind}; {ADVICE}"
        )
    for setting, value in layer.settings.items():
        possible = (value, "linear") if value == "softmax" else (value,)
        if (found := config.get(setting, value)) not in possible:
            reject(
                source,
                f"is not of {model}: {name} has {setting} {str(found)[:MAX_QUOTED]}, and {layer.name} has {value}; "
                f"{ADVICE}",
            )
