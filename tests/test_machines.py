"""Training on machines that differ from ours: environment variables, file systems, and images of unusual sizes."""

import os
import shutil
import subprocess
import sys

import flax.linen as nn
import pytest
from processes import assert_one_line, call, command, run, train_command, write_dataset
from run_records import run_of
from tiny import Tiny

from cifar_flax.models import smallest_side, takes_images
from cifar_flax.training.checks import check_image_size
from cifar_flax.workdir.atomic import flush_folder, fsync

# a folder that cannot be synchronized, as on CIFS or vboxsf; synchronizing a file works
NO_FOLDER_SYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
int fsync(int file) {
  static int (*original)(int);
  struct stat status;
  if (!original) original = dlsym(RTLD_NEXT, "fsync");
  if (!fstat(file, &status) && S_ISDIR(status.st_mode)) { errno = atoi(getenv("FSYNC_ERRNO")); return -1; }
  return original(file);
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    write_dataset(folder / "d.npz")
    return folder


@pytest.mark.medium
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_nowhere", "nonsense"])
def test_backend_of_a_notebook_is_ignored(backend, folder, tmp_path):
    """A notebook's kernel exports its backend to all commands that it starts."""
    code, _, err = run(train_command("d.npz", tmp_path / "w"), folder, {"MPLBACKEND": backend})
    assert (code, err) == (0, "")
    assert (tmp_path / "w" / "figures" / "predictions.png").exists()


def test_backend_of_the_process_is_kept_if_it_exists():
    code = "import cifar_flax.reporting.figures, matplotlib, os;"
    code += "print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    assert run([sys.executable, "-c", code], variables={"MPLBACKEND": "pdf"}) == (0, "pdf pdf\n", "")


@pytest.mark.medium
def test_file_that_xla_flags_names_is_used(folder, tmp_path):
    (tmp_path / "flags").write_text("--xla_force_host_platform_device_count=2\n")
    variables = {"XLA_FLAGS": str(tmp_path / "flags")}
    code, out, err = run(train_command("d.npz", tmp_path / "w"), folder, variables)
    assert (code, err) == (0, "")
    assert "device      2 x cpu" in out
    assert run_of(tmp_path / "w")["xla_flags"].endswith(" --xla_force_host_platform_device_count=2")


@pytest.mark.medium
def test_xla_flags_without_such_a_file_are_refused(folder, tmp_path):
    refused = run(train_command("d.npz", tmp_path / "w"), folder, {"XLA_FLAGS": "no_such_file"})
    assert_one_line(refused, "XLA_FLAGS: 'no_such_file' is neither options (--xla_...) nor a readable file")
    assert not (tmp_path / "w").exists()


@pytest.fixture(scope="module")
def no_folder_sync(folder):
    """The path of a library that makes fsync of a folder fail with the number in $FSYNC_ERRNO."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs gcc, and a linker that preloads libraries")
    (folder / "fsync.c").write_text(NO_FOLDER_SYNC)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "fsync.so", "fsync.c", "-ldl"], cwd=folder, check=True)
    return str(folder / "fsync.so")


@pytest.mark.medium
def test_run_and_report_on_a_file_system_that_cannot_synchronize_folders(folder, no_folder_sync, tmp_path):
    variables = {"LD_PRELOAD": no_folder_sync, "FSYNC_ERRNO": "22"}  # EINVAL
    for arguments in (train_command("d.npz", tmp_path / "w"), command("report", tmp_path / "w")):
        code, _, err = run(arguments, folder, variables)
        assert (code, err) == (0, "")
    assert run_of(tmp_path / "w")["status"] == "done"


@pytest.mark.medium
def test_other_errors_of_a_folder_are_still_errors(folder, no_folder_sync, tmp_path):
    variables = {"LD_PRELOAD": no_folder_sync, "FSYNC_ERRNO": "5"}  # EIO
    code, _, err = run(train_command("d.npz", tmp_path / "w"), folder, variables)
    assert code in (1, 2)
    assert "cannot be written (Input/output error)" in err
    assert err.count("\n") == 1


def test_file_that_cannot_be_synchronized_is_an_error(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(22, os.strerror(22))

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "file").write_text("")
    assert not flush_folder(tmp_path)
    fsync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        fsync(tmp_path / "file")


@pytest.mark.medium
@pytest.mark.parametrize(("experiment", "side"), [("cnn", 8), ("alexnet", 27), ("airbench94", 25)])
def test_images_that_are_too_small_for_the_model_are_refused(experiment, side, tmp_path):
    write_dataset(tmp_path / "d.npz", side=7)
    refused = call(train_command("d.npz", "w", experiment=experiment), tmp_path)
    assert_one_line(refused, "config.dataset: ", f"at least {side} x {side} pixels, and these are 7 x 7", "mlp")
    assert not (tmp_path / "w").exists()


class Broken(nn.Module):
    """A model with a mistake that is not about the size of the images."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train):
        raise TypeError("a mistake")


@pytest.mark.medium
def test_mistake_of_a_model_is_not_taken_for_the_size_of_the_images(tiny_config):
    check_image_size(tiny_config, Tiny(3), (8, 8, 3))
    assert smallest_side(Tiny(3), channels=3) == 2
    assert not takes_images(Broken(3), (8, 8, 3))
    check_image_size(tiny_config, Broken(3), (8, 8, 3))  # its own error is raised later, with a traceback
