"""SHA-256 checksums of stored data, so that a damaged file is recognized."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from cifar_flax.random_keys import as_data

CHECKSUM_FIELD = "sha256"


def of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def of_arrays(tree: Any) -> dict[str, str]:
    """The checksum of each array in a tree, by its path."""
    return {path: of_array(np.asarray(leaf)) for path, leaf in by_path(as_data(tree)).items()}


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `0/params/conv1/kernel`."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def add_checksum(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, which JSON must be able to hold, together with their checksum."""
    rest = {name: value for name, value in fields.items() if name != CHECKSUM_FIELD}
    return rest | {CHECKSUM_FIELD: of_bytes(json.dumps(rest, sort_keys=True).encode())}


def checksum_matches(fields: Any) -> bool:
    """Whether `fields` is a dict that `add_checksum` returned, unchanged."""
    return (
        isinstance(fields, dict)
        and CHECKSUM_FIELD in fields
        and add_checksum(fields)[CHECKSUM_FIELD] == fields[CHECKSUM_FIELD]
    )
