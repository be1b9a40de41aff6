"""`python -m benchmarks.torture_distributed`: disturbs runs over two processes, each on a host of its own.

The hosts are network namespaces (iproute2, as root). Each run is disturbed at random moments, and the same commands are
given again each time, until it is done: it must end with the results of an undisturbed one, and leave no process. The
report, results/torture_distributed.json, is written after each disturbance, so that an interrupted one resumes. `make
torture` includes it. It takes about an hour on two cores.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.table import table
from benchmarks.torture import ROOT, numbers
from cifar_flax.workdir.atomic import write_text

REPORT = ROOT / "results/torture_distributed.json"
FOLDER = ROOT / "runs/torture_distributed"
HOSTS, DEVICES = ("torture0", "torture1"), ("veth-torture0", "veth-torture1")
ADDRESSES = ("10.77.7.1", "10.77.7.2")
OVERRIDES = {"dataset": "synthetic", "num_epochs": 4, "batch_size": 400, "save_seconds": 0.3}
CAMPAIGNS = {"SIGKILL": 40, "SIGTERM": 40, "link": 20}
LINK_SECONDS = 30.0
END_SECONDS = 90.0  # after which no process may be left


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def make_hosts() -> None:
    remove_hosts()
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", DEVICES[0], "netns", HOSTS[0], "type", "veth", "peer", "name", DEVICES[1], "netns", HOSTS[1])
    for host, device, address in zip(HOSTS, DEVICES, ADDRESSES, strict=True):
        ip("-n", host, "addr", "add", f"{address}/24", "dev", device)
        ip("-n", host, "link", "set", device, "up")
        ip("-n", host, "link", "set", "lo", "up")


def remove_hosts() -> None:
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], stderr=subprocess.DEVNULL)


def start(workdir: Path, port: int) -> list[subprocess.Popen]:
    """Starts both processes of a run."""
    command = [sys.executable, "-m", "cifar_flax.main", "--config", "experiments/mlp.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in OVERRIDES.items()]
    command += [f"--coordinator={ADDRESSES[0]}:{port}", "--num_processes=2", "--join_timeout=60"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(FOLDER / "compiled"), "JAX_PLATFORMS": "cpu"}
    processes = []
    for process, host in enumerate(HOSTS):
        with (FOLDER / f"output{process}.txt").open("w") as output:
            arguments = ["ip", "netns", "exec", host, *command, f"--process_id={process}"]
            processes.append(
                subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    return processes


def family(processes: Sequence[subprocess.Popen]) -> list[int]:
    """The processes of a run with those that compute."""
    pids = [process.pid for process in processes]
    children = [Path(f"/proc/{pid}/task/{pid}/children") for pid in pids]
    return pids + [int(pid) for path in children if path.exists() for pid in path.read_text().split()]


def disturb(kind: str, processes: Sequence[subprocess.Popen]) -> None:
    if kind == "link":
        ip("-n", HOSTS[1], "link", "set", DEVICES[1], "down")
        time.sleep(LINK_SECONDS)
        ip("-n", HOSTS[1], "link", "set", DEVICES[1], "up")
        return
    with contextlib.suppress(ProcessLookupError):  # it ended just now
        os.kill(random.choice(family(processes)), getattr(signal, kind))


def disturb_runs(kind: str, tries: int, report: dict[str, Any], expected: dict[str, Any]) -> None:
    """Disturbs runs at random moments, and gives the same commands again each time, until it was done `tries` times."""
    counts = report["campaigns"].setdefault(kind, {"campaigns": 0, "runs": 0, "failures": []})
    workdir = FOLDER / kind
    while counts["campaigns"] < tries or workdir.exists():
        processes = start(workdir, random.randrange(10_000, 30_000))
        if counts["campaigns"] < tries:
            time.sleep(random.uniform(0, report["within_seconds"]))
        pids = family(processes)
        if counts["campaigns"] < tries and any(process.poll() is None for process in processes):
            disturb(kind, processes)
            counts["campaigns"] += 1
        limit = END_SECONDS + 5 * report["within_seconds"]  # a run that goes on after the disturbance may end by itself
        problem = finish(processes, pids, limit) or (compare(workdir, expected) if is_done(processes) else None)
        if problem:
            counts["failures"].append(problem)
            if workdir.exists():
                workdir.rename(FOLDER / f"{kind}_failed_{time.time_ns()}")  # for inspection
        elif is_done(processes):
            counts["runs"] += 1
            shutil.rmtree(workdir)
        write(report)
        print(f"{kind}: {counts['campaigns']} of {tries}, {counts['runs']} runs, {len(counts['failures'])} failures")


def finish(processes: Sequence[subprocess.Popen], pids: list[int], limit: float) -> str | None:
    """Waits for the end of all processes. Returns what went wrong, or None."""
    try:
        for process in processes:
            process.wait(limit)
    except subprocess.TimeoutExpired:
        for pid in family(processes):
            with contextlib.suppress(ProcessLookupError):  # one of them may have ended
                os.kill(pid, signal.SIGKILL)
        return f"a process hangs: {outputs()}"
    deadline = time.monotonic() + END_SECONDS
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            return f"processes are left: {left}"
        time.sleep(0.1)
    codes = [process.returncode for process in processes]
    if not set(codes) <= {0, 1, 143, -signal.SIGKILL, -signal.SIGTERM} or "Traceback" in str(outputs()):
        return f"exit codes {codes}: {outputs()}"
    return None


def is_done(processes: Sequence[subprocess.Popen]) -> bool:
    return [process.returncode for process in processes] == [0, 0]


def compare(workdir: Path, expected: dict[str, Any]) -> str | None:
    got = numbers(workdir)
    return None if got == expected else f"differs: {[name for name in got if got[name] != expected[name]]}"


def outputs() -> list[str]:
    return [(FOLDER / f"output{process}.txt").read_text()[-1000:] for process in range(2)]


def write(report: dict[str, Any]) -> None:
    write_text(REPORT, json.dumps(report, indent=2) + "\n")


def summary(record: dict[str, Any]) -> str:
    """A table of the campaigns."""
    titles = {"SIGKILL": "kill -9 of one of the four processes", "SIGTERM": "SIGTERM to one of the four processes"}
    titles["link"] = f"connection interrupted for {LINK_SECONDS:.0f} s"
    rows = [
        [titles[kind], f"{counts['campaigns']}", f"{counts['runs']}", f"{len(counts['failures'])}"]
        for kind, counts in record["campaigns"].items()
    ]
    machine, overrides = record["machine"], record["fields"]
    return (
        f"{table(['at a random moment', 'disturbances', 'finished runs', 'failures'], rows)}\n\n"
        f"{record['date']}, {machine['processor']}, {machine['threads']} threads. Two processes in network namespaces "
        f"of their own, each with the process that computes: `mlp` on synthetic images, {overrides['num_epochs']} "
        f"epochs, a checkpoint every {overrides['save_seconds']} s. It is a failure if a finished run differs "
        f"from an undisturbed one by a bit, or if a process is left {END_SECONDS:.0f} s later "
        f"(`python -m benchmarks.torture_distributed`)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, count in CAMPAIGNS.items():
        parser.add_argument(f"--{kind.lower()}", type=int, default=count, help=f"campaigns; default: {count}")
    wanted = vars(parser.parse_args())
    if shutil.which("ip") is None or os.geteuid():
        raise SystemExit("the hosts need iproute2 and root")
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    undisturbed = FOLDER / "undisturbed"
    make_hosts()
    try:
        if not undisturbed.exists() or "within_seconds" not in report:
            for port in (7777, 7778):  # the first run also compiles the programs and creates the dataset
                shutil.rmtree(undisturbed, ignore_errors=True)
                started = time.monotonic()
                processes = start(undisturbed, port)
                if max(process.wait() for process in processes):
                    raise SystemExit(str(outputs()))
            report = {"date": date.today().isoformat(), "machine": describe(), "fields": OVERRIDES, "campaigns": {}}
            report["within_seconds"] = time.monotonic() - started
            write(report)
        expected = numbers(undisturbed)
        for kind in CAMPAIGNS:
            disturb_runs(kind, wanted[kind.lower()], report, expected)
    finally:
        remove_hosts()


if __name__ == "__main__":
    main()
