"""`python -m benchmarks.costs`: how speed and memory of training change as the work grows.

Trains the CNN on random images with growing batches, images, numbers of classes and numbers of images, one quantity at
a time, beside PyTorch. Each point runs in two processes, which take turns. The file is written after each point, and
the same command goes on with those that are missing. `make results` draws docs/costs.svg.
"""

import argparse
import json
import signal
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks import table
from benchmarks.contestants import FLUSHED, OURS, Settings
from benchmarks.machine import describe
from benchmarks.speed import Worker, measure
from cifar_flax.reporting.figures import STYLE, TRAINING, VALIDATION
from cifar_flax.workdir.atomic import write_text

OUTPUT = Path(__file__).parents[1] / "results/costs_cpu.json"
NETWORK = "cnn"
CONTESTANTS = (OURS, FLUSHED)
BASE = {"batch_size": 32, "image_size": 32, "num_classes": 10, "num_images": 10_000}
GROWING = {
    "batch_size": (8, 32, 128, 512, 2048),
    "image_size": (16, 32, 64, 128),
    "num_classes": (10, 100, 1_000, 10_000),
    "num_images": (1_000, 10_000, 100_000, 1_000_000),
}
TITLES = {
    "batch_size": "batch size",
    "image_size": "image size, pixels",
    "num_classes": "classes",
    "num_images": "training images",
}
NUM_TEST = 1_000
TICKS = (300, 1_000, 3_000, 10_000, 30_000), (0.25, 0.5, 1, 2, 4, 8)  # of the figure's rows


def write_random_images(path: Path, image_size: int, num_classes: int, num_images: int) -> None:
    """Writes a `.npz` with the fields of `Images`. All classes occur in both splits, if the numbers allow it."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", num_images), ("test", NUM_TEST)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, image_size, image_size, 3), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % num_classes).astype(np.int32)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def measure_point(work: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of each round and peak memory of the contestants that fit into memory."""
    sizes = {name: work[name] for name in ("image_size", "num_classes", "num_images")}
    settings = Settings(work["batch_size"], num_classes=work["num_classes"])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_random_images(Path(folder) / "images.npz", **sizes)
        workers = []
        for name in CONTESTANTS:
            worker = stack.enter_context(Worker(name, NETWORK, Path(folder) / "images.npz", settings))
            try:
                print(f"{work}  {name} compiled in {worker.ready['compile_seconds']:.1f} s", flush=True)
            except RuntimeError:
                if worker.process.wait() != -signal.SIGKILL:
                    raise
                print(f"{work}  {name} was killed: the system was out of memory", flush=True)
            else:
                workers.append(worker)
        return measure(workers, options.seconds, options.rounds)


def details(record: dict[str, Any]) -> str:
    """All points: images/s of both contestants and their memory."""
    rows = []
    for point in record["points"]:
        name, measured = point["grows"], [point["contestants"].get(contestant) for contestant in CONTESTANTS]
        speeds = [table.median(each["train"]) if each else 0 for each in measured]
        ratio = f"{speeds[0] / speeds[1]:.2f}" if all(speeds) else ""
        cells = [f"{speed:,.0f}" if speed else "out of memory" for speed in speeds]
        memory = [f"{each['peak_memory_mib']:,.0f}" if each else "" for each in measured]
        rows.append([f"{TITLES[name]}: {point['work'][name]:,}", *cells, ratio, *memory])
    machine, rounds = record["machine"], len(record["points"][0]["contestants"][OURS]["train"])
    header = ["", f"{OURS}, images/s", "PyTorch, images/s", "ratio", f"{OURS}, MiB", "PyTorch, MiB"]
    return (
        f"{table.table(header, rows)}\n\n"
        f"The CNN with batches of {BASE['batch_size']}, {BASE['image_size']} pixels, {BASE['num_classes']} classes and "
        f"{BASE['num_images']:,} images, but for the quantity that grows. PyTorch runs eagerly, with denormals "
        f"flushed. Medians of {rounds} alternating rounds. Memory is the peak of the process. The PyTorch loop holds "
        "all images as float32, and twice while it converts them; this is no limit of PyTorch. cifar_flax holds uint8 "
        f"and converts each batch. {record['date']}, "
        f"{machine['processor']}, {machine['threads']} threads, {machine['memory_gib']} GiB, "
        f"{table.versions(machine)}, torch {machine['versions']['torch']}."
    )


def figure(record: dict[str, Any]) -> Figure:
    """Two rows of panels, speed and memory, with one column per quantity that grows."""
    styles = dict(zip(CONTESTANTS, ((TRAINING, "o-"), (VALIDATION, "s--")), strict=True))
    with mpl.rc_context(STYLE):
        picture = Figure(figsize=(12, 5.5), layout="constrained")
        axes = picture.subplots(2, len(GROWING), sharey="row", sharex="col")
        for column, (name, values) in zip(axes.T, GROWING.items(), strict=True):
            of_name = [point["contestants"] for point in record["points"] if point["grows"] == name]
            for contestant, (color, style) in styles.items():
                measured = [point[contestant] for point in of_name if contestant in point]
                rates = [table.median(each["train"]) for each in measured]
                column[0].plot(values[: len(rates)], rates, style, color=color, label=contestant)
                memory = [each["peak_memory_mib"] / 1024 for each in measured]
                column[1].plot(values[: len(memory)], memory, style, color=color)
            column[1].set(xlabel=TITLES[name])
            for axis in column:
                axis.set(xscale="log", yscale="log")
            column[1].set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            column[1].minorticks_off()
        for axis, title, ticks in zip(axes[:, 0], ("training images/s", "peak memory, GiB"), TICKS, strict=True):
            axis.set_ylabel(title)
            axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.minorticks_off()
        axes[0, 0].legend(fontsize=8, loc="lower left")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="training time of each contestant in each round")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    record: dict[str, Any] = {"date": date.today().isoformat(), "machine": describe(), "points": []}
    points = [(name, BASE | {name: value}) for name, values in GROWING.items() for value in values]
    if options.output.exists():
        earlier = json.loads(options.output.read_text())
        if earlier["machine"] == record["machine"] and len(earlier["points"]) < len(points):
            record = earlier  # of a benchmark that was stopped
    for name, work in points[len(record["points"]) :]:
        record["points"].append({"grows": name, "work": work, **measure_point(work, options)})
        write_text(options.output, json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}; `make results` updates the table and the figure in docs/")


if __name__ == "__main__":
    main()
