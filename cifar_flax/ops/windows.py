"""The pixels that a window meets on its way over images, as slices, and their maximum."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jax import Array, lax


def windows(images: Array, window: Sequence[int], strides: Sequence[int]) -> list[Array]:
    """One [B, H', W', C] slice for each of the window's h * w places, row by row; what no window covers is cropped."""
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


def first_maximum(pixels: Iterable[Array]) -> tuple[Array, Array]:
    """Maximum of arrays of one shape, number by number, and which of them, int32, has it first, counted from zero."""
    pixels = iter(pixels)
    maxima = next(pixels)
    places = jnp.zeros(maxima.shape, jnp.int32)
    for place, others in enumerate(pixels, start=1):
        places = jnp.where(others > maxima, place, places)
        maxima = jnp.maximum(maxima, others)
    return maxima, places
