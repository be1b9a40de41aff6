"""The package as `pip install .` installs it, used from a folder outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
TOP_LEVEL = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

HELP = """
import contextlib, io, sys
from cifar_flax import evaluate, export, import_keras, main, predict, report, serve, sweep, tune
from cifar_flax.workdir.environment import environment, find_devices

for command in (main, sweep, tune, evaluate, predict, serve, export, import_keras, report):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        command.main(["--help"])
    assert f"usage: python -m cifar_flax.{command.__name__.split('.')[1]} " in out.getvalue()
for name in sys.argv[1:]:
    assert main.parse(["--config", name])[0].experiment == name
    assert main.parse(["--config", name + ":smoke"])[0].dataset == "synthetic"
print(main.__file__, environment(find_devices())["git_commit"])
"""


def installed_files():
    """The files of the package, where they are in the repository and in a wheel, as pyproject.toml declares them."""
    for package in SETUPTOOLS["packages"]:
        source = ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))
        for pattern in ["*.py", *SETUPTOOLS["package-data"].get(package, [])]:
            for file in source.glob(pattern):
                yield file, Path(package.replace(".", "/"), file.name)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed package, in a project that git knows."""
    project = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "init", "--quiet", project], check=True)
    site = project / "environment" / "site-packages"
    for source, target in installed_files():
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, site / target)
    return site


def run(site, folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(site)}
    finished = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout, finished.stderr


def test_all_files_of_the_package_are_installed():
    folders = (ROOT / "cifar_flax", ROOT / "experiments")
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    assert {source for source, _ in installed_files()} == {f for f in files if "__pycache__" not in f.parts}


@pytest.mark.medium
def test_help_and_experiments_by_name_work_outside_the_repository(site, tmp_path):
    code, out, err = run(site, tmp_path, "-c", HELP, *EXPERIMENTS)
    assert (code, err) == (0, "")
    assert out == f"{site / 'cifar_flax' / 'main.py'} unknown\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_name_is_accepted_and_suggested_for_a_path_in_the_repository(site, tmp_path):
    arguments = ["-m", "cifar_flax.main", "--config.batch_size=0", "--config"]
    code, out, err = run(site, tmp_path, *arguments, "cnn:smoke")
    assert (code, out, err) == (2, "", "error: config.batch_size: 0 is not valid; use an integer >= 1\n")
    code, out, err = run(site, tmp_path, *arguments, "experiments/cnn.py:smoke")
    assert (code, out) == (2, "")
    message = "'experiments/cnn.py' is neither an experiment nor an experiment file; did you mean 'cnn'?"
    assert err == f"error: --config: {message}\n"


@pytest.mark.slow
def test_experiment_trains_outside_the_repository(site, tmp_path):
    arguments = ["-m", "cifar_flax.main", "--config", "mlp:smoke", "--config.num_epochs=0.01"]
    code, _, err = run(site, tmp_path, *arguments)
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "runs" / "mlp_smoke" / "run.json").read_text())
    assert (record["status"], record["git_commit"]) == ("done", "unknown")


@pytest.mark.slow
def test_wheel_has_the_files_of_the_package_and_building_it_leaves_nothing_behind(tmp_path):
    """Takes setuptools from the package index."""
    copy = tmp_path / "copy"
    for file in (*(ROOT / name for name in TOP_LEVEL), *(source for source, _ in installed_files())):
        target = copy / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    subprocess.run(["git", "add", "."], cwd=copy, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", copy]
    subprocess.run(command, check=True)
    assert subprocess.check_output(["git", "ls-files", "--others", "--exclude-standard"], cwd=copy) == b""
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {str(target) for _, target in installed_files()}
