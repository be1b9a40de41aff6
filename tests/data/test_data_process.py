"""The training command on data as people have it: other layouts, a shared cache, no home folder, remarks."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from data_files import OFFICIAL, write_folder, write_npz
from processes import ROOT, environment

SHORT = ["--config.num_validation=4", "--config.num_epochs=1", "--config.batch_size=8", "--config.eval_batch_size=4"]
AS_OFFICIAL = f"from cifar_flax.data import cifar_versions; cifar_versions.OFFICIAL_MD5 = {OFFICIAL}\n"
NO_TFDS = "import sys; sys.modules['tensorflow_datasets'] = None\n"  # importing it is an error
MAIN = "import sys; from cifar_flax.main import main; sys.exit(main(sys.argv[1:]))\n"

pytestmark = pytest.mark.medium


def train(tmp_path, dataset, *more, before="", without=(), **variables):
    """Trains the MLP for an epoch, in a process that runs the code `before` first."""
    variables = dict.fromkeys(without) | variables
    command = [sys.executable, "-c", before + MAIN, "--config", "experiments/mlp.py", *SHORT, *more]
    command += [f"--config.dataset={dataset}", f"--workdir={tmp_path / 'run'}"]
    return subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True)


def assert_one_line(finished, *words):
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert all(word in finished.stderr for word in words), finished.stderr


def test_folder_of_keras_3_is_trained_on_without_tfds(tmp_path):
    target = tmp_path / "cifar-10-batches-py-target"
    write_folder(target)
    finished = train(tmp_path, target, before=AS_OFFICIAL + NO_TFDS, CIFAR_FLAX_CACHE=str(tmp_path / "cache"))
    assert finished.returncode == 0, finished.stderr


def test_path_is_not_looked_up_in_tfds(tmp_path):
    assert_one_line(train(tmp_path, tmp_path / "absent", before=NO_TFDS), f"{tmp_path}/absent does not exist")


@pytest.mark.parametrize("names", ["MedMNIST", "other"])
def test_npz_with_other_names(names, tmp_path):
    path, stored = write_npz(tmp_path), {}
    with np.load(path) as arrays:
        for new, old in (("train_images", "x_train"), ("test_images", "x_test"), ("train_labels", "y_train"),
                         ("test_labels", "y_test"), ("val_images", "x_test"), ("val_labels", "y_test")):  # fmt: skip
            stored[new if names == "MedMNIST" else new.title()] = arrays[old]
    np.savez(path, **stored)
    finished = train(tmp_path, path)
    if names == "MedMNIST":
        assert finished.returncode == 0, finished.stderr
    else:
        assert_one_line(
            finished, "x_train is missing", "the file has Train_Images, Test_Images, Train_Labels, Test_Labels"
        )


def test_user_without_a_home_folder_trains_without_a_cache(tmp_path):
    """As a container's user that /etc/passwd does not list."""
    no_home = "import pwd; pwd.getpwuid = {}.__getitem__\n"
    without = ("HOME", "CIFAR_FLAX_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR")
    dataset = write_folder(tmp_path, "cifar-10-batches-bin")
    finished = train(tmp_path, dataset, before=no_home, without=without)
    assert finished.returncode == 0, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "not cached" in line]
    assert "there is no home folder for a cache; set CIFAR_FLAX_CACHE to" in line
    finished = train(tmp_path, "cifar10", before=no_home, without=without)
    assert_one_line(finished, "config.data_dir", "there is no home folder", "TFDS_DATA_DIR")


# imports everything that is needed while it can be read; root may read everything, so another user reads the cache
READ_AS_ANOTHER_USER = """
import mmap, os, sys
import numpy as np
from cifar_flax import data
from cifar_flax.data import cache

def build():
    print("built")
    split = data.Split(np.zeros((4, 2, 2, 1), np.uint8), np.arange(4, dtype=np.int32))
    return data.Source(split, split, tuple("abcd"))

if os.geteuid() == 0:
    os.setuid(int(sys.argv[1]))
cache.load_or_build("set", "key", build)
"""


@pytest.mark.parametrize("unreadable", ["cache", "cache/set-key", "cache/set-key/train_images.npy"])
def test_cache_of_another_user_that_may_not_be_read_is_kept(unreadable):
    nobody = str(pwd.getpwnam("nobody").pw_uid)

    def load(user):
        command = [sys.executable, "-c", READ_AS_ANOTHER_USER, user]
        variables = environment(CIFAR_FLAX_CACHE=f"{root}/cache")
        return subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=True)

    with tempfile.TemporaryDirectory() as root:  # tmp_path is in a folder that only its owner can enter
        Path(root).chmod(0o755)
        assert load("0").stdout == "built\n"
        if os.geteuid() == 0:
            assert (load(nobody).stdout, load(nobody).stderr) == ("", "")
        path = Path(root, unreadable)
        mode = path.stat().st_mode
        path.chmod(0)
        for _ in range(2):
            loaded = load(nobody)
            assert loaded.stdout == "built\n"
            (line,) = loaded.stderr.splitlines()
            assert line.startswith(f"the cached data in {root}/cache/set-key may not be read by this user")
            assert "CIFAR_FLAX_CACHE" in line
        path.chmod(mode)
        assert [entry.name for entry in Path(root, "cache").iterdir()] == ["set-key"]
        assert load("0").stdout == ""
