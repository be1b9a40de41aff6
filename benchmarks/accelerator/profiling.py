"""Where the time of a training step goes on the accelerator."""

import contextlib
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.machine import peak_device_bytes
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.data import load
from cifar_flax.reporting.profile import TABLE, profile_steps
from cifar_flax.resume import Position
from cifar_flax.training.job import init_state, make_job_for, resolve_config, zero_metrics
from cifar_flax.training.programs import make_programs

NUM_OPERATIONS = 10
HEADER = "ms per step"  # the start of the line above the operations


def profile(experiment: str, overrides: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The start of the table that `main --profile` writes, as lines, with the slowest operations first."""
    config = load_experiment(experiment)
    config.update(dataset=dataset, num_validation=0, **overrides)
    devices = jax.devices()
    config = resolve_config(config, devices)
    data = load(config)
    job = make_job_for(config, data, devices)
    state = jax.jit(partial(init_state, job))(jax.random.key(0), data.train.images)
    position = Position(state, zero_metrics(job), epochs=[], seconds=0.0)
    programs = make_programs(job, data, config)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        profile_steps(job, programs, position, Path(folder))
        lines = Path(folder, TABLE).read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith(HEADER))
    return {"operations": lines[: first + 1 + NUM_OPERATIONS], "peak_bytes": peak_device_bytes()}
