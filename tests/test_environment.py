"""The devices of a run, and what run.json records of its environment."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cifar_flax.errors import BadInput
from cifar_flax.workdir import environment

ROOT = Path(__file__).parents[1]
NO_DEVICE_OF_ITS_OWN = {"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
FIND = "\n".join(
    [
        "import sys",
        "from cifar_flax.cli.commandline import exit_code",
        "from cifar_flax.workdir.environment import find_devices",
        "sys.exit(exit_code(lambda argv: print(find_devices()[0].platform)))",
    ]
)


def find_devices(**variables):
    """Finds the devices in a process with these environment variables; None removes one."""
    variables = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": None} | NO_DEVICE_OF_ITS_OWN | variables
    inherited = {name: value for name, value in os.environ.items() if name not in variables}
    chosen = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run([sys.executable, "-c", FIND], env=inherited | chosen, capture_output=True, text=True)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variable", "value"), [("JAX_PLATFORMS", "cuda"), ("JAX_PLATFORMS", "gpu"), ("JAX_PLATFORM_NAME", "nonsense")]
)
def test_platform_that_the_machine_lacks_is_reported_in_one_line(variable, value):
    finished = find_devices(**{"JAX_PLATFORMS": None, variable: value})
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"error: {variable}={value!r}: JAX finds no such device")
    assert finished.stderr.endswith("; unset it, set JAX_PLATFORMS=cpu, or install jax for this device\n")
    assert finished.stderr.count("\n") == 1


@pytest.mark.medium
def test_broken_plugin_is_one_line_and_other_devices_are_used(tmp_path):
    """As jax's CUDA plugin on a machine without a driver. JAX logs its traceback."""
    (tmp_path / "jax_plugins" / "broken").mkdir(parents=True)
    plugin = "def initialize():\n    raise RuntimeError('no driver\\nfor it')\n"
    (tmp_path / "jax_plugins" / "broken" / "__init__.py").write_text(plugin)
    finished = find_devices(JAX_PLATFORMS=None, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (finished.returncode, finished.stdout) == (0, "cpu\n")
    line = "Jax plugin configuration error: Exception when calling jax_plugins.broken.initialize(): "
    assert line + "RuntimeError: no driver for it\n" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_error_without_a_chosen_platform_names_jax_platforms(monkeypatch):
    def no_devices():
        raise RuntimeError("Unable to initialize\nbackend")

    monkeypatch.setattr(jax, "devices", no_devices)
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(BadInput) as error:
        environment.find_devices()
    reason = "RuntimeError: Unable to initialize backend"
    assert str(error.value) == f"JAX finds no device ({reason}); set JAX_PLATFORMS=cpu, or repair the driver"


@pytest.fixture
def _no_git_variables(monkeypatch):
    """Git sets them for the commands that it runs, such as these tests in a hook."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


def git(folder, *arguments):
    settings = ["user.name=a", "user.email=a@example.org", "init.defaultBranch=main", "commit.gpgsign=false"]
    command = ["git", *(part for setting in settings for part in ("-c", setting)), *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def new_checkout(folder):
    """A repository with a package in it, and its commit."""
    (folder / "cifar_flax").mkdir(parents=True)
    (folder / "cifar_flax" / "__init__.py").write_text("")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "--message", str(folder))
    return git(folder, "rev-parse", "HEAD")


def recorded_commit(folder, monkeypatch):
    """The commit that a run records if the package is in `folder`."""
    monkeypatch.setattr(environment, "PACKAGE", folder / "cifar_flax")
    return environment.environment(jax.devices())["git_commit"]


@pytest.mark.usefixtures("_no_git_variables")
def test_commit_of_the_checkout_is_recorded(tmp_path, monkeypatch):
    commit = new_checkout(tmp_path)
    assert recorded_commit(tmp_path, monkeypatch) == commit
    (tmp_path / "new.py").write_text("")  # as a user's own experiment
    assert recorded_commit(tmp_path, monkeypatch) == commit
    (tmp_path / "cifar_flax" / "__init__.py").write_text("changed = True\n")
    assert recorded_commit(tmp_path, monkeypatch) == f"{commit}-dirty"


@pytest.mark.usefixtures("_no_git_variables")
def test_commit_of_a_linked_worktree_is_recorded(tmp_path, monkeypatch):
    commit = new_checkout(tmp_path / "main")
    git(tmp_path / "main", "worktree", "add", str(tmp_path / "linked"))
    assert recorded_commit(tmp_path / "linked", monkeypatch) == commit


@pytest.mark.usefixtures("_no_git_variables")
def test_commit_of_another_repository_is_not_recorded(tmp_path, monkeypatch):
    """A user's project has an environment in it, with the package; or git runs the command, and sets GIT_DIR."""
    new_checkout(tmp_path / "project")
    installed = tmp_path / "project" / ".venv" / "lib" / "python3" / "site-packages"
    (installed / "cifar_flax").mkdir(parents=True)
    assert recorded_commit(installed, monkeypatch) == "unknown"
    commit = new_checkout(tmp_path / "own")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "project" / ".git"))
    assert recorded_commit(tmp_path / "own", monkeypatch) == commit
    assert recorded_commit(installed, monkeypatch) == "unknown"


@pytest.mark.usefixtures("_no_git_variables")
def test_commit_is_unknown_without_git(tmp_path, monkeypatch):
    new_checkout(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recorded_commit(tmp_path, monkeypatch) == "unknown"


def test_options_of_xla_are_recorded_in_one_line(tmp_path, monkeypatch):
    content = " --xla_a=1\n  --xla_b=2\n"
    (tmp_path / "flags").write_text(content)
    for value in (content, str(tmp_path / "flags")):
        monkeypatch.setenv("XLA_FLAGS", value)
        assert environment.environment(jax.devices())["xla_flags"] == "--xla_a=1 --xla_b=2"
