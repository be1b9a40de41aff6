"""Complete runs of an experiment on the accelerator: seconds and test accuracy."""

import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import peak_device_bytes
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.train import train_and_evaluate

FIELDS = ("train_seconds", "compile_seconds", "test_accuracy", "tta_test_accuracy")  # of run.json


def train(
    experiment: str, seeds: Sequence[int], dtypes: Sequence[str], overrides: dict[str, Any], dataset: str
) -> dict[str, Any]:
    """Trains the first seed with each dtype, and the others with the one whose training took less time.

    The programs of the later seeds come from JAX's cache, so only the first run with a dtype has the seconds of a
    compilation. `seconds` are those of the whole run: with data, compilation, figures, checkpoints and test.
    """
    with tempfile.TemporaryDirectory() as folder:

        def run(seed: int, dtype: str) -> dict[str, Any]:
            config = load_experiment(experiment)
            config.update(dataset=dataset, dtype=dtype, seed=seed, **overrides)
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                record = train_and_evaluate(config, Path(folder, dtype, f"seed{seed}"))
            measured = {field: record[field] for field in FIELDS if field in record}
            seconds = time.perf_counter() - start
            accuracy = record.get("tta_test_accuracy", record["test_accuracy"])
            print(f"  seed {seed}, {dtype}: {record['train_seconds']:.2f} s, {accuracy:.2%}", flush=True)
            return {"seed": seed, "seconds": seconds, **measured}

        first = {dtype: run(seeds[0], dtype) for dtype in dtypes}
        fastest = min(dtypes, key=lambda dtype: first[dtype]["train_seconds"])
        runs = [first[fastest], *(run(seed, fastest) for seed in seeds[1:])]
    return {"dtype": fastest, "first_seed": first, "runs": runs, "peak_bytes": peak_device_bytes()}
