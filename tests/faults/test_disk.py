"""A disk that is full, a folder that goes away, two processes in one workdir, and a run that goes on for long."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from run_records import ONE, assert_same_run, metrics_of, run_of

from cifar_flax.errors import BadInput, Unwritable
from cifar_flax.reporting import console
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import records
from cifar_flax.workdir.records import alone

ROOT = Path(__file__).parents[2]
LIMIT = 500_000  # bytes of a file; the CNN's largest kernel has four times as many


def train_a_little(workdir, limit):
    """Half an epoch of the CNN in a process whose files cannot grow beyond the limit."""
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1));"
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", limited, str(limit), "-m", "cifar_flax.main"]
    command += ["--config=experiments/cnn.py:smoke", "--config.num_epochs=0.1", f"--workdir={workdir}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_full_disk_ends_the_run_with_one_line(tmp_path):
    full = train_a_little(tmp_path / "w", LIMIT)
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("failed: ")]
    assert f"{tmp_path}/w/" in line
    assert "cannot be written" in line
    assert run_of(tmp_path / "w")["status"] == "failed"
    assert not list((tmp_path / "w/checkpoints/latest").iterdir())  # nothing half written takes up room
    assert train_a_little(tmp_path / "w", resource.RLIM_INFINITY).returncode == 0


def test_a_folder_that_goes_away_in_mid_run_costs_nothing_saved(tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "straight", ONE)
    latest = tmp_path / "w/checkpoints/latest"
    with monkeypatch.context() as patch:
        line = console.epoch_line

        def unplug(title, epochs):
            line(title, epochs)
            latest.rename(tmp_path / "unplugged")
            latest.write_text("")

        patch.setattr(console, "epoch_line", unplug)
        with pytest.raises(Unwritable, match=rf"{latest}.* cannot be written"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    latest.unlink()
    (tmp_path / "unplugged").rename(latest)
    assert len(metrics_of(tmp_path / "w")) == 1
    train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert_same_run(tmp_path / "w", tmp_path / "straight")


def test_a_disk_that_turns_read_only_in_mid_run_is_named(tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "straight", ONE)
    with monkeypatch.context() as patch:
        write = records._write

        def read_only(path, text):
            if text.count('"epoch": ') == 2:  # the metrics of the second epoch, and all that comes after them
                patch.setattr(records, "_write", refused)
                refused(path, text)
            write(path, text)

        def refused(path, text):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        patch.setattr(records, "_write", read_only)
        with pytest.raises(Unwritable, match=r"metrics\.jsonl cannot be written \(Read-only file system\)"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    train_and_evaluate(tiny_config, tmp_path / "w", ONE)
    assert_same_run(tmp_path / "w", tmp_path / "straight")


def test_a_second_process_is_refused_at_once_and_a_dead_one_forgotten(tiny_config, tmp_path):
    keep_it = "import sys, time, pathlib; from cifar_flax.workdir.records import alone\n"
    keep_it += "with alone(pathlib.Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", keep_it, tmp_path / "w"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(BadInput, match="another process trains in"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE)
        assert not (tmp_path / "w/config.json").exists()
        other.kill()
        other.wait()
    assert train_and_evaluate(tiny_config, tmp_path / "w", ONE)["status"] == "done"


def test_the_lock_leaves_nothing_where_nothing_was_written(tmp_path):
    with alone(tmp_path / "new"):
        assert (tmp_path / "new").exists()
    assert not (tmp_path / "new").exists()


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and files are read from Linux' /proc")
def test_a_long_run_needs_no_more_memory_files_or_threads_than_a_short_one(tiny_config, tmp_path, monkeypatch):
    seen = []
    line = console.epoch_line

    def watch(title, epochs):
        line(title, epochs)
        seen.append((resident_mib(), len(os.listdir("/proc/self/fd")), threading.active_count()))  # noqa: PTH208

    monkeypatch.setattr(console, "epoch_line", watch)
    tiny_config.num_epochs = 40.0
    train_and_evaluate(tiny_config, tmp_path, ONE)
    (memory, files, threads), (memory_after, files_after, threads_after) = seen[9], seen[-1]
    assert memory_after < memory + 16, json.dumps(seen)  # MiB; malloc takes eight at once now and then
    assert files_after <= files
    assert threads_after <= threads
