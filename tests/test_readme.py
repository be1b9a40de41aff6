"""The files and commands in the README and the documentation work as printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_flax import evaluate, main, sweep, tune

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
TEXT = "".join(page.read_text() for page in PAGES)
EXTENDING = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)```", EXTENDING, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^(?:python -m cifar_flax\.\w+|make|pip|tensorboard) ?.*$", TEXT, re.MULTILINE)
PARSERS = {"main": (main.parse, 3), "sweep": (sweep.parse, 1), "tune": (tune.parse, 1), "evaluate": (evaluate.parse, 5)}


def test_training_commands_in_the_documentation_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, (parse, min_count) in PARSERS.items():
        all_arguments = [command.split("#")[0].split()[3:] for command in COMMANDS if f"cifar_flax.{name}" in command]
        assert len(all_arguments) >= min_count
        for arguments in all_arguments:
            parse(arguments)


def test_links_lead_to_files_and_sections():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, section = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), (page.name, target)
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if section else []
            assert not section or section in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles], (
                target
            )


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", ".github/workflows/checks.yml", ".ci/run"])
def test_make_targets_exist(file):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"(?:^|`|run: )make (\w+)", (ROOT / file).read_text(), re.MULTILINE))
    assert called
    assert called <= targets


@pytest.fixture
def copy(tmp_path):
    """A copy of the project in which the README's recipes are followed."""
    for folder in ("cifar_flax", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(copy, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(copy)}
    finished = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout + finished.stderr


def register_count(copy, name, count):
    tests = copy / "tests" / "models" / "test_models.py"
    tests.write_text(tests.read_text().replace('    "alexnet": (', f'    "{name}": ({count}, 0),\n    "alexnet": (', 1))


COUNT_TESTS = ["-m", "pytest", "-q", "tests/models/test_models.py", "-k", "count"]


@pytest.mark.slow
def test_new_experiment_takes_one_file_and_a_parameter_count(copy):
    (copy / "experiments" / "cnn_cosine.py").write_text(FILES["experiments/cnn_cosine.py"])
    code, out = run(copy, "-m", "cifar_flax.main", "--config", "experiments/cnn_cosine.py:smoke")
    assert code == 0, out
    assert run(copy, *COUNT_TESTS)[0] == 1
    register_count(copy, "cnn_cosine", 528_054)
    code, out = run(copy, *COUNT_TESTS)
    assert code == 0, out


@pytest.mark.slow
def test_new_model_takes_two_files_and_a_parameter_count(copy):
    for name in ("cifar_flax/models/linear.py", "experiments/linear.py"):
        (copy / name).write_text(FILES[name])
    models = copy / "cifar_flax" / "models" / "__init__.py"
    text = models.read_text().replace("import MLP\n", "import MLP\nfrom cifar_flax.models.linear import Linear\n")
    models.write_text(text.replace("MODELS = {", 'MODELS = {"linear": Linear, '))
    code, out = run(copy, "-m", "cifar_flax.main", "--config", "experiments/linear.py:smoke")
    assert code == 0, out
    assert run(copy, *COUNT_TESTS)[0] == 1
    register_count(copy, "linear", 32 * 32 * 3 * 10 + 10)
    code, out = run(copy, *COUNT_TESTS)
    assert code == 0, out


@pytest.mark.slow
def test_new_dataset_trains_and_the_run_commands_work(copy):
    block = re.search(r"```python\n(import numpy as np\n.*?)```\n\n```\n(.*?)```", EXTENDING, re.DOTALL)
    (copy / "make.py").write_text(block[1])
    assert run(copy, "make.py")[0] == 0
    arguments = block[2].split()[1:]
    code, out = run(copy, *arguments, "--workdir", "runs/cnn_augmented_demo")
    assert code == 0, out
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "demo_predictions.png", copy / "docs")
    of_run = [command for command in COMMANDS if "runs/cnn_augmented_demo" in command]
    run_commands = [command.split()[1:] for command in of_run if "serve" not in command]  # which runs until Ctrl-C
    assert len(run_commands) == 4
    for arguments in run_commands:
        code, out = run(copy, *arguments)
        assert code == 0, out
    snippet = re.search(
        r"```python\n(from cifar_flax import load_run\n.*?)```", (ROOT / "docs/runs.md").read_text(), re.DOTALL
    )[1]
    (copy / "use.py").write_text(block[1] + snippet + "print(probabilities.shape)\n")
    assert run(copy, "use.py")[1].endswith("(200, 4)\n")
