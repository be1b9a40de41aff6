"""Sliding windows over images as slices, and the maximum of several arrays; used by all lowerings for CPUs."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jax import Array, lax


def materialize(array: Array) -> Array:
    """Writes the array to memory. XLA would otherwise recompute it in each slice and selection that reads it."""
    return lax.optimization_barrier(array)


def windows(images: Array, window: Sequence[int], strides: Sequence[int]) -> list[Array]:
    """One slice [B, H', W', C] for each of the window's h * w pixels, row by row.

    Pixels that no window covers are cropped.
    """
    _, height, width, _ = images.shape
    rows, columns = (height - window[0]) // strides[0] + 1, (width - window[1]) // strides[1] + 1
    span = (rows - 1) * strides[0] + 1, (columns - 1) * strides[1] + 1
    return [
        lax.slice(
            images,
            (0, i, j, 0),
            (images.shape[0], i + span[0], j + span[1], images.shape[3]),
            (1, strides[0], strides[1], 1),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]


def first_maximum(arrays: Iterable[Array]) -> tuple[Array, Array]:
    """Elementwise maximum of arrays of one shape, and the index (int32, from 0) of the first array that has it."""
    arrays = iter(arrays)
    maxima = next(arrays)
    argmax = jnp.zeros(maxima.shape, jnp.int32)
    for index, array in enumerate(arrays, start=1):
        argmax = jnp.where(array > maxima, index, argmax)
        maxima = jnp.maximum(maxima, array)
    return maxima, argmax
