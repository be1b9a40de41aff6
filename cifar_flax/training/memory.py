"""Turns an out-of-memory error into a message that names the field to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

from cifar_flax.data import Dataset
from cifar_flax.errors import BadInput, in_one_line, is_out_of_memory


@contextmanager
def batch_fits(field: str, batch_size: int) -> Iterator[None]:
    """Raises BadInput that names `field` if the block, which processes batches, runs out of memory."""
    with _fits(f"{field}: {batch_size} images at once do not fit into memory; use a smaller number"):
        yield


@contextmanager
def images_fit(dataset: Dataset) -> Iterator[None]:
    """Raises BadInput that names the dataset if the block, which copies its images, runs out of memory."""
    splits = (dataset.train, dataset.validation, dataset.test)
    size = sum(split.images.nbytes for split in splits) / 2**20
    images = f"{sum(map(len, splits)):,} images ({size:,.0f} MiB)"
    with _fits(f"config.dataset: {images} do not fit into the memory of the device; use fewer or smaller ones"):
        yield


@contextmanager
def _fits(message: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise BadInput(f"{message} ({in_one_line(error)})") from error
