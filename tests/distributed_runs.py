"""Starts the processes of one run on this machine, and ends them."""

import json
import os
import time
from pathlib import Path

from processes import start, train_command

from cifar_flax.distributed.hub import free_port

TIMEOUT = 240  # seconds; a process that takes longer hangs


def place(process, num_processes, port, *arguments):
    """The flags of a process, with a time limit in case that another one does not start."""
    flags = ["--coordinator", f"127.0.0.1:{port}", "--num_processes", num_processes, "--process_id", process]
    return [*flags, "--join_timeout", 120, *arguments]


def devices(count):
    """The variables of a process with this number of simulated devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def start_all(dataset, workdir, num_processes, *arguments, variables=None, each=lambda process: [], experiment="mlp"):
    """Starts all processes of a run; only process 0 gets the workdir.

    Args:
        dataset: see `train_command`.
        workdir: of process 0. The others get a folder that must never exist.
        num_processes: of the run.
        *arguments: of all processes.
        variables: of a process by its number, or of all.
        each: the further arguments of a process.
        experiment: the name of the experiment.
    """
    port = free_port()

    def one(process):
        folder = workdir if process == 0 else workdir.with_name(f"{workdir.name}_unused")
        flags = [*place(process, num_processes, port), *arguments, *each(process)]
        own = variables(process) if callable(variables) else variables
        return start(train_command(dataset, folder, *flags, experiment=experiment), variables=own)

    return [one(process) for process in range(num_processes)]


def finish(processes):
    """(exit code, stdout, stderr) of each process; none hangs."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def run_all(*arguments, **keywords):
    return finish(start_all(*arguments, **keywords))


def wait_until_saved(workdir, process):
    """Waits until the run has saved a checkpoint."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if "checkpoint_step" in json.loads((workdir / "run.json").read_text()):
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise AssertionError("the run ended, or took too long, before it saved a checkpoint")


def trainer_of(process):
    """The process that computes, which a process of the run has started."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_gone(pids):
    """Asserts that no process is left after a few seconds."""
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.05)
