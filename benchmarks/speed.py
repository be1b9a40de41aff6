"""`python -m benchmarks.speed`: measures images per second of all contestants in alternating rounds.

Each contestant is compiled once, in a process of its own. In each round all contestants run one after the other, in an
order that rotates, so that other load on the machine affects all of them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from benchmarks import roofline
from benchmarks.contestants import AIRBENCH, AIRBENCH_CONTESTANTS, AUGMENTED, CONTESTANTS, Settings
from benchmarks.machine import describe
from cifar_flax.config import base_config
from cifar_flax.data import load

NETWORKS = ("mlp", "cnn", "alexnet")
CALIBRATION_STEPS = 8


class Worker:
    """A contestant's process, which compiles from its start on, and is paused unless it is asked for something.

    Args:
        contestant: a key of CONTESTANTS.
        network: an experiment.
        images: file with the fields of `Images`.
        settings: what all contestants have in common.
        name: of its results, if not that of the contestant.
        environment: variables that are added to its process.
    """

    def __init__(
        self,
        contestant: str,
        network: str,
        images: Path,
        settings: Settings,
        *,
        name: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name, self.network, self.batch_size = name or contestant, network, settings.batch_size
        fields = json.dumps(settings._asdict())
        command = [sys.executable, "-m", "benchmarks.worker", contestant, network, str(images), fields]
        environment = {**os.environ, **CONTESTANTS[contestant].environment, **environment}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    @cached_property
    def ready(self) -> dict[str, Any]:
        """`num_parameters`, `compile_seconds` and `peak_device_bytes`. Waits for the compilation."""
        return self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"{self.name} exited:\n{self.log.read()}")
        self.process.send_signal(signal.SIGSTOP)  # idle thread pools may spin for a while
        answer: dict[str, Any] = json.loads(line)
        return answer


def write_images(path: Path, dataset: str, num_test: int | None = None) -> None:
    """Writes the training images and the first test images of a dataset to a `.npz` with the fields of `Images`."""
    config = base_config()
    config.dataset = dataset
    splits = load(config)
    np.savez(
        path,
        train_images=splits.train.images,
        train_labels=splits.train.labels,
        test_images=splits.test.images[:num_test],
        test_labels=splits.test.labels[:num_test],
    )


def compare(network: str, names: Sequence[str], images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures all rounds of one network."""
    settings = Settings(options.batch_size)
    with ExitStack() as stack:
        workers = compile_in_turn(stack, (Worker(name, network, images, settings) for name in names))
        return measure(workers, options.seconds, options.rounds)


def compile_in_turn(stack: ExitStack, workers: Iterator[Worker]) -> list[Worker]:
    """Starts the workers, which the stack ends. One compiles after the other, because they share the cores."""
    started = []
    for worker in workers:
        stack.enter_context(worker)
        print(f"{worker.network:8}  {worker.name:42} compiled in {worker.ready['compile_seconds']:6.1f} s", flush=True)
        started.append(worker)
    return started


def measure(workers: Sequence[Worker], seconds: float, rounds: int) -> dict[str, Any]:
    """Measures all rounds of the workers of one network.

    Args:
        workers: whose compilation has ended.
        seconds: of training of each worker in each round.
        rounds: their number.
    """
    counts = {worker.name: worker.ready["num_parameters"] for worker in workers}
    if len(set(counts.values())) != 1:
        raise RuntimeError(f"{workers[0].network}: the contestants have different numbers of parameters: {counts}")
    num_steps = {worker.name: calibrate(worker, seconds) for worker in workers}
    measured: dict[str, dict[str, Any]] = {
        worker.name: {"compile_seconds": worker.ready["compile_seconds"], "train": [], "evaluate": []}
        for worker in workers
    }
    for number in range(rounds):
        first = number % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            trained, evaluated = worker.ask(f"train {num_steps[worker.name]}"), worker.ask("evaluate")
            of_worker = measured[worker.name]
            of_worker["train"].append(trained["images_per_second"])
            of_worker["evaluate"].append(evaluated["images_per_second"])
            of_worker["peak_memory_mib"] = evaluated["peak_memory_mib"]
            if evaluated["peak_device_bytes"] is not None:
                of_worker["peak_device_bytes"] = evaluated["peak_device_bytes"]
            print(f"{worker.network:8}  {worker.name:34} {trained['images_per_second']:9,.0f} images/s", flush=True)
    return {"num_parameters": workers[0].ready["num_parameters"], "contestants": measured}


def calibrate(worker: Worker, seconds: float) -> int:
    """The number of steps that take about that long. Also evaluates once, as a warm-up."""
    worker.ask("evaluate")
    rate = worker.ask(f"train {CALIBRATION_STEPS}")["images_per_second"]
    rate = worker.ask(f"train {steps_in(min(1, seconds), rate, worker.batch_size)}")["images_per_second"]
    return steps_in(seconds, rate, worker.batch_size)


def steps_in(seconds: float, images_per_second: float, batch_size: int) -> int:
    return max(2, round(seconds * images_per_second / batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=(*NETWORKS, AIRBENCH),
        default=NETWORKS,
        help=f"{AIRBENCH} must be measured alone",
    )
    parser.add_argument("--contestants", nargs="+", choices=tuple(CONTESTANTS), default=tuple(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="training time of each contestant in each round")
    parser.add_argument("--batch-size", type=int, help=f"default 32; 1024 for {AIRBENCH}")
    parser.add_argument("--dataset", default="cifar10", help="same values as config.dataset")
    parser.add_argument("--output", type=Path, help="JSON file; default: results/speed_PLATFORM.json")
    options = parser.parse_args()
    if AIRBENCH in options.networks and len(options.networks) > 1:
        parser.error(f"--networks: {AIRBENCH} has its own batch size and contestants; measure it alone")
    options.batch_size = options.batch_size or (1024 if AIRBENCH in options.networks else 32)
    machine = describe()
    networks = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        write_images(images, options.dataset)
        for network in options.networks:
            rates = roofline.measure_rates()
            work = roofline.training_step(network, options.batch_size)
            # augmentation only matters for the CNN: the MLP does not use it, and AlexNet's step is thirty times as long
            names = [name for name in options.contestants if name != AUGMENTED or network == "cnn"]
            names = [name for name in names if network != AIRBENCH or name in AIRBENCH_CONTESTANTS]
            networks[network] = {
                "rates": rates._asdict(),
                "work": work._asdict(),
                "least_seconds": roofline.min_seconds(work, rates),
                **compare(network, names, images, options),
            }
    path = options.output or Path(f"results/speed_{machine['platform']}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "batch_size": options.batch_size, "networks": networks}
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path}; `make results` updates the tables in the README and docs/")


if __name__ == "__main__":
    main()
