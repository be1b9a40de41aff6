"""Random keys as plain arrays, for files and for other processes."""

from typing import Any

import jax


def as_data(tree: Any) -> Any:
    """The tree with random keys replaced by their uint32 data."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def with_keys(data: Any, like: Any) -> Any:
    """The inverse of `as_data`; `like` has keys where the tree shall have them."""
    return jax.tree.map(lambda leaf, key: jax.random.wrap_key_data(leaf) if _is_key(key) else leaf, data, like)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
