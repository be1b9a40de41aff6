"""Decodes many pictures on all cores.

Small pictures spend most of their time in Python, where threads wait for each other, so this takes processes.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from cifar_flax.data import pixels
from cifar_flax.data.progress import BAR_DELAY, ProgressBar
from cifar_flax.data.worker import Worker, WorkerEnded
from cifar_flax.errors import BadInput, printable, warn

MAX_BYTES = 8 * 2**30  # of all images together, which are kept in memory
# At most this is decoded at a time, unless a single picture is larger: pictures, bytes of files, bytes of pixels.
CHUNK_PICTURES, CHUNK_FILE_BYTES, CHUNK_PIXEL_BYTES = 64, 500_000, 2**24
# Starting a process pays off for this many small pictures, or bytes of large ones.
START_PICTURES, START_BYTES = 1000, 10_000_000

Pictures = Sequence[Path] | Sequence[bytes]
Decode = Callable[[list[bytes], bool, pixels.Size, bool], pixels.Chunk]


class SizesDiffer(BadInput):
    """`config.image_size` is unset, and the pictures do not have one size."""


def decode(pictures: Pictures, names: Sequence[str], image_size: int | None) -> np.ndarray:
    """Decodes pictures as `pixels.read` does.

    Args:
        pictures: at least one path, or the contents of at least one file.
        names: what messages call the pictures.
        image_size: height and width to resize and crop to; None: all pictures must have one size.

    Returns:
        [N, H, W, 3] uint8, or [N, H, W, 1] if all files store gray values only.

    Raises:
        BadInput: a picture cannot be read, the pictures do not have one size (`SizesDiffer`) or take too much memory,
            or a process that decodes was killed.
    """
    first, size = (0, (image_size, image_size)) if image_size else _first_size(pictures)
    _check_memory(len(pictures), size)
    task = _Task(pictures, names, size, resize=image_size is not None)
    task.run()
    if task.other_sizes:
        raise SizesDiffer(_describe_sizes(names, (first, *size), min(task.other_sizes)))
    if task.unreadable:
        raise BadInput(_describe(names, task.unreadable, "; remove or replace it", "cannot be read"))
    if task.remarks:
        warn(_describe(names, task.remarks, "", "look like this"))
    return task.images[..., :1].copy() if task.is_gray else task.images


def _first_size(pictures: Pictures) -> tuple[int, pixels.Size]:
    """The index and the size of the first picture that can be read."""
    for index in range(len(pictures)):
        chunk = pixels.decode(*_encoded(pictures[index : index + 1]), size=(0, 0), resize=False)
        if chunk.other_sizes:
            return index, chunk.other_sizes[0][1:]
    return 0, (1, 1)  # all are unreadable


def _encoded(pictures: Pictures) -> tuple[list[bytes], bool]:
    """The first two arguments of `pixels.decode`."""
    are_paths = not isinstance(pictures[0], bytes)
    return [os.fsencode(picture) for picture in pictures], are_paths


def _check_memory(count: int, size: pixels.Size) -> None:
    num_bytes = 3 * count * size[0] * size[1]
    if num_bytes > MAX_BYTES:
        raise BadInput(
            f"config.image_size: {count} images of {size[0]} x {size[1]} pixels take {num_bytes / 2**30:.1f} GiB of "
            f"memory, more than {MAX_BYTES // 2**30}; set it to a smaller size"
        )


def num_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mean_bytes(pictures: Pictures) -> float:
    """The mean size of the files, estimated from about a hundred of them."""
    sample = pictures[:: len(pictures) // 100 + 1]
    return sum(map(_num_bytes, sample)) / len(sample)


def _num_bytes(picture: Path | bytes) -> int:
    try:
        return len(picture) if isinstance(picture, bytes) else picture.stat().st_size
    except OSError:  # reported when it is decoded
        return 0


def _plan(pictures: Pictures, size: pixels.Size) -> tuple[int, int]:
    """The number of pictures to decode at a time, and the number of processes, this one included."""
    file_bytes, pixel_bytes = mean_bytes(pictures), 3 * size[0] * size[1]
    limits = (CHUNK_PICTURES, CHUNK_FILE_BYTES // (file_bytes + 1), CHUNK_PIXEL_BYTES // pixel_bytes)
    num_starts = len(pictures) * (1 / START_PICTURES + file_bytes / START_BYTES)
    return max(1, int(min(limits))), min(num_cpus(), 1 + int(num_starts))


def _describe_sizes(names: Sequence[str], first: tuple[int, int, int], other: tuple[int, int, int]) -> str:
    a, b = (f"{names[index]} has {width} x {height} pixels" for index, width, height in (first, other))
    advice = "set it to resize all pictures, such as --config.image_size=32"
    return printable(f"config.image_size: it is unset, but {a} and {b}; {advice}")


def _describe(names: Sequence[str], problems: list[tuple[int, str]], advice: str, predicate: str) -> str:
    """The first problem, and how many more there are."""
    index, problem = min(problems)
    more = f" ({len(problems) - 1} more pictures {predicate})" if len(problems) > 1 else ""
    return printable(f"config.dataset: {names[index]}: {problem}{advice}{more}")


def _bar(total: int) -> ProgressBar:
    """A progress bar on stderr, if that is a terminal."""
    is_terminal = False
    with contextlib.suppress(AttributeError, ValueError):  # there is no stderr, or it is closed
        is_terminal = sys.stderr.isatty()
    return ProgressBar(
        total=total, unit=" pictures", leave=False, delay=BAR_DELAY, disable=not is_terminal, file=sys.stderr
    )


class _Task:
    """Pictures that several threads decode, a chunk at a time.

    Attributes:
        images: [N, H, W, 3] uint8, the result.
        is_gray, unreadable, other_sizes, remarks: as in `pixels.Chunk`.
    """

    def __init__(self, pictures: Pictures, names: Sequence[str], size: pixels.Size, resize: bool) -> None:
        self._pictures, self._names, self._size, self._resize = pictures, names, size, resize
        self._length, self._num_processes = _plan(pictures, size)
        self._next, self._lock = 0, threading.Lock()
        self.images = np.empty((len(pictures), size[1], size[0], 3), np.uint8)
        self.is_gray = True
        self.unreadable: list[tuple[int, str]] = []
        self.other_sizes: list[tuple[int, int, int]] = []
        self.remarks: list[tuple[int, str]] = []

    def run(self) -> None:
        """Decodes all pictures, or all up to one of another size."""
        threads = ThreadPoolExecutor(self._num_processes)
        with _bar(len(self._pictures)) as self._bar, threads, ExitStack() as stack:
            futures = []
            with contextlib.suppress(OSError, RuntimeError):  # the system allows no more processes or threads
                for _ in range(self._num_processes - 1):
                    worker = stack.enter_context(Worker())
                    futures.append(threads.submit(self._work_with, worker))
            self._work(pixels.decode)
            for future in futures:
                future.result()

    def _work_with(self, worker: Worker) -> None:
        if worker.has_started():  # otherwise the others do its work
            self._work(worker.decode)

    def _work(self, decode: Decode) -> None:
        while (start := self._take()) is not None:
            pictures = self._pictures[start : start + self._length]
            try:
                self._keep(start, decode(*_encoded(pictures), self._size, self._resize))
            except WorkerEnded as error:
                self._next = len(self._pictures)
                others = f" and the next {len(pictures) - 1} pictures" if len(pictures) > 1 else ""
                problem = f"{self._names[start]}: the process that decoded it{others} {error}"
                raise BadInput(
                    printable(f"config.dataset: {problem}; free memory, or remove damaged pictures")
                ) from error

    def _take(self) -> int | None:
        """The index of the next picture to decode."""
        with self._lock:
            start, self._next = self._next, self._next + self._length
            return start if start < len(self._pictures) and not self.other_sizes else None

    def _keep(self, start: int, chunk: pixels.Chunk) -> None:
        decoded = np.frombuffer(chunk.pixels, np.uint8).reshape(-1, *self.images.shape[1:])
        self.images[start : start + len(decoded)] = decoded
        with self._lock:
            self.is_gray = self.is_gray and chunk.is_gray
            self.unreadable += [(start + index, reason) for index, reason in chunk.unreadable]
            self.other_sizes += [(start + index, width, height) for index, width, height in chunk.other_sizes]
            self.remarks += [(start + index, remark) for index, remark in chunk.remarks]
            self._bar.update(len(decoded))
