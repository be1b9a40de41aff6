"""How arrays are placed on the devices: a mesh with one axis, `data`.

Parameters and datasets are replicated on all devices, and each batch is split among them. A single device is
a mesh of one.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_image(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Copies host arrays to the devices. Of several processes, each must have the arrays, and places its part of them.

    On CPU devices, an aligned array may be used without a copy.
    """
    if not sharding.mesh.is_multi_process:
        return jax.device_put(tree, sharding)  # with several processes, it would compare all arrays among them
    return jax.tree.map(lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__), tree)
