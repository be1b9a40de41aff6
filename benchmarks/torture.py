"""`make torture`: kills a run again and again, damages its files, feeds the readers rubbish; nothing may change or lie.

The report, results/torture.json, is written after every try: stopped and started again, it goes on. docs/reliability.md
shows it (`make results`). All in all it takes about an hour on two cores.
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
from cifar_flax.workdir.atomic import replacing

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results/torture.json"
PLACE = ROOT / "runs/torture"
UNDISTURBED = PLACE / "undisturbed"
FIELDS = {"dataset": "synthetic", "num_epochs": 3, "save_seconds": 0.3}
TIMING = ("epoch_seconds", "images_per_second")
RESULTS = ("status", "best_epoch", "best_validation_loss", "best_validation_accuracy", "test_loss", "test_accuracy")
TRIES = {"SIGKILL": 200, "SIGTERM": 30}
EXAMPLES = 2500  # of each reader


def start(workdir: Path) -> subprocess.Popen:
    """The main job, on drawings, with a checkpoint every moment."""
    command = [sys.executable, "-m", "cifar_flax.main", "--config", "experiments/cnn_augmented.py"]
    command += [f"--workdir={workdir}", *(f"--config.{field}={value}" for field, value in FIELDS.items())]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(PLACE / "compiled"), "CUDA_VISIBLE_DEVICES": ""}
    with (PLACE / "output.txt").open("w") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def numbers(workdir: Path) -> dict[str, Any]:
    """All that must be the same, however often a run was killed."""
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
    """(step, tag) of every event that an epoch should have once."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [e for file in (workdir / "tensorboard").iterdir() for e in EventFileLoader(str(file)).Load()]
    return sorted((e.step, value.tag) for e in events for value in e.summary.value)


def disturb(signal_name: str, tries: int, report: dict[str, Any], expected: dict[str, Any]) -> None:
    """Sends the signal at random moments, starting the same command again each time, until it was sent often enough."""
    found = report.setdefault(signal_name, {"tries": 0, "runs": 0, "failures": []})
    workdir = PLACE / signal_name
    while found["tries"] < tries or workdir.exists():
        process = start(workdir)
        enough = found["tries"] >= tries
        try:
            process.wait(None if enough else random.uniform(0, report["kill_within_seconds"]))
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, signal_name))
            found["tries"] += 1
            ended, good = False, process.wait() in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 0)
        else:
            found["runs"] += 1
            ended, good = True, process.returncode == 0
        if not good:
            output = (PLACE / "output.txt").read_text()[-1000:]
            found["failures"].append(f"exit code {process.returncode}: {output}")
        elif ended and (got := numbers(workdir)) != expected:
            good = False
            found["failures"].append(f"differs: {[name for name in got if got[name] != expected[name]]}")
        if not good and workdir.exists():
            workdir.rename(PLACE / f"{signal_name}_failed_{time.time_ns()}")  # to be looked at
        elif good and ended:
            shutil.rmtree(workdir)
        write(report)
        print(f"{signal_name}: {found['tries']} of {tries}, {found['runs']} runs, {len(found['failures'])} failures")


def examine(report: dict[str, Any]) -> None:
    """Every file of a workdir damaged in every way, and the readers' generated inputs: as tests, with more of them."""
    lines = PLACE / "examples.jsonl"
    lines.unlink(missing_ok=True)
    environment = os.environ | {"CIFAR_FLAX_EXAMPLES": str(EXAMPLES), "CIFAR_FLAX_HOSTILE_REPORT": str(lines)}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/faults"]
    tests = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    report["tests"] = tests.stdout.strip().splitlines()[-1]
    report["readers"] = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    write(report)
    print(tests.stdout[-2000:])


def write(report: dict[str, Any]) -> None:
    with replacing(REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in TRIES.items():
        parser.add_argument(f"--{name.lower()}", type=int, default=count, help=f"how often; default {count}")
    tries = vars(parser.parse_args())
    PLACE.mkdir(parents=True, exist_ok=True)
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    if not UNDISTURBED.exists() or "kill_within_seconds" not in report:
        for _ in range(2):  # the first one compiles and draws
            shutil.rmtree(UNDISTURBED, ignore_errors=True)
            began = time.monotonic()
            if start(UNDISTURBED).wait():
                raise SystemExit((PLACE / "output.txt").read_text())
        report = {"date": date.today().isoformat(), "machine": describe(), "fields": FIELDS}
        report["kill_within_seconds"] = time.monotonic() - began
        write(report)
    expected = numbers(UNDISTURBED)
    for name in TRIES:
        disturb(name, tries[name.lower()], report, expected)
    if "tests" not in report:
        examine(report)


if __name__ == "__main__":
    main()
