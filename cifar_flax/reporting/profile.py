"""`--profile`: a profile of a few training steps, for Perfetto and XProf, and a table of their operations."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.profiler import ProfileData, ProfileOptions

from cifar_flax.errors import BadInput, in_one_line, is_out_of_memory, warn
from cifar_flax.reporting import console
from cifar_flax.resume import Position
from cifar_flax.training.job import Job
from cifar_flax.training.programs import Programs
from cifar_flax.workdir.atomic import write_text

MAX_SECONDS, MAX_STEPS = 2.0, 100  # so that signals are answered soon, and viewers open the trace quickly
NUM_OPERATIONS = 20  # in the table
TRACE, TABLE = "perfetto_trace.json.gz", "operations.txt"
BODY = re.compile(r"jit\(train_\w+\)/while/body/")  # the start of the names of all operations of a step


def profile_steps(job: Job, programs: Programs, position: Position, folder: Path) -> None:
    """Profiles the steps after a position, and prints where the profile is and how to open it.

    The steps run on a copy of the state, which is discarded, so that the training is the same as without a profile. Two
    calls that are not recorded come first, because the very first is slower.

    Args:
        job: the run's sizes.
        programs: the compiled functions; `train_steps` is profiled as it is.
        position: at any step.
        folder: receives the profile. Each profile has its own folder within it, and the newest replaces the files
            TRACE and TABLE.

    Raises:
        BadInput: another profile is being recorded in this process, or the copy does not fit into memory.
        OSError: the profile cannot be written.
    """
    num_left = job.steps_after(position.step // job.steps_per_epoch + 1) - position.step  # in the epoch
    if not num_left:
        warn("--profile: all steps are trained already, so nothing is profiled")
        return
    with _copy_fits():
        order = programs.epoch_order(position.state.rng, np.int32(position.step // job.steps_per_epoch))
        seconds = min(_train_copy(programs, position, order, 1) for _ in range(2))
        num_steps = min(num_left, MAX_STEPS, max(1, round(MAX_SECONDS / seconds)))
        with _recorded(folder):
            seconds = _train_copy(programs, position, order, num_steps)
    newest = max(folder.glob("plugins/profile/*"), key=lambda path: path.stat().st_mtime)
    (newest / TRACE).replace(folder / TRACE)
    profile = ProfileData.from_file(str(next(newest.glob("*.xplane.pb"))))
    write_text(folder / TABLE, operations_table(profile, programs.train_steps.as_text(), num_steps, seconds))
    console.say(f"profile     {_steps(num_steps, 'step')}, in {folder}; the slowest operations are in {TABLE}")
    console.say(f"view it     drop {TRACE} onto ui.perfetto.dev, or: pip install xprof; xprof --logdir {folder}\n")


def _train_copy(programs: Programs, position: Position, order: jax.Array, num_steps: int) -> float:
    """Trains a copy of the position, which is discarded, and returns the seconds that it took."""
    state, metrics = jax.tree.map(jnp.copy, (position.state, position.metrics))  # the function overwrites them
    stop = np.int32(position.step + num_steps)
    arguments = state, metrics, order, programs.train.images, programs.train.labels, stop
    jax.block_until_ready(arguments)
    start = time.perf_counter()
    jax.block_until_ready(programs.train_steps(*arguments))
    return time.perf_counter() - start


@contextmanager
def _copy_fits() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = "a second copy of the training state does not fit into memory; leave out --profile"
        raise BadInput(f"--profile: {advice} ({in_one_line(error)})") from error


@contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """Records what JAX does in the block, and writes it to the folder."""
    (folder / "plugins" / "profile").mkdir(parents=True, exist_ok=True)  # here an error names the path
    options = ProfileOptions()
    options.python_tracer_level = 0  # there is a single call
    try:
        jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
    except RuntimeError as error:
        raise BadInput(f"--profile: {in_one_line(error)} End the other profile, or leave out --profile") from error
    try:
        yield
    finally:
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, ValueError) as error:  # XLA's file errors, or a missing folder
            raise OSError(f"the profile: {in_one_line(error)}") from error


def _steps(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def operations_table(profile: ProfileData, program: str, num_steps: int, seconds: float) -> str:
    """The operations that took most of the time.

    Args:
        profile: of one call of the compiled `train_steps`.
        program: its text, which says where in the model each operation comes from.
        num_steps: the steps of the call.
        seconds: the time of the call.
    """
    durations, calls = time_of_operations(profile)
    total = sum(durations.values())
    sources = dict(re.findall(r'^\s*(?:ROOT )?%?(\S+) = .*?op_name="([^"]*)"', program, re.MULTILINE))
    lines = [
        f"{_steps(num_steps, 'training step')} took {seconds:.3f} s while being recorded. The time of an operation is",
        "summed over threads or streams, without the operations within it. In the last column, transpose(jvp(...))",
        "stands for a gradient, and cond/branch_1_fun for the optimizer.",
        "",
        f"{'ms per step':>11} {'%':>6} {'calls':>6}  {'operation':32}  where it comes from",
    ]
    for name, duration in durations.most_common(NUM_OPERATIONS):
        source = BODY.sub("", sources.get(name, ""), count=1)
        fraction = f"{duration / total:.1%}"
        lines.append(f"{duration / num_steps / 1e6:11.3f} {fraction:>6} {calls[name]:6}  {name:32}  {source}".rstrip())
    return "\n".join(lines) + "\n"


def time_of_operations(profile: ProfileData) -> tuple[Counter[str], Counter[str]]:
    """The nanoseconds that each operation took, without the operations within it, and the number of its calls."""
    durations: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for line in (line for plane in profile.planes for line in plane.lines):
        operations = ((event, dict(event.stats).get("hlo_op")) for event in line.events)
        spans = [(event.start_ns, event.end_ns, name) for event, name in operations if name]
        enclosing: list[tuple[float, str]] = []  # the end and the name of each operation around the current one
        for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
            while enclosing and enclosing[-1][0] <= start:
                enclosing.pop()
            if enclosing:
                durations[enclosing[-1][1]] -= end - start
            durations[name] += end - start
            calls[name] += 1
            enclosing.append((end, name))
    return durations, calls
