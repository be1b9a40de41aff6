"""SHA-256 of what is stored, so that a file that was altered or half written is never taken for what it was."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

SEAL = "sha256"  # the entry of a sealed dict that holds the checksum of the others


def of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def of_arrays(tree: Any) -> dict[str, str]:
    """Of every array in a tree, by its path."""
    return {path: of_array(np.asarray(leaf)) for path, leaf in by_path(as_data(tree)).items()}


def as_data(tree: Any) -> Any:
    """The tree with random keys as the uint32 that they consist of."""
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, tree
    )


def by_path(tree: Any) -> dict[str, Any]:
    """A tree's leaves, each by its path, such as `0/params/conv1/kernel`."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, which JSON must be able to hold, and their checksum."""
    rest = {name: value for name, value in fields.items() if name != SEAL}
    return rest | {SEAL: of_bytes(json.dumps(rest, sort_keys=True).encode())}


def is_sealed(fields: Any) -> bool:
    """Whether these are fields as `seal` left them."""
    return isinstance(fields, dict) and SEAL in fields and seal(fields)[SEAL] == fields[SEAL]
