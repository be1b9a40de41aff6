"""What the README tells people to write and to type works as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_flax import main, sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)```", README, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^(?:python -m cifar_flax\.\w+|make|pip|tensorboard) ?.*$", README, re.MULTILINE)


def test_every_training_command_is_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, understand, count in (("main", main.parse, 3), ("sweep", sweep.parse, 1)):
        training = [command.split("#")[0].split()[3:] for command in COMMANDS if f"cifar_flax.{name}" in command]
        assert len(training) >= count
        for arguments in training:
            understand(arguments)


def test_make_has_every_target_that_is_named():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^`?make (\w+)", README, re.MULTILINE)) <= targets


@pytest.fixture
def copy(tmp_path):
    """The project as a user has it, to follow the recipes in."""
    for folder in ("cifar_flax", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(copy, *words):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(copy)}
    finished = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout + finished.stderr


def register_count(copy, name, count):
    tests = copy / "tests" / "test_models.py"
    tests.write_text(tests.read_text().replace('    "alexnet": (', f'    "{name}": ({count}, 0),\n    "alexnet": (', 1))


COUNTS = ["-m", "pytest", "-q", "tests/test_models.py", "-k", "count"]


@pytest.mark.slow
def test_an_experiment_is_one_file_and_the_tests_ask_for_its_count(copy):
    (copy / "experiments" / "cnn_cosine.py").write_text(FILES["experiments/cnn_cosine.py"])
    code, out = run(copy, "-m", "cifar_flax.main", "--config", "experiments/cnn_cosine.py:smoke")
    assert code == 0, out
    assert run(copy, *COUNTS)[0] == 1
    register_count(copy, "cnn_cosine", 528_054)
    code, out = run(copy, *COUNTS)
    assert code == 0, out


@pytest.mark.slow
def test_a_model_is_two_files_and_the_tests_ask_for_its_count(copy):
    for name in ("cifar_flax/models/linear.py", "experiments/linear.py"):
        (copy / name).write_text(FILES[name])
    models = copy / "cifar_flax" / "models" / "__init__.py"
    added = models.read_text().replace("import MLP\n", "import MLP\nfrom cifar_flax.models.linear import Linear\n")
    models.write_text(added.replace("MODELS = {", 'MODELS = {"linear": Linear, '))
    code, out = run(copy, "-m", "cifar_flax.main", "--config", "experiments/linear.py:smoke")
    assert code == 0, out
    assert run(copy, *COUNTS)[0] == 1
    register_count(copy, "linear", 32 * 32 * 3 * 10 + 10)
    code, out = run(copy, *COUNTS)
    assert code == 0, out


@pytest.mark.slow
def test_a_dataset_of_ones_own_and_the_commands_on_a_run(copy):
    block = re.search(r"```python\n(import numpy as np\n.*?)```\n\n```\n(.*?)```", README, re.DOTALL)
    (copy / "make.py").write_text(block[1])
    assert run(copy, "make.py")[0] == 0
    arguments = block[2].split()[1:]
    code, out = run(copy, *arguments, "--workdir", "runs/cnn_augmented_demo")
    assert code == 0, out
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "demo_predictions.png", copy / "docs")
    on_a_run = [command.split()[1:] for command in COMMANDS if "runs/cnn_augmented_demo" in command]
    assert len(on_a_run) == 4
    for words in on_a_run:
        code, out = run(copy, *words)
        assert code == 0, out
    snippet = re.search(r"```python\n(from cifar_flax.inference.*?)```", README, re.DOTALL)[1]
    (copy / "use.py").write_text(block[1] + snippet + "print(probabilities.shape)\n")
    assert run(copy, "use.py")[1].endswith("(200, 4)\n")
