"""Decides whether images are streamed, and turns an out-of-memory error into a message that names the field."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from cifar_flax.data import Dataset
from cifar_flax.data.host_memory import host_memory
from cifar_flax.errors import BadInput, in_one_line, is_out_of_memory

MEMORY_SHARE = 0.5  # of a device's memory; images that would take more are streamed


def too_large(dataset: Dataset, devices: Sequence[jax.Device]) -> bool:
    """Whether the images would take more than MEMORY_SHARE of the memory of a device, or, for CPUs, of the host."""
    # memory_stats is None on CPUs
    limits = [(device.memory_stats() or {}).get("bytes_limit") or host_memory() for device in devices]
    return dataset.num_bytes > MEMORY_SHARE * min(limits)


@contextmanager
def batch_fits(field: str, batch_size: int) -> Iterator[None]:
    """Raises BadInput that names `field` if the block, which processes batches, runs out of memory."""
    with fits(f"{field}: {batch_size} images at once do not fit into memory; use a smaller number"):
        yield


@contextmanager
def images_fit(dataset: Dataset) -> Iterator[None]:
    """Raises BadInput that names the dataset if the block, which copies its images, runs out of memory."""
    count = sum(map(len, (dataset.train, dataset.validation, dataset.test)))
    images = f"{count:,} images ({dataset.num_bytes / 2**20:,.0f} MiB)"
    advice = "set --config.stream=True to send them there in pieces"
    with fits(f"config.dataset: {images} do not fit into the memory of the device; {advice}"):
        yield


@contextmanager
def fits(message: str) -> Iterator[None]:
    """Raises BadInput with this message if the block runs out of memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise BadInput(f"{message} ({in_one_line(error)})") from error
