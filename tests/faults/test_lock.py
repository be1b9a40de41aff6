"""The lock of a workdir on file systems without flock, which a preloaded library simulates."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_records import run_of

from cifar_flax.errors import BadInput
from cifar_flax.workdir.lock import lock_workdir

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
NO_FLOCK = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""
HOLD = """
import pathlib, sys
from cifar_flax.errors import BadInput
from cifar_flax.workdir.lock import lock_workdir
try:
    with lock_workdir(pathlib.Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
except BadInput as error:
    print(error)
"""
NUMBERS = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK]


@pytest.fixture(scope="module")
def no_flock(tmp_path_factory):
    """A function that returns the environment of a process whose flock fails with a number."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs gcc, and a linker that preloads libraries")
    folder = tmp_path_factory.mktemp("no_flock")
    (folder / "no_flock.c").write_text(NO_FLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "no_flock.so", "no_flock.c"], cwd=folder, check=True)

    def environment(number):
        inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        return inherited | {
            "LD_PRELOAD": str(folder / "no_flock.so"),
            "FLOCK_ERRNO": str(number),
            "PYTHONPATH": str(ROOT),
        }

    return environment


def start(workdir, environment):
    """A process that prints `locked`, or why it is refused, and holds the lock until its stdin is closed."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, workdir], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def answer(workdir, environment):
    out, err = start(workdir, environment).communicate("")
    assert err == ""
    return out.strip()


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_second_process_is_refused_where_flock_does_not_work(number, no_flock, tmp_path):
    environment, workdir = no_flock(number), tmp_path / "w"
    workdir.mkdir()
    (workdir / ".lock").touch()  # left by a run on a file system with flock
    with start(workdir, environment) as first:
        assert first.stdout.readline() == "locked\n"
        refused = answer(workdir, environment)
        assert f"process {first.pid} on the host " in refused
        assert refused.endswith(f"or, if it has ended, delete its lock file {workdir / '.lock.holder'}")
        assert f"process {first.pid} on the host " in answer(workdir, dict(os.environ))  # also where flock works
        assert first.communicate("") == ("", "")
    assert answer(workdir, environment) == "locked"
    assert [path.name for path in workdir.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_lock_of_a_dead_process_is_taken_over(number, no_flock, tmp_path):
    with start(tmp_path, no_flock(number)) as first:
        assert first.stdout.readline() == "locked\n"
        first.kill()
    assert (tmp_path / ".lock.holder").exists()
    assert answer(tmp_path, no_flock(number)) == "locked"


@pytest.mark.parametrize("name", [".lock", ".lock.holder"])  # the first as earlier versions left it
def test_lock_of_another_host_is_named_with_its_file(name, no_flock, tmp_path):
    (tmp_path / name).write_text("4711\nanother-host\n")
    assert answer(tmp_path, no_flock(errno.ENOSYS)) == (
        f"--workdir: process 4711 on the host another-host is training in {tmp_path}; wait for it to end, or, if it "
        f"has ended, delete its lock file {tmp_path / name}"
    )
    (tmp_path / name).unlink()
    assert answer(tmp_path, no_flock(errno.ENOSYS)) == "locked"


def test_training_where_flock_does_not_work_is_silent(no_flock, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 8, 8, 3), np.uint8), np.arange(96) % 3
    np.savez(tmp_path / "d.npz", x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    command = [sys.executable, "-m", "cifar_flax.main", "--config=experiments/mlp.py", "--config.num_epochs=1"]
    command += [f"--config.dataset={tmp_path / 'd.npz'}", "--config.num_validation=16", f"--workdir={tmp_path / 'w'}"]
    finished = subprocess.run(command, cwd=ROOT, env=no_flock(errno.ENOTSUP), capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert run_of(tmp_path / "w")["status"] == "done"
    assert not (tmp_path / "w" / ".lock.holder").exists()


@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_unusable_lock_file_is_named_in_one_line(kind, tmp_path):
    lock = tmp_path / ".lock"
    lock.mkdir() if kind == "folder" else lock.symlink_to(lock)
    with pytest.raises(BadInput, match=f"^--workdir: {lock} cannot be written"), lock_workdir(tmp_path):
        pass
