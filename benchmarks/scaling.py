"""`python -m benchmarks.scaling`: one run over one and two processes, and what more devices would give on paper.

Measures images per second of the whole training loop, on one core, on both, and by two processes with a core each, in
alternating rounds, and the time of one exchange between two processes. Takes about ten minutes; writes
results/scaling.json, which `make results` renders into docs/scaling.md.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.machine import describe
from benchmarks.roofline import OPTIMIZER_BYTES_PER_PARAMETER, training_step
from benchmarks.table import TITLES, median, table
from cifar_flax.distributed.hub import free_port
from cifar_flax.training.conducting import gather
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.records import load_metrics

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results/scaling.json"
NUM_STEPS = {"mlp": 500, "cnn": 500, "alexnet": 290}
STEPS_PER_EPOCH = 250  # of 32 synthetic images
ROUNDS = 3
NUM_EXCHANGES = 200


class Way(NamedTuple):
    """The cores of each process of a run."""

    cores: tuple[tuple[int, ...], ...]


WAYS = {"one process, one core": Way(((0,),)), "one process, two cores": Way(((0, 1),)),
        "two processes, one core each": Way(((0,), (1,)))}  # fmt: skip


class Cluster(NamedTuple):
    """Assumptions about a cluster, for the numbers on paper.

    Attributes:
        num_devices: GPUs in all.
        operations_per_second: of one GPU in float32 products, as reached by a small network.
        bytes_per_second: of the slowest link between two neighbors in the ring.
        latency: seconds of one step of the ring.
    """

    num_devices: int
    operations_per_second: float
    bytes_per_second: float
    latency: float


CLUSTERS = {
    "8 GPUs of one host": Cluster(8, 50e12, 200e9, 5e-6),
    "512 GPUs of 64 hosts": Cluster(512, 50e12, 25e9, 10e-6),
}
BATCH_OF_DEVICE, BATCH_OF_RUN = 512, 4096  # images: weak scaling keeps the first, strong scaling the second


def images_per_second(network: str, way: Way, folder: Path) -> float:
    """Of the last epoch of a run on synthetic images. TensorFlow is imported beside the first."""
    command = [sys.executable, "-m", "cifar_flax.main", "--config", f"{network}:smoke"]
    command += [f"--config.num_epochs={NUM_STEPS[network] / STEPS_PER_EPOCH}", "--config.num_validation=0"]
    workdir, port = Path(tempfile.mkdtemp(dir=folder)) / "run", free_port()
    processes = []
    for process, cores in enumerate(way.cores):
        place = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={len(way.cores)}", f"--process_id={process}"]
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command, "--workdir", str(workdir)]
        arguments = pinned + (place if len(way.cores) > 1 else [])
        processes.append(subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"{network}: exit codes {codes}")
    return load_metrics(workdir)[-1]["images_per_second"]


def measure_exchange() -> float:
    """The median milliseconds of one exchange between two processes."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.scaling", "exchange", str(port)]
    others = subprocess.Popen([*command, "1"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    output = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    others.wait()
    return float(output.split()[-1])


def exchange(port: str, process: str) -> None:
    """One of the two processes that `measure_exchange` starts."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    seconds = []
    for number in range(NUM_EXCHANGES):
        started = time.perf_counter()
        arguments = ["state", "metrics", "order", "train.images", "train.labels", number]
        gather({"function": "train_steps", "arguments": arguments})
        seconds.append(time.perf_counter() - started)
    print(1000 * statistics.median(seconds))


def on_paper(network: str, cluster: Cluster) -> dict[str, float]:
    """The efficiency, from 0 to 1, of a ring all-reduce of the gradients that nothing hides.

    A ring of n devices sends 2 (n - 1) / n of the gradients over each link, in 2 (n - 1) steps (Patarasuk and Yuan,
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
    """
    num, work = cluster.num_devices, training_step(network, 32)
    parameters = work.bytes / OPTIMIZER_BYTES_PER_PARAMETER["adam"]
    exchange = 2 * (num - 1) / num * 4 * parameters / cluster.bytes_per_second + 2 * (num - 1) * cluster.latency
    of_image = work.operations / 32 / cluster.operations_per_second
    weak, strong = BATCH_OF_DEVICE * of_image, BATCH_OF_RUN * of_image
    return {
        "exchange_ms": 1000 * exchange,
        "weak_efficiency": weak / (weak + exchange),
        "strong_speedup": strong / (strong / num + exchange),
        "batch_for_half": exchange / of_image,  # images per device at which half of the time is spent on the exchange
    }


def measured(record: dict[str, Any]) -> str:
    """A table of the measured speeds, and a sentence about the exchange."""
    speeds, machine = record["images_per_second"], record["machine"]
    rows = [[TITLES[network], *(f"{median(speeds[network][way]):,.0f}" for way in WAYS)] for network in speeds]
    rounds = len(next(iter(speeds["mlp"].values())))
    return (
        f"{table(['images/s', *WAYS], rows)}\n\n"
        f"Medians of {rounds} alternating rounds of the whole training loop, batch {record['batch_size']}. The "
        f"processes are on one machine and exchange over loopback. One message of process 0 to the other takes "
        f"{record['exchange_ms']:.1f} ms; there is one about every two seconds. {machine['processor']}, "
        f"{machine['threads']} threads, jax {machine['versions']['jax']}."
    )


def paper(record: dict[str, Any]) -> str:
    """A table of what larger clusters would give."""
    rows = []
    for network, clusters in record["on_paper"].items():
        for name, numbers in clusters.items():
            rows.append([
                f"{TITLES[network]}, {name}",
                f"{numbers['exchange_ms']:.2g} ms",
                f"{numbers['weak_efficiency']:.0%}",
                f"{numbers['strong_speedup']:.1f}",
                f"{numbers['batch_for_half']:,.0f}",
            ])  # fmt: skip
    header = ["", "exchange of a step", "weak: efficiency", "strong: speedup over one GPU", "images per GPU for 50 %"]
    assumed = "; ".join(
        f"{name}: {c['operations_per_second'] / 1e12:.0f} TFLOP/s reached by each, "
        f"{c['bytes_per_second'] / 1e9:.0f} GB/s and {c['latency'] * 1e6:.0f} µs between neighbors"
        for name, c in record["clusters"].items()
    )
    return (
        f"{table(header, rows)}\n\n"
        f"Computed, not measured, from the multiplications and the bytes of the gradients of one step, for a ring "
        f"all-reduce that nothing hides. Assumed: {assumed}. Weak: {record['batch_of_device']} images per GPU. Strong: "
        f"{record['batch_of_run']:,} images in all. The last column is where it stops paying: with fewer images per "
        f"GPU, more than half of the time is spent on the exchange."
    )


def main() -> None:
    if sys.argv[1:2] == ["exchange"]:
        exchange(*sys.argv[2:])
        return
    speeds: dict[str, dict[str, list[float]]] = {network: {name: [] for name in WAYS} for network in NUM_STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS):
            for network in NUM_STEPS:
                for name, way in WAYS.items():
                    speeds[network][name].append(images_per_second(network, way, Path(folder)))
                    print(f"round {round_number + 1}: {network}, {name}: {speeds[network][name][-1]:,.0f} images/s")
    report: dict[str, Any] = {
        "machine": describe(),
        "batch_size": 32,
        "images_per_second": speeds,
        "exchange_ms": measure_exchange(),
        "clusters": {name: cluster._asdict() for name, cluster in CLUSTERS.items()},
        "on_paper": {network: {n: on_paper(network, c) for n, c in CLUSTERS.items()} for network in NUM_STEPS},
        "batch_of_device": BATCH_OF_DEVICE,
        "batch_of_run": BATCH_OF_RUN,
    }
    write_text(REPORT, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
