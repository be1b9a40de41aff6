"""`python -m benchmarks.engines`: which of XLA's engines and options suits which network, on a quiet or a busy machine.

In each round, all variants of the options train and evaluate one after the other, each in a new process, in an order
that rotates. With `--busy`, one process per core multiplies matrices meanwhile. The file has a part for each state of
the machine, and a run replaces only its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import table
from benchmarks.contestants import OURS, Settings
from benchmarks.machine import describe
from benchmarks.speed import NETWORKS, Worker, compile_in_turn, measure, write_images
from cifar_flax.data.decoding import num_cpus
from cifar_flax.ops.xla_options import ONE_PASS, YNN_FUSION_TYPE
from cifar_flax.workdir.atomic import write_text

OUTPUT = Path(__file__).parents[1] / "results/engines_cpu.json"
STATES, MEASURES = ("quiet", "busy"), ("train", "evaluate")
NUM_TEST = {"mlp": 10_000, "cnn": 10_000, "alexnet": 2_000}  # images of an evaluation; AlexNet's would take 20 seconds
BATCH_SIZE = 32
SCHEDULER = "--xla_cpu_scheduler_type"
ENGINES = {
    "as the commands": "",
    "YNNPACK also in evaluation": f"{YNN_FUSION_TYPE}=-reduce,+dot",
    "YNNPACK also for sums: jaxlib's default": f"{YNN_FUSION_TYPE}=+reduce",
    "XLA's own products of two arrays": f"{YNN_FUSION_TYPE}=-reduce,-individual_dot",
    "XLA's own convolutions": f"{YNN_FUSION_TYPE}=-reduce,-individual_convolution",
    "no YNNPACK in products that are fused": f"{YNN_FUSION_TYPE}=-reduce,-dot",
    "no YNNPACK in elementwise operations": f"{YNN_FUSION_TYPE}=-reduce,-eltwise",
    "no YNNPACK at all: Eigen": f"{YNN_FUSION_TYPE}=",
    "one thread for products": "--xla_cpu_multi_thread_eigen=false",
    "vectors of 512 bits": "--xla_cpu_prefer_vector_width=512",
    "operations that may run side by side first": f"{SCHEDULER}=CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED",
    "several passes over the optimizer's arrays": f"{ONE_PASS}=false",
    "small loops operation by operation": f"{ONE_PASS},xla_cpu_small_while_loop_byte_threshold=0",
    "as the commands, once more": "",  # how far two equal variants differ
}
LOAD = "import numpy as np; a = np.ones((512, 512), np.float32)\nwhile True: a @ a"


@contextmanager
def load_of(num_processes: int) -> Iterator[None]:
    """Keeps that many cores busy."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", LOAD], env=environment) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(network: str, engines: Sequence[str], images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures all rounds of one network.

    Only one process exists at a time: of 14 equal ones on a busy machine, the first that was started was only half as
    fast as the last, in each round.
    """
    rates: dict[str, dict[str, list[float]]] = {title: {name: [] for name in MEASURES} for title in engines}
    for number in range(options.rounds):
        first = number * len(engines) // options.rounds
        for title in [*engines[first:], *engines[:first]]:
            measured = measure_alone(network, title, images, options)
            for name in MEASURES:
                rates[title][name] += measured["contestants"][title][name]
    return {"num_parameters": measured["num_parameters"], "contestants": rates}


def measure_alone(network: str, title: str, images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One round of one variant, in a new process."""
    environment = {"XLA_FLAGS": ENGINES[title]}
    with ExitStack() as stack:
        worker = Worker(OURS, network, images, Settings(BATCH_SIZE), name=title, environment=environment)
        workers = compile_in_turn(stack, iter([worker]))
        stack.enter_context(load_of(num_cpus() if options.busy else 0))
        return measure(workers, options.seconds, rounds=1)


def details(record: dict[str, Any]) -> str:
    """A table per state of the machine: images/s of the first variant, and those of the others as a ratio to it."""
    return "\n\n".join(_of_state(state, record[state]) for state in STATES if state in record)


def _of_state(state: str, part: dict[str, Any]) -> str:
    networks = part["networks"]
    first, *others = next(iter(networks.values()))["contestants"]

    def medians(title: str) -> list[float]:
        return [table.median(network["contestants"][title][m]) for network in networks.values() for m in MEASURES]

    ours = medians(first)
    rows = [[f"{first}, images/s", *(f"{rate:,.0f}" for rate in ours)]]
    rows += [
        [other, *(f"{rate / own:.2f}" for rate, own in zip(medians(other), ours, strict=True))] for other in others
    ]
    columns = [f"{table.TITLES[name]} {title}" for name in networks for title in ("training", "evaluation")]
    machine, rounds = part["machine"], len(next(iter(networks.values()))["contestants"][first]["train"])
    return (
        f"{table.table([f'{state} machine', *columns], rows)}\n\n"
        f"Medians of {rounds} alternating rounds; batch size {BATCH_SIZE}. {standard_errors(networks)} "
        f"{part['date']}, {machine['processor']}, "
        f"{machine['threads']} threads, {machine['memory_gib']} GiB, {table.versions(machine)}."
    )


def standard_errors(networks: dict[str, Any]) -> str:
    """The standard error of a ratio of two medians, in the column where it is lowest and where it is highest."""
    errors = []
    for network in networks.values():
        for name in MEASURES:
            rates = np.log([measured[name] for measured in network["contestants"].values()])
            of_mean = np.sqrt(rates.var(axis=1, ddof=1).mean() / rates.shape[1])
            # of a median, the error is larger by the root of pi / 2; of a ratio of two, by the root of 2
            errors.append(of_mean * np.sqrt(np.pi))
    return f"Standard error of a ratio, from the spread of the rounds: {min(errors):.2f} to {max(errors):.2f}."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="training time of each variant in each round")
    parser.add_argument("--busy", action="store_true", help="one process per core multiplies matrices meanwhile")
    parser.add_argument("--dataset", default="cifar10", help="same values as config.dataset")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    networks = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        for network in options.networks:
            write_images(images, options.dataset, NUM_TEST[network])
            networks[network] = compare(network, tuple(ENGINES), images, options)
    part = {"date": date.today().isoformat(), "machine": describe(), "variants": ENGINES, "networks": networks}
    record = json.loads(options.output.read_text()) if options.output.exists() else {}
    write_text(options.output, json.dumps(record | {STATES[options.busy]: part}, indent=2) + "\n")
    print(f"wrote {options.output}; `make results` updates the tables in docs/")


if __name__ == "__main__":
    main()
