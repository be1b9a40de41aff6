"""`python -m benchmarks.startup`: measures the time from launch to the first training step, and the memory of a run.

Runs the training command on CIFAR-10 in a process of its own. The first start decodes the data and is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe

EXPERIMENTS = ("mlp", "cnn", "cnn_augmented", "alexnet")
SHORT_RUN = "0.1"  # epochs; enough to train, validate, save, draw figures and test


def first_step(start: float, arguments: list[str]) -> None:
    """Runs the command until its first chunk, a single step, is trained. Prints the seconds since `start` by phase."""
    from cifar_flax import main, train
    from cifar_flax.reporting import console
    from cifar_flax.reporting.run_log import RunLog
    from cifar_flax.training.programs import Programs

    spent = {"imports": time.time() - start}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called = time.time()
            result = function(*args, **kwargs)
            spent[name] = time.time() - called
            return result

        return call

    def compiled(_: RunLog, programs: Programs) -> None:
        spent["compilation"] = programs.compile_seconds

    def finish(*_: Any) -> None:
        spent["total"] = time.time() - start
        print(json.dumps(spent), file=sys.stderr, flush=True)
        os._exit(0)

    train.load = timed("data", train.load)
    RunLog.compiled = compiled  # type: ignore[method-assign, assignment]
    console.EpochProgress.update = finish  # type: ignore[method-assign, assignment]
    sys.exit(main.main(arguments))


def command(experiment: str, workdir: Path) -> list[str]:
    return ["--config", f"experiments/{experiment}.py", "--workdir", str(workdir)]


def measure_first_step(experiment: str, workdir: Path) -> dict[str, float]:
    arguments = [sys.executable, "-m", "benchmarks.startup", "--child", str(time.time()), *command(experiment, workdir)]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True)
    spent: dict[str, float] = json.loads(process.stderr.splitlines()[-1])
    return spent


def measure_peak_memory(experiment: str, workdir: Path) -> float:
    """Peak resident memory of a short run in MiB."""
    arguments = [*command(experiment, workdir), f"--config.num_epochs={SHORT_RUN}"]
    process = subprocess.Popen([sys.executable, "-m", "cifar_flax.main", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{experiment} failed with exit code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024  # KiB on Linux


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        first_step(float(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file; default: results/startup_PLATFORM.json")
    options = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for experiment in options.experiments:
            measure_first_step(experiment, Path(folder) / f"{experiment}_first")  # may have to decode the data
            rounds = [
                measure_first_step(experiment, Path(folder) / f"{experiment}{number}")
                for number in range(options.rounds)
            ]
            peak = measure_peak_memory(experiment, Path(folder) / experiment)
            measured[experiment] = {"rounds": rounds, "peak_memory_mib": peak}
            seconds = np.median([spent["total"] for spent in rounds])
            print(f"{experiment:14} first step after {seconds:5.1f} s, peak memory {peak:6,.0f} MiB", flush=True)
    machine = describe()
    path = options.output or Path(f"results/startup_{machine['platform']}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "experiments": measured}, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
