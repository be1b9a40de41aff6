"""Invalid input to the commands, run as processes: one line on stderr, exit code 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mistakes import MISTAKES

ROOT = Path(__file__).parents[2]

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


# refused by the flags, the experiment file, the config and the images; test_commandline.py runs all without a process
@pytest.mark.parametrize("mistake", ["unknown_flag", "unknown_variant", "schedule", "large_batch"])
def test_invalid_argument_is_reported(mistake, tmp_path):
    arguments, words = MISTAKES[mistake]
    workdir = [] if mistake == "unknown_flag" else [f"--workdir={tmp_path / 'new'}"]
    assert_one_line(run("main", *arguments, *workdir), *words)
    assert not (tmp_path / "new").exists()


def test_batch_size_that_the_devices_do_not_divide_is_reported(tmp_path):
    four_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    finished = run("main", "--config.batch_size=30", f"--workdir={tmp_path / 'new'}", **four_devices)
    assert_one_line(finished, "config.batch_size", "30", "4 devices")


def test_error_in_an_experiment_file_is_reported(tmp_path):
    (tmp_path / "mine.py").write_text("import math\n\nrate = math.sqrt('x')\n")
    assert_one_line(run("main", "--config", tmp_path / "mine.py"), "mine.py, line 3", "TypeError")


def test_unknown_dataset_is_reported(tmp_path):
    finished = run("main", "--config.dataset=cifar11", f"--workdir={tmp_path / 'new'}")
    assert_one_line(finished, "config.dataset", "'cifar11'", "cifar10,")


def test_missing_dataset_without_network_is_reported(tmp_path):
    """A proxy that refuses connections simulates a missing network."""
    no_network = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    arguments = ["--config=experiments/cnn.py", f"--config.data_dir={tmp_path}", f"--workdir={tmp_path / 'new'}"]
    finished = run("main", *arguments, **no_network)
    assert_one_line(finished, "cifar10", "cifar-10-python.tar.gz", "--config.data_dir", "--config.dataset=synthetic")


@pytest.mark.parametrize("name", ["set.npz", "cifar-10-python.tar.gz"])
def test_truncated_data_file_is_reported(name, tmp_path):
    path = tmp_path / name
    np.savez_compressed(tmp_path / "complete.npz", x_train=np.zeros((9, 8, 8, 3), np.uint8))
    path.write_bytes((tmp_path / "complete.npz").read_bytes()[:300])
    assert_one_line(run("main", f"--config.dataset={path}", f"--workdir={tmp_path / 'new'}"), path)


def test_unusable_workdir_or_image_is_reported(tmp_path):
    workdir = tmp_path / "run"
    short_run = ["--config=experiments/mlp.py:smoke", "--config.num_epochs=0.02", f"--workdir={workdir}"]
    assert run("main", *short_run).returncode == 0
    assert_one_line(run("main", *short_run, "--config.seed=5"), "--workdir", workdir, "seed: 0 -> 5")
    assert_one_line(run("main", *short_run[:-1], f"--workdir={workdir / 'run.json'}"), "--workdir", "run.json")
    assert_one_line(run("main", *short_run[:-1], "--workdir=/proc/run"), "--workdir", "/proc/run")
    assert_one_line(run("predict", f"--workdir={workdir}", workdir / "run.json"), "run.json", "not a readable image")
    assert_one_line(run("predict", f"--workdir={workdir}"), "IMAGE")


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_workdir_without_a_checkpoint_is_reported(command, tmp_path):
    image = ["a.png"] if command == "predict" else []
    assert_one_line(run(command, f"--workdir={tmp_path}", *image), "--workdir", tmp_path)
