"""The format `npz`: plain arrays for `numpy.load`, without metadata."""

from pathlib import Path

import numpy as np

from cifar_flax.data import zip_arrays
from cifar_flax.weights.contents import MAX_BYTES, Network, Weights, check, is_normalized


def write(path: Path, network: Network) -> None:
    with path.open("wb") as file:
        np.savez(file, **network.weights.arrays)  # type: ignore[arg-type]


def read(path: Path, field: str) -> Weights:
    """Reads a file that `write` wrote.

    Raises:
        BadInput: names the field and the file.
    """
    with zip_arrays.open_npz(path, field) as stored:
        arrays = zip_arrays.read_arrays(stored, zip_arrays.entries(stored), MAX_BYTES)
    check(f"{field}: {path}", {name: str(array.dtype) for name, array in arrays.items()})
    return Weights(arrays, {"normalize": is_normalized(arrays)})
