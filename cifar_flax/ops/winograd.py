"""3x3 convolutions with four ninths of the multiplications, for CPUs.

Winograd's minimal filtering F(2x2, 3x3), from Lavin and Gray, 2016, "Fast Algorithms for Convolutional Neural Networks"
(arXiv 1509.09308, section 4.1). A tile of 2x2 outputs takes 16 multiplications per channel instead of 36: those of a
transformed 4x4 image tile with a transformed kernel. Over all tiles these are 16 matrix products. The result is that of
the direct convolution up to a little rounding, because the transforms only add, subtract and halve.

The batch is processed in chunks whose tiles fit in the caches, and the gradient recomputes the tiles. What was tried
and measured is in docs/performance.md.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import chain, product
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cifar_flax.ops.windows import first_maximum, materialize, windows

# The transforms of a 4x4 image tile, of a 3x3 kernel and of the 4x4 products (equation 4.1 ff.).
IMAGE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

MAX_TILES = 4096  # per chunk, unless one image has more

Padding = tuple[tuple[int, int], tuple[int, int]]
Grid = list[list[Array]]  # arrays of one shape, by row and column within a tile


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def winograd_conv(images: Array, kernel: Array, padding: Padding, pooled: bool = False) -> Array:
    """Convolves images [B, H, W, C] with a kernel [3, 3, C, O] at stride 1.

    Args:
        images: [B, H, W, C].
        kernel: [3, 3, C, O].
        padding: rows (above, below) and columns (left, right) of zeros.
        pooled: whether 2x2 max-pooling follows. Its windows are the tiles, so the four times larger outputs of the
            convolution are never written.

    Returns:
        [B, H', W', O]; if `pooled`, [B, H' // 2, W' // 2, O].
    """
    return _forward(images, kernel, padding, pooled)[0]


def _forward(images: Array, kernel: Array, padding: Padding, pooled: bool) -> tuple[Array, tuple[Array, ...]]:
    size, transformed = _output_size(images, padding, pooled), _transform_kernel(kernel)

    def conv(chunk: Array) -> tuple[Array, ...]:
        tiles = _to_tiles(chunk, padding, size)
        products = [tile @ kernel for tile, kernel in zip(tiles, transformed, strict=True)]
        outputs = _from_tiles(products, len(chunk), size)
        return first_maximum(chain(*outputs)) if pooled else (_interleaved(outputs)[:, : size[0], : size[1]],)

    outputs, *argmax = (chunks.reshape(-1, *chunks.shape[2:]) for chunks in lax.map(conv, _in_chunks(images, size)))
    return outputs, (images, kernel, *argmax)


def _backward(padding: Padding, pooled: bool, residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array]:
    images, kernel, *argmax = residuals
    size = _output_size(images, padding, pooled)
    transformed, transpose_kernel = jax.vjp(_transform_kernel, kernel)
    transposed = [materialize(tile.T) for tile in transformed]

    def gradients(kernel_grads: list[Array], chunks: tuple[Array, ...]) -> tuple[list[Array], Array]:
        chunk, output_grads, *argmax = chunks
        product_grads = _from_tiles_transposed(_unpooled(output_grads, *argmax) if pooled else _by_place(output_grads))
        tiles = _to_tiles(chunk, padding, size)
        kernel_grads = [
            g + tile.T @ product for g, tile, product in zip(kernel_grads, tiles, product_grads, strict=True)
        ]
        tile_grads = [product @ kernel for product, kernel in zip(product_grads, transposed, strict=True)]
        return kernel_grads, _to_tiles_transposed(tile_grads, chunk.shape, padding, size)

    chunks = tuple(_in_chunks(array, size) for array in (images, gradient, *argmax))
    kernel_grads, image_grads = lax.scan(gradients, [jnp.zeros_like(tile) for tile in transformed], chunks)
    return image_grads.reshape(images.shape), transpose_kernel(kernel_grads)[0]


winograd_conv.defvjp(_forward, _backward)


def _output_size(images: Array, padding: Padding, pooled: bool) -> tuple[int, int]:
    """Height and width of the convolution's output, without a row or column that the pooling drops."""
    height, width = (side + sum(pad) - 2 for side, pad in zip(images.shape[1:3], padding, strict=True))
    return (height // 2 * 2, width // 2 * 2) if pooled else (height, width)


def _num_tiles(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of 2x2 tiles that cover the outputs of an image."""
    return -(-size[0] // 2), -(-size[1] // 2)


def _in_chunks(images: Array, size: tuple[int, int]) -> Array:
    """[B, ...] -> [B / P, P, ...], with P images per chunk."""
    batch, limit = len(images), MAX_TILES // int(np.prod(_num_tiles(size)))
    chunk = max(divisor for divisor in range(1, max(1, min(batch, limit)) + 1) if batch % divisor == 0)
    return images.reshape(batch // chunk, chunk, *images.shape[1:])


def _transform_kernel(kernel: Array) -> list[Array]:
    """[3, 3, C, O] -> 16 x [C, O]."""
    transform = jnp.asarray(KERNEL, kernel.dtype)
    tiles = jnp.einsum("ai,ijco,bj->abco", transform, kernel, transform, precision=lax.Precision.HIGHEST)
    return [tile for row in tiles for tile in row]


def _to_tiles(images: Array, padding: Padding, size: tuple[int, int]) -> list[Array]:
    """The transformed tiles of images [B, H, W, C], one for each 2x2 outputs: 16 x [B R S, C]."""
    images = materialize(jnp.pad(images, ((0, 0), *_up_to_tiles(images.shape, padding, size), (0, 0))))
    pixels = _grid(windows(images, (4, 4), (2, 2)))
    return [tile.reshape(-1, images.shape[3]) for row in _transform(IMAGE, pixels) for tile in row]


def _to_tiles_transposed(tiles: list[Array], shape: Sequence[int], padding: Padding, size: tuple[int, int]) -> Array:
    """Sums tiles, 16 x [B R S, C], into images of `shape` [B, H, W, C]. Up to four tiles share a pixel."""
    batch, height, width, channels = shape
    rows, columns = _num_tiles(size)
    pixels = _transform(IMAGE.T, _grid([tile.reshape(batch, rows, columns, channels) for tile in tiles]))

    def moved(i: int, j: int, down: int, right: int) -> Array:
        """Aligns the second half of a tile with the first half of the next tile."""
        return jnp.pad(pixels[i + 2 * down][j + 2 * right], ((0, 0), (down, 1 - down), (right, 1 - right), (0, 0)))

    sums = [[reduce(add, (moved(i, j, *by) for by in product((0, 1), repeat=2))) for j in (0, 1)] for i in (0, 1)]
    (top, _), (left, _) = padding
    return _interleaved(sums)[:, top : top + height, left : left + width]


def _from_tiles(tiles: list[Array], batch: int, size: tuple[int, int]) -> Grid:
    """Products, 16 x [B R S, O] -> outputs, 2x2 x [B, R, S, O], by their position in a tile."""
    return _transform(OUTPUT, _grid([tile.reshape(batch, *_num_tiles(size), -1) for tile in tiles]))


def _from_tiles_transposed(outputs: Grid) -> list[Array]:
    """2x2 x [B, R, S, O] -> 16 x [B R S, O]."""
    places = [[output.reshape(-1, output.shape[-1]) for output in row] for row in outputs]
    return [tile for row in _transform(OUTPUT.T, places) for tile in row]


def _by_place(outputs: Array) -> Grid:
    """Outputs [B, H', W', O] -> 2x2 x [B, R, S, O], by their position in a tile."""
    batch, height, width, features = outputs.shape
    rows, columns = _num_tiles((height, width))
    outputs = jnp.pad(outputs, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    outputs = outputs.reshape(batch, rows, 2, columns, 2, features)
    return [[outputs[:, :, i, :, j] for j in (0, 1)] for i in (0, 1)]


def _unpooled(gradient: Array, argmax: Array) -> Grid:
    """The gradient of the maxima [B, R, S, O] at their positions in the tiles, else zero: 2x2 x [B, R, S, O]."""
    return [[jnp.where(argmax == 2 * i + j, gradient, 0) for j in (0, 1)] for i in (0, 1)]


def _up_to_tiles(shape: Sequence[int], padding: Padding, size: tuple[int, int]) -> Padding:
    """The padding with which the 4x4 tiles, two pixels apart, cover the image exactly."""
    (top, _), (left, _) = padding
    rows, columns = _num_tiles(size)
    return (top, 2 * rows + 2 - top - shape[1]), (left, 2 * columns + 2 - left - shape[2])


def _grid(arrays: list[Array]) -> Grid:
    """16 arrays as four rows of four."""
    return [arrays[first : first + 4] for first in range(0, 16, 4)]


def _interleaved(places: Grid) -> Array:
    """2x2 x [B, R, S, C] -> [B, 2 R, 2 S, C]."""
    batch, rows, columns, channels = places[0][0].shape
    return jnp.stack([jnp.stack(row, 3) for row in places], 2).reshape(batch, 2 * rows, 2 * columns, channels)


def _transform(matrix: np.ndarray, grid: Grid) -> Grid:
    """`matrix @ grid @ matrix.T` for a grid of arrays. The entries of the matrix are -1, 0 or 1."""
    columns = [[_sum(row, column) for row in matrix] for column in zip(*grid, strict=True)]
    return [[_sum(row, across) for row in matrix] for across in zip(*columns, strict=True)]


def _sum(signs: np.ndarray, arrays: Sequence[Array]) -> Array:
    """The sum of the arrays, each times its sign; those with sign 0 are skipped."""
    return reduce(add, (array if sign > 0 else -array for sign, array in zip(signs, arrays, strict=True) if sign))
