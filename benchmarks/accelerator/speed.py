"""Training and evaluation beside PyTorch, eager and compiled, at one batch size and precision."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS, Settings
from benchmarks.speed import Worker, measure, write_images

PYTORCH = ("PyTorch, eager", "PyTorch, compiled")
# They divide CIFAR-10's test images, because compiled PyTorch would compile the rest of another size once more.
EVAL_BATCH_SIZES = {32: 200, 512: 500, 2048: 2000}


def compare(network: str, precision: str, batch_size: int, seconds: float, rounds: int, dataset: str) -> dict[str, Any]:
    """The rounds of all contestants, as in benchmarks.speed.

    All compile at the same time, so the seconds of their compilation are not those of one alone. `failed` says why a
    contestant was not measured: its last line on stderr, or that it is on another kind of device, such as PyTorch
    without CUDA. Nothing is said of PyTorch where it is not installed.
    """
    settings = Settings(batch_size, precision, EVAL_BATCH_SIZES[batch_size])
    names = (OURS, *PYTORCH) if find_spec("torch") else (OURS,)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the contestants share the memory of the device
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        images = Path(folder) / "images.npz"
        write_images(images, dataset)
        started = [stack.enter_context(Worker(name, network, images, settings)) for name in names]
        workers, failed = usable(started)
        return {**measure(workers, seconds, rounds), "failed": failed}


def usable(started: Sequence[Worker]) -> tuple[list[Worker], dict[str, str]]:
    """The contestants that compiled and are on the kind of device of the first one, ours; why the others are not."""
    workers: list[Worker] = []
    failed: dict[str, str] = {}
    for worker in started:
        try:
            has_device = worker.ready["peak_device_bytes"] is not None
        except RuntimeError as error:
            if worker.name == OURS:
                raise
            failed[worker.name] = str(error).splitlines()[-1]
            continue
        print(f"{worker.network:8}  {worker.name:34} compiled in {worker.ready['compile_seconds']:6.1f} s", flush=True)
        if workers and has_device != (workers[0].ready["peak_device_bytes"] is not None):
            failed[worker.name] = "is on another kind of device"
        else:
            workers.append(worker)
    return workers, failed
