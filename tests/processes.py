"""Runs the commands, as processes or in this one, on images that take a second to train on."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
WITH_TENSORFLOW = {"PYTHONPATH": str(ROOT)}
SHORT = ["--config.num_validation=16", "--config.num_epochs=1", "--config.batch_size=16", "--config.eval_batch_size=16"]


def write_dataset(path, count=96, side=8, num_classes=3, **entries):
    """Writes `count` random images to a .npz, a third of them for testing."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % num_classes
    first = count * 2 // 3
    arrays = {"x_train": images[:first], "y_train": labels[:first], "x_test": images[first:], "y_test": labels[first:]}
    np.savez(path, **(arrays | entries))
    return path


def environment(**changes):
    """The environment of the tests without their simulated devices; a change to None removes a variable.

    A run that takes three seconds would spend as many on importing TensorFlow, for events that few tests read. A
    stand-in takes its place, except in WITH_TENSORFLOW.
    """
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    variables |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "stand_ins"), str(ROOT)])} | changes
    return {name: value for name, value in variables.items() if value is not None}


def command(module, *arguments):
    return [sys.executable, "-m", f"cifar_flax.{module}", *map(str, arguments)]


def train_command(dataset, workdir, *arguments, experiment="mlp"):
    config = ROOT / "experiments" / f"{experiment}.py"
    return command(
        "main", f"--config={config}", f"--config.dataset={dataset}", f"--workdir={workdir}", *SHORT, *arguments
    )


def start(arguments, cwd=ROOT, variables=None, **keywords):
    """Starts a process whose stdout and stderr are pipes."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    return subprocess.Popen(arguments, cwd=cwd, env=environment(**(variables or {})), text=True, **streams)


def run(arguments, cwd=ROOT, variables=None, **keywords):
    """The exit code, stdout and stderr of a process."""
    process = start(arguments, cwd, variables, **keywords)
    out, err = process.communicate()
    return process.returncode, out, err


def call(arguments, cwd=ROOT):
    """What `run` returns, without the seconds that a new process takes for its imports."""
    _, _, module, *flags = arguments
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = importlib.import_module(module).main(flags)
    return code, out.getvalue(), err.getvalue()


def assert_one_line(result, *words):
    """Asserts that a process ended with exit code 2 and one line on stderr that contains these words."""
    code, _, err = result
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert all(str(word) in err for word in words), err
