"""The format `safetensors`: the arrays of the `.npz` under the same names, and metadata.

Metadata are strings: text as it is, everything else as JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from cifar_flax.data.dataset import are_class_names
from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.weights.contents import DTYPE, MAX_BYTES, Network, Weights, check, is_normalized, reject

MAX_HEADER_BYTES = 2**20  # AlexNet's header has 4,000
DTYPES = {"F32": DTYPE, "F64": "float64", "F16": "float16", "BF16": "bfloat16"}


def write(path: Path, network: Network) -> None:
    # safetensors stores the memory of an array as it is, so a transposed array would be stored wrongly
    arrays = {name: np.asarray(array, order="C") for name, array in network.weights.arrays.items()}
    metadata = network.weights.metadata.items()
    path.write_bytes(
        save(arrays, {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata})
    )


def read(path: Path, field: str) -> Weights:
    """Reads a file that `write` wrote.

    Raises:
        BadInput: names the field and the file.
    """
    source = f"{field}: {path}"
    try:
        _check_sizes(path)
        with safe_open(path, "numpy") as stored:
            dtypes = {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
            check(source, {name: DTYPES.get(dtype, dtype) for name, dtype in dtypes.items()})
            arrays = {name: stored.get_tensor(name) for name in dtypes}
            metadata = stored.metadata() or {}
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # the library's errors and those of NumPy
        raise BadInput(f"{source} is not a readable .safetensors ({in_one_line(error)})") from error
    known = {name: _decode(source, name, metadata[name]) for name in _VALID if name in metadata}
    return Weights(arrays, {"normalize": is_normalized(arrays)} | known)


def _check_sizes(path: Path) -> None:
    """Raises ValueError if the header or the arrays claim too much memory."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {header} bytes, more than {MAX_HEADER_BYTES}")
    size = path.stat().st_size
    if size > MAX_BYTES + MAX_HEADER_BYTES:
        raise ValueError(f"it has {size} bytes, more than {MAX_BYTES}")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and are_class_names(tuple(value))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(side) is int and side > 0 for side in value)


_VALID = {
    "model": lambda value: isinstance(value, str),
    "class_names": _are_names,
    "image_shape": _is_shape,
    "normalize": lambda value: isinstance(value, bool),
}


def _decode(source: str, name: str, text: str) -> Any:
    """The value of a known field of the metadata."""
    try:
        value = text if name == "model" else json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not _VALID[name](value):
        reject(source, f"has metadata whose {name} is {text[:80]!r}; export the network again")
    return value
