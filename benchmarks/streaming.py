"""`python -m benchmarks.streaming`: the memory and the cost of images that are streamed from the host.

Memory: draws a set of 6 GB, writes it to a `.npz` as docs/scaling.md says, and trains `cnn` on it for some steps, in
processes that may not allocate more than 2 GB. It takes 12 GB of disk for a while. Cost: trains on CIFAR-10 with the
images on the device and streamed. The two take turns, so that other load on the machine affects both.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import table
from benchmarks.contestants import Images
from benchmarks.machine import describe
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.config import base_config
from cifar_flax.data import load, synthetic
from cifar_flax.training.streaming import PIECE_BYTES

ROOT = Path(__file__).parents[1]
MEMORY_LIMIT = 2 * 10**9  # bytes that a process may allocate
BATCH_SIZE = 32
NUM_VALIDATION, NUM_TEST = 10_000, 10_000
DRAWN_AT_ONCE = 5_000
SAMPLE_SECONDS = 0.02
CHUNK_SECONDS = 2.0  # as long as the training loop's
NETWORKS = ("cnn", "alexnet")


def draw(folder: Path, counts: dict[str, int]) -> None:
    """Writes `set.npz` to the folder. The arrays are never in memory."""
    rng, shapes = np.random.default_rng(0), list(synthetic.SHAPES.values())
    arrays: dict[str, np.ndarray] = {}
    for split, count in counts.items():
        size = synthetic.IMAGE_SIZE
        images = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.uint8, (count, size, size, 3))
        labels = rng.integers(0, len(shapes), count).astype(np.int32)
        for start in range(0, count, DRAWN_AT_ONCE):
            part = slice(start, start + DRAWN_AT_ONCE)
            designs = synthetic.random_designs(rng, len(labels[part]))
            images[part] = synthetic.draw(rng, labels[part], designs, shapes)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    for split in counts:
        (folder / f"{split}.npy").unlink()


def watch(arguments: Sequence[str], cache: Path) -> dict[str, float]:
    """Runs Python with a limit of MEMORY_LIMIT, and returns its seconds and its peaks of memory in MiB.

    Allocated memory is RssAnon of /proc/PID/status, sampled. The rest of the resident memory are pages of files, which
    the system takes back when it needs them.

    Raises:
        RuntimeError: it failed.
    """
    start, peaks = time.perf_counter(), {"RssAnon": 0, "VmRSS": 0}
    environment = os.environ | {"CIFAR_FLAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))

    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, preexec_fn=limit) as process:
        while process.poll() is None:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            for name in set(peaks) & set(fields):
                peaks[name] = max(peaks[name], int(fields[name].split()[0]))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return {
        "seconds": time.perf_counter() - start,
        "allocated_mib": peaks["RssAnon"] / 1024,
        "resident_mib": peaks["VmRSS"] / 1024,
    }


def measure_memory(num_images: int, num_steps: int) -> dict[str, Any]:
    """Makes the set and trains on it, from its file and then from the cache."""
    steps_per_epoch = (num_images - NUM_VALIDATION) // BATCH_SIZE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record: dict[str, Any] = {"num_images": num_images, "num_steps": num_steps, "limit_bytes": MEMORY_LIMIT}
        record["make"] = watch(["-m", "benchmarks.streaming", "--draw", name, "--images", str(num_images)], folder)
        record["file_bytes"] = (folder / "set.npz").stat().st_size
        for run in ("first", "second"):
            command = ["-m", "cifar_flax.main", "--config=experiments/cnn.py", f"--workdir={folder / run}"]
            command += [f"--config.dataset={folder / 'set.npz'}", "--config.stream=True"]
            command += [
                f"--config.num_epochs={num_steps / steps_per_epoch}",
                f"--config.num_validation={NUM_VALIDATION}",
            ]
            measured = watch(command, folder / "cache")
            run_json = json.loads((folder / run / "run.json").read_text())
            record[run] = measured | {
                field: run_json[field] for field in ("train_images_per_second", "train_seconds", "test_accuracy")
            }
            print(f"{run} run: {record[run]}", flush=True)
    return record


def measure_cost(network: str, rounds: int) -> dict[str, Any]:
    """The time of a step with the images on the device and streamed, in alternating rounds."""
    from benchmarks.contestants.ours import EXPERIMENTS, Ours  # starts JAX

    config = load_experiment(str(EXPERIMENTS / f"{network}.py"))
    dataset = load(base_config())
    images = Images(dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
    contestants: dict[str, Any] = {}
    for name, stream in (("resident", False), ("streamed", True)):
        config.stream = stream
        contestants[name] = Ours(config, images, num_classes=10)
        contestants[name].train(4)
    num_steps = max(4, round(CHUNK_SECONDS / _seconds(contestants["resident"], 4)[0]))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            measured[name].append(_seconds(contestants[name], num_steps))
    record: dict[str, Any] = {"num_steps": num_steps}
    for column, what in enumerate(("seconds", "cpu_seconds")):
        per_step = {name: [pair[column] for pair in pairs] for name, pairs in measured.items()}
        ratios = [streamed / resident for resident, streamed in zip(*per_step.values(), strict=True)]
        print(
            f"{network}: {what} {statistics.median(ratios):.3f} times as many ({min(ratios):.3f} to {max(ratios):.3f})"
        )
        record[what] = per_step | {"median_ratio": statistics.median(ratios)}
    return record


def _seconds(contestant: Any, num_steps: int) -> tuple[float, float]:
    """The seconds and CPU seconds of a training step."""
    start, cpu_start = time.perf_counter(), time.process_time()
    contestant.train(num_steps)
    return (time.perf_counter() - start) / num_steps, (time.process_time() - cpu_start) / num_steps


def memory(record: dict[str, Any]) -> str:
    """The table of docs/: the memory of each process."""
    measured, rows = record["memory"], []
    for name, title in (("make", "draw the set and write the file"), ("first", "train"), ("second", "train again")):
        process = measured[name]
        speed = f"{process['train_images_per_second']:,.0f}" if "train_images_per_second" in process else ""
        sizes = (f"{process[size]:,.0f}" for size in ("allocated_mib", "resident_mib"))
        rows.append([title, *sizes, f"{process['seconds']:,.0f}", speed])
    header = ["`cnn`", "allocated, MiB", "with pages of files, MiB", "seconds in all", "training images/s"]
    return (
        f"{table.table(header, rows)}\n\n"
        f"{measured['num_images']:,} drawings in a file of {measured['file_bytes'] / 1e9:.1f} GB, "
        f"{measured['num_steps']:,} steps. The system let each process allocate {measured['limit_bytes'] / 1e9:g} GB "
        "(RLIMIT_DATA). Peaks; pages of files are taken back when memory is short. "
        f"{record['date']}, {record['machine']['processor']}."
    )


def cost(record: dict[str, Any]) -> str:
    """The table of docs/: the time of a step, streamed and not."""
    rows = []
    for network, measured in record["cost"].items():
        seconds = measured["seconds"]
        speeds = [f"{BATCH_SIZE / table.median(seconds[name]):,.0f}" for name in ("resident", "streamed")]
        ratios = [f"{measured[what]['median_ratio']:.3f}" for what in ("seconds", "cpu_seconds")]
        rows.append([table.TITLES[network], *speeds, *ratios])
    header = ["training images/s", "on the device", "streamed", "times as much time", "times as much CPU time"]
    machine, rounds = record["machine"], len(seconds["resident"])
    return (
        f"{table.table(header, rows)}\n\n"
        f"CIFAR-10, medians of {rounds} alternating rounds of about {CHUNK_SECONDS:g} s, {record['date']}, "
        f"{machine['processor']}, {machine['threads']} threads, {table.versions(machine)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--images", type=int, default=2_000_000, help="drawings to train on")
    parser.add_argument("--steps", type=int, default=5_000, help="steps on the drawings")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", choices=("memory", "cost"), help="keeps the rest of the file as it is")
    parser.add_argument("--output", type=Path, default=Path("results/streaming.json"), help="JSON file")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only write the set, to set.npz in a folder")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw, {"train": options.images, "test": NUM_TEST})
        return
    record = json.loads(options.output.read_text()) if options.only else {}
    if options.only != "cost":
        record["memory"] = measure_memory(options.images, options.steps)
    if options.only != "memory":
        record["cost"] = {network: measure_cost(network, options.rounds) for network in NETWORKS}
    record |= {"date": date.today().isoformat(), "piece_bytes": PIECE_BYTES, "machine": describe()}
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
