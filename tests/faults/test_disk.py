"""Full and read-only disks, disappearing folders, two processes in one workdir, and the memory use of long runs."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import ROOT, run
from run_records import ONE_DEVICE, assert_same_run, metrics_of, run_of

from cifar_flax.errors import BadInput, Unwritable
from cifar_flax.reporting import console
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import records
from cifar_flax.workdir.lock import lock_workdir

pytestmark = pytest.mark.medium

MAX_FILE_BYTES = 500_000  # a quarter of the size of the CNN's largest kernel


def train_cnn(workdir, max_file_bytes):
    """Trains the CNN for a tenth of an epoch, in a process whose files cannot exceed the limit."""
    set_limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1));"
    set_limit += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", set_limit, str(max_file_bytes), "-m", "cifar_flax.main"]
    command += ["--config=experiments/cnn.py:smoke", "--config.num_epochs=0.1", f"--workdir={workdir}"]
    return run(command)


def test_full_disk_ends_the_run_with_one_line(tmp_path):
    code, _, err = train_cnn(tmp_path / "w", MAX_FILE_BYTES)
    assert code == 1, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert f"{tmp_path}/w/" in line
    assert "cannot be written" in line
    assert run_of(tmp_path / "w")["status"] == "failed"
    assert not list((tmp_path / "w/checkpoints/latest").iterdir())  # no half-written checkpoint remains
    assert train_cnn(tmp_path / "w", resource.RLIM_INFINITY)[0] == 0


def test_run_whose_folder_disappears_keeps_what_was_saved(tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "undisturbed", ONE_DEVICE)
    latest = tmp_path / "w/checkpoints/latest"
    with monkeypatch.context() as patch:
        epoch_line = console.epoch_line

        def unplug(*arguments, **keywords):
            epoch_line(*arguments, **keywords)
            latest.rename(tmp_path / "unplugged")
            latest.write_text("")

        patch.setattr(console, "epoch_line", unplug)
        with pytest.raises(Unwritable, match=rf"{latest}.* cannot be written"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    latest.unlink()
    (tmp_path / "unplugged").rename(latest)
    assert len(metrics_of(tmp_path / "w")) == 1
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "undisturbed")


def test_disk_that_becomes_read_only_is_reported(tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "undisturbed", ONE_DEVICE)
    with monkeypatch.context() as patch:
        write = records.write_text

        def fail_from_second_epoch(path, text):
            if text.count('"epoch": ') == 2:  # the metrics of the second epoch, and all files after them
                patch.setattr(records, "write_text", fail)
                fail(path, text)
            write(path, text)

        def fail(path, text):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        patch.setattr(records, "write_text", fail_from_second_epoch)
        with pytest.raises(Unwritable, match=r"metrics\.jsonl cannot be written \(Read-only file system\)"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "undisturbed")


def test_second_process_is_refused_until_the_first_ends(tiny_config, tmp_path):
    hold_lock = "import sys, time, pathlib; from cifar_flax.workdir.lock import lock_workdir\n"
    hold_lock += "with lock_workdir(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", hold_lock, tmp_path / "w"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BadInput, match="another process is training in"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
        assert not (tmp_path / "w/config.json").exists()
        other.kill()
        other.wait()
    assert train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)["status"] == "done"


def test_workdir_that_stays_empty_is_removed(tmp_path):
    with lock_workdir(tmp_path / "new"):
        assert (tmp_path / "new").exists()
    assert not (tmp_path / "new").exists()


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory and open files from Linux' /proc")
def test_long_run_needs_no_more_memory_files_or_threads(tiny_config, tmp_path, monkeypatch):
    usage = []
    epoch_line = console.epoch_line

    def watch(*arguments, **keywords):
        epoch_line(*arguments, **keywords)
        usage.append((resident_mib(), len(os.listdir("/proc/self/fd")), threading.active_count()))  # noqa: PTH208

    monkeypatch.setattr(console, "epoch_line", watch)
    tiny_config.num_epochs = 40.0
    train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert usage[-1][0] < usage[9][0] + 16, json.dumps(usage)  # MiB; malloc sometimes allocates 8 MiB at once
    for quantity in (1, 2):  # Orbax ends its threads without waiting for them
        early, late = ([row[quantity] for row in rows] for rows in (usage[5:15], usage[-10:]))
        assert min(late) <= max(early), json.dumps(usage)
