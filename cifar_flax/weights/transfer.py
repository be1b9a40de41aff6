"""Which layers of a network can start from the arrays of another one. Nothing is read or written here.

Arrays have names such as `params/conv1/kernel` and `batch_stats/norm1/mean`; the second part is the layer.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cifar_flax.errors import BadInput

HEAD = "output"  # the layer with an output per class, in all models


class Transfer(NamedTuple):
    """The layers of a network, each with its number of values.

    Attributes:
        taken: those that start from the given arrays.
        new: those that start from random values.
    """

    taken: dict[str, int]
    new: dict[str, int]


def layer_of(name: str) -> str:
    """`conv1` for `params/conv1/kernel`; empty for a name without a layer."""
    return name.partition("/")[2].partition("/")[0]


def by_name(params: Any, batch_stats: Any) -> dict[str, Any]:
    """The leaves of both trees by their names."""
    return flatten_dict({"params": params, "batch_stats": batch_stats}, sep="/")


def as_trees(arrays: Mapping[str, Any]) -> tuple[Any, Any]:
    """The inverse of `by_name`: params and batch_stats."""
    trees = unflatten_dict(dict(arrays), sep="/")
    return trees["params"], trees.get("batch_stats", {})


def plan(source: Mapping[str, np.ndarray], network: Mapping[str, Any], same_classes: bool, name: str) -> Transfer:
    """Divides the layers of a network into those that the source's arrays fit and those that begin anew.

    A layer is taken as a whole: a bias is of no use without its kernel.

    Args:
        source: arrays by their names.
        network: arrays or their shapes by their names.
        same_classes: whether the source was trained for the classes of the network, so that its head is taken.
        name: the field or flag that names the source, and its value, for the message.

    Raises:
        BadInput: the source is of another network: it has other arrays, apart from the head, or none of their shapes
            fits.
    """
    _refuse_other_names(source, network, name)
    anew = {layer_of(array) for array, leaf in network.items() if _shape(source, array) != leaf.shape}
    anew |= set() if same_classes else {HEAD}
    sizes: dict[str, int] = {}
    for array, leaf in network.items():
        sizes[layer_of(array)] = sizes.get(layer_of(array), 0) + leaf.size
    taken, new = ({layer: size for layer, size in sizes.items() if (layer in anew) == is_new} for is_new in (0, 1))
    if not taken:
        array = next((array for array in sorted(network) if _shape(source, array) != network[array].shape), HEAD)
        raise BadInput(
            f"{name} has no layer that fits this network ({array} is {list(_shape(source, array) or [])}); "
            "name weights of this network"
        )
    return Transfer(taken, new)


def _shape(source: Mapping[str, np.ndarray], array: str) -> tuple[int, ...] | None:
    return source[array].shape if array in source else None


def _refuse_other_names(source: Mapping[str, np.ndarray], network: Mapping[str, Any], name: str) -> None:
    """Raises BadInput if one has an array outside the head that the other lacks."""
    body, expected = ({array for array in arrays if layer_of(array) != HEAD} for arrays in (source, network))
    if body != expected:
        array = min(body ^ expected)
        what = "lacks" if array in expected else "also has"
        raise BadInput(f"{name} is of another network: it {what} {array}; name weights of this network")


def chosen(source: Mapping[str, np.ndarray], layers: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of these layers."""
    return {array: value for array, value in source.items() if layer_of(array) in layers}


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 checksum of the arrays with their names, shapes and dtypes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
