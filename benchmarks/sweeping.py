"""`python -m benchmarks.sweeping`: seconds of a sweep over two seeds, in each of the ways to train them.

One after the other, in two processes at once (--jobs 2), and in one program (--together). Each sweep is the whole
command, from its start to its table. The ways take turns, so that other load on the machine affects all of them. The
first sweep caches the images and is not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.machine import describe

SEEDS = (0, 1)
ONE_BY_ONE, AT_ONCE, TOGETHER = "one after the other", "two processes", "one program"
FLAGS = {ONE_BY_ONE: ["--jobs=1"], AT_ONCE: ["--jobs=2"], TOGETHER: ["--together"]}
EPOCHS = {"mlp": 2.0, "cnn": 3.0, "alexnet": 0.2}  # half a minute to two minutes of training for each seed
SLOW = ("alexnet",)  # not trained in one program here, which takes minutes more and shows nothing new


def run_sweep(experiment: str, epochs: float, flags: Sequence[str], folder: Path) -> float:
    """The seconds of a sweep that writes to a new folder."""
    command = [sys.executable, "-m", "cifar_flax.sweep", f"--config={experiment}", f"--config.num_epochs={epochs}"]
    start = time.perf_counter()
    seeds = f"--seeds={SEEDS[0]}-{SEEDS[-1]}"
    subprocess.run([*command, seeds, f"--workdir={folder}", *flags], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The content of run.json of each seed, with the first epoch's `train_loss`."""
    runs = []
    for seed in SEEDS:
        workdir = folder / f"seed{seed}"
        first_line = (workdir / "metrics.jsonl").read_text().splitlines()[0]
        runs.append(json.loads((workdir / "run.json").read_text()) | {"first_epoch": json.loads(first_line)})
    return runs


def measure(experiment: str, epochs: float, rounds: int, root: Path) -> dict[str, Any]:
    """All rounds of one experiment."""
    names = [name for name in FLAGS if name != TOGETHER or experiment not in SLOW]
    measured: dict[str, dict[str, Any]] = {name: {"seconds": [], "images_per_second": []} for name in names}
    run_sweep(experiment, min(epochs, 0.02), FLAGS[ONE_BY_ONE], root / f"{experiment}_first")
    losses = {}
    for number in range(rounds):
        for name in names[:: 1 if number % 2 else -1]:
            folder = root / f"{experiment}_{number}_{name.replace(' ', '_')}"
            measured[name]["seconds"].append(run_sweep(experiment, epochs, FLAGS[name], folder))
            runs = records_of(folder)
            speeds = [run["train_images_per_second"] for run in runs]
            measured[name]["images_per_second"].append(sum(speeds) / (len(speeds) if name == ONE_BY_ONE else 1))
            losses[name] = [run["first_epoch"]["train_loss"] for run in runs]
            print(
                f"{experiment:8} {name:20} {measured[name]['seconds'][-1]:7.1f} s, training "
                f"{measured[name]['images_per_second'][-1]:7,.0f} images/s",
                flush=True,
            )
    for name in names:
        pairs = zip(losses[name], losses[ONE_BY_ONE], strict=True)
        measured[name]["loss_difference"] = max(abs(loss - alone) for loss, alone in pairs)
    return {"epochs": epochs, "ways": measured}


def details(record: dict[str, Any]) -> str:
    """The table of docs/: seconds, ratios and speeds of each way, medians over the rounds."""
    rows = []
    for experiment, measured in record["experiments"].items():
        alone = measured["ways"][ONE_BY_ONE]
        for name, way in measured["ways"].items():
            ratios = [a / b for a, b in zip(alone["seconds"], way["seconds"], strict=True)]
            seconds, speed = table.median(way["seconds"]), table.median(way["images_per_second"])
            difference = f"{way['loss_difference']:.0e}" if way["loss_difference"] else "0"
            title = f"`{experiment}`, {measured['epochs']:g} epochs"
            rows.append([title, name, f"{seconds:.0f}", f"{table.median(ratios):.2f}", f"{speed:,.0f}", difference])
    header = ["two seeds", "trained", "seconds in all", "times as fast", "training images/s", "difference of the loss"]
    machine, rounds = record["machine"], len(alone["seconds"])
    return (
        f"{table.table(header, rows)}\n\n"
        f"Medians of {rounds} alternating rounds, {record['date']}, {machine['processor']}, {machine['threads']} "
        f"threads, {table.versions(machine)}. The last column: the largest difference of a seed's training loss in the "
        "first epoch from the one that it has in the first way."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeping", description=__doc__)
    parser.add_argument("--experiments", nargs="+", choices=tuple(EPOCHS), default=tuple(EPOCHS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the epochs, for a quick look (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("results/sweeping.json"), help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiments = {
            name: measure(name, EPOCHS[name] * options.share, options.rounds, Path(folder))
            for name in options.experiments
        }
    record = {"date": str(date.today()), "machine": describe(), "num_seeds": len(SEEDS), "experiments": experiments}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}; `make results` updates the table in docs/")


if __name__ == "__main__":
    main()
