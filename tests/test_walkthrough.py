"""The Python API, and docs/walkthrough.ipynb, which shows it in use and is committed with its outputs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import cifar_flax

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "walkthrough.ipynb"
SETTING = "(10, 0.25)"
XLA_OPTIONS = """
import os
import jax
from cifar_flax import load_experiment
early = os.environ["XLA_FLAGS"]
jax.devices()
os.environ["XLA_FLAGS"] = ""
from cifar_flax import load_split
print(early, bool(os.environ["XLA_FLAGS"]), os.environ["TF_ENABLE_ONEDNN_OPTS"])
"""


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def trees(notebook):
    return [ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)) for cell in code_cells(notebook)]


def environment():
    """That of a user, instead of the strict one of the tests."""
    names = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    return {name: value for name, value in os.environ.items() if name not in names}


def test_all_names_of_the_api_can_be_imported():
    assert dir(cifar_flax) == cifar_flax.__all__
    for name in cifar_flax.__all__:
        assert getattr(cifar_flax, name).__name__.split(".")[-1] in (name, "load")
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        cifar_flax.load_nothing  # noqa: B018


def test_type_checkers_know_the_same_api():
    tree = ast.parse(Path(cifar_flax.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.col_offset == 4]
    assert sorted(alias.asname for node in imports for alias in node.names) == cifar_flax.__all__


@pytest.mark.medium
def test_the_api_sets_options_before_jax_finds_its_devices_and_not_later():
    command = [sys.executable, "-c", XLA_OPTIONS]
    printed = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
    assert "xla_cpu_use_multi_output_fusion" in printed
    assert printed.endswith(" False 0\n")


def test_notebook_was_executed_from_top_to_bottom_without_errors(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "execute_result", "display_data"}
    assert all(output.get("name") != "stderr" for output in outputs(notebook))
    assert SETTING in "".join(cell.source for cell in code_cells(notebook))


def test_notebook_is_small_and_names_no_path_of_a_machine(notebook):
    assert NOTEBOOK.stat().st_size < 400_000
    assert not re.search(r"[\"' (]/\w+/|[A-Z]:\\\\", str([output.get("text", "") for output in outputs(notebook)]))


def test_notebook_uses_only_the_public_api(notebook):
    nodes = [node for tree in trees(notebook) for node in ast.walk(tree)]
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {module for module in modules if module.startswith("cifar_flax")} == {"cifar_flax"}
    assert not [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    assert not any(
        alias.name.startswith("cifar_flax") for node in nodes if isinstance(node, ast.Import) for alias in node.names
    )


def test_links_of_the_notebook_lead_to_files(notebook):
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert all((NOTEBOOK.parent / target).exists() for target in targets)


@pytest.mark.slow
def test_notebook_runs_and_its_outputs_are_of_the_committed_kinds(notebook, tmp_path):
    """With fractions of an epoch; `make notebook` executes it as it is."""
    short = NOTEBOOK.read_text().replace(SETTING, "(0.05, 0.01)")
    (tmp_path / NOTEBOOK.name).write_text(short)
    options = re.search(r"^NOTEBOOK := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook", "--inplace", NOTEBOOK.name]
    finished = subprocess.run(
        [*command, *options.replace("\\\n", " ").split()],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    executed = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    assert [kinds(cell) for cell in code_cells(executed)] == [kinds(cell) for cell in code_cells(notebook)]


def kinds(cell):
    return [(output.output_type, output.get("name"), sorted(output.get("data", ()))) for output in cell.outputs]
