"""`make torture`: kills runs, damages their files and feeds generated inputs to the readers.

A killed run must end with the results of an undisturbed one. The report, results/torture.json, is written after each
trial, so that an interrupted `make torture` resumes. `make results` copies it to docs/reliability.md. It takes about an
hour on two cores.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from cifar_flax.workdir.atomic import write_text

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results/torture.json"
FOLDER = ROOT / "runs/torture"
UNDISTURBED = FOLDER / "undisturbed"
OVERRIDES = {"dataset": "synthetic", "num_epochs": 3, "save_seconds": 0.3}
TIMING = ("epoch_seconds", "images_per_second")
RESULTS = ("status", "best_epoch", "best_validation_loss", "best_validation_accuracy", "test_loss", "test_accuracy")
NUM_SIGNALS = {"SIGKILL": 200, "SIGTERM": 30}
EXAMPLES_PER_READER = 2500


def start(workdir: Path) -> subprocess.Popen:
    """Starts a training run on synthetic images with frequent checkpoints."""
    command = [sys.executable, "-m", "cifar_flax.main", "--config", "experiments/cnn_augmented.py"]
    command += [f"--workdir={workdir}", *(f"--config.{field}={value}" for field, value in OVERRIDES.items())]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(FOLDER / "compiled"), "CUDA_VISIBLE_DEVICES": ""}
    with (FOLDER / "output.txt").open("w") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def numbers(workdir: Path) -> dict[str, Any]:
    """The parts of a workdir that must not depend on how often the run was killed."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    run = json.loads((workdir / "run.json").read_text())
    newest = max((workdir / "checkpoints/latest").glob("[0-9]*"), key=lambda folder: int(folder.name))
    return {
        "metrics": [{name: value for name, value in line.items() if name not in TIMING} for line in lines],
        "results": {name: run[name] for name in RESULTS},
        "arrays": json.loads((newest / "progress/metadata").read_text())["checksums"],
        "events": epochs_in_tensorboard(workdir),
    }


def epochs_in_tensorboard(workdir: Path) -> list[tuple[int, str]]:
    """(step, tag) of all events. Each should occur once per epoch."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [e for file in (workdir / "tensorboard").iterdir() for e in EventFileLoader(str(file)).Load()]
    return sorted((e.step, value.tag) for e in events for value in e.summary.value)


def disturb(signal_name: str, tries: int, report: dict[str, Any], expected: dict[str, Any]) -> None:
    """Sends the signal at random times and restarts the same command each time, until it was sent `tries` times.

    A signal may arrive before the workdir exists; so at least one run is finished in any case.
    """
    counts = report.setdefault(signal_name, {"tries": 0, "runs": 0, "failures": []})
    workdir = FOLDER / signal_name
    while counts["tries"] < tries or not counts["runs"] or workdir.exists():
        process = start(workdir)
        enough = counts["tries"] >= tries
        try:
            process.wait(None if enough else random.uniform(0, report["kill_within_seconds"]))
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, signal_name))
            counts["tries"] += 1
            finished, good = False, process.wait() in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 0)
        else:
            counts["runs"] += 1
            finished, good = True, process.returncode == 0
        if not good:
            output = (FOLDER / "output.txt").read_text()[-1000:]
            counts["failures"].append(f"exit code {process.returncode}: {output}")
        elif finished and (got := numbers(workdir)) != expected:
            good = False
            counts["failures"].append(f"differs: {[name for name in got if got[name] != expected[name]]}")
        if not good and workdir.exists():
            workdir.rename(FOLDER / f"{signal_name}_failed_{time.time_ns()}")  # for inspection
        elif good and finished:
            shutil.rmtree(workdir)
        write(report)
        print(f"{signal_name}: {counts['tries']} of {tries}, {counts['runs']} runs, {len(counts['failures'])} failures")


def examine(report: dict[str, Any]) -> None:
    """Runs tests/faults with more examples: damages to all files of a workdir, and generated inputs for each reader."""
    lines = FOLDER / "examples.jsonl"
    lines.unlink(missing_ok=True)
    environment = os.environ | {
        "CIFAR_FLAX_EXAMPLES": str(EXAMPLES_PER_READER),
        "CIFAR_FLAX_HOSTILE_REPORT": str(lines),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/faults"]
    tests = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    report["tests"] = tests.stdout.strip().splitlines()[-1]
    report["readers"] = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    write(report)
    print(tests.stdout[-2000:])


def write(report: dict[str, Any]) -> None:
    write_text(REPORT, json.dumps(report, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in NUM_SIGNALS.items():
        parser.add_argument(f"--{name.lower()}", type=int, default=count, help=f"number of signals; default: {count}")
    tries = vars(parser.parse_args())
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    if not UNDISTURBED.exists() or "kill_within_seconds" not in report:
        for _ in range(2):  # the first run also compiles the programs and creates the dataset
            shutil.rmtree(UNDISTURBED, ignore_errors=True)
            started = time.monotonic()
            if start(UNDISTURBED).wait():
                raise SystemExit((FOLDER / "output.txt").read_text())
        report = {"date": date.today().isoformat(), "machine": describe(), "fields": OVERRIDES}
        report["kill_within_seconds"] = time.monotonic() - started
        write(report)
    expected = numbers(UNDISTURBED)
    for name in NUM_SIGNALS:
        disturb(name, tries[name.lower()], report, expected)
    if "tests" not in report:
        examine(report)


if __name__ == "__main__":
    main()
