"""The commands as processes: every mistake is one line on stderr, exit code 2 and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_main import MISTAKES

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(module, *arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", f"cifar_flax.{module}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=inherited | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True
    )


def assert_one_line(finished, *words):
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert all(str(word) in finished.stderr for word in words), finished.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_arguments(mistake, tmp_path):
    arguments, words = MISTAKES[mistake]
    workdir = [] if mistake == "unknown_flag" else [f"--workdir={tmp_path / 'new'}"]
    assert_one_line(run("main", *arguments, *workdir), *words)
    assert not (tmp_path / "new").exists()


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    finished = run("main", "--config.batch_size=30", f"--workdir={tmp_path / 'new'}", **four)
    assert_one_line(finished, "config.batch_size", "30", "4 devices")


def test_an_error_in_an_experiment_file(tmp_path):
    (tmp_path / "mine.py").write_text("import math\n\nrate = math.sqrt('x')\n")
    assert_one_line(run("main", "--config", tmp_path / "mine.py"), "mine.py, line 3", "TypeError")


def test_an_unknown_dataset(tmp_path):
    finished = run("main", "--config.dataset=cifar11", f"--workdir={tmp_path / 'new'}")
    assert_one_line(finished, "config.dataset", "'cifar11'", "cifar10,")


def test_no_network_and_no_data(tmp_path):
    """A proxy that nobody answers stands for a missing network."""
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    arguments = ["--config=experiments/cnn.py", f"--config.data_dir={tmp_path}", f"--workdir={tmp_path / 'new'}"]
    finished = run("main", *arguments, **nowhere)
    assert_one_line(finished, "cifar10", "cifar-10-python.tar.gz", "--config.data_dir", "--config.dataset=synthetic")


@pytest.mark.parametrize("name", ["set.npz", "cifar-10-python.tar.gz"])
def test_a_data_file_that_is_cut_off(name, tmp_path):
    path = tmp_path / name
    np.savez_compressed(tmp_path / "whole.npz", x_train=np.zeros((9, 8, 8, 3), np.uint8))
    path.write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    assert_one_line(run("main", f"--config.dataset={path}", f"--workdir={tmp_path / 'new'}"), path)


def test_workdirs(tmp_path):
    workdir = tmp_path / "run"
    short = ["--config=experiments/mlp.py:smoke", "--config.num_epochs=0.02", f"--workdir={workdir}"]
    assert run("main", *short).returncode == 0
    assert_one_line(run("main", *short, "--config.seed=5"), "--workdir", workdir, "seed: 0 -> 5")
    assert_one_line(run("main", *short[:-1], f"--workdir={workdir / 'run.json'}"), "--workdir", "run.json")
    assert_one_line(run("main", *short[:-1], "--workdir=/proc/run"), "--workdir", "/proc/run")
    assert_one_line(run("predict", f"--workdir={workdir}", workdir / "run.json"), "run.json", "no picture")
    assert_one_line(run("predict", f"--workdir={workdir}"), "IMAGE")


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_command_without_a_checkpoint(command, tmp_path):
    image = ["a.png"] if command == "predict" else []
    assert_one_line(run(command, f"--workdir={tmp_path}", *image), "--workdir", tmp_path)
