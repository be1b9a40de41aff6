"""The layers of the package: imports run one way, and importing it costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the bottom up. A module imports from its own subpackage and from the layers below.
LAYERS = (
    ("errors",),
    ("ops", "random_keys"),
    ("config", "interruption", "data", "models"),
    ("training",),
    ("workdir", "cli"),
    ("weights",),
    ("resume", "inference", "distributed"),
    ("reporting", "serving"),
    ("train",),
    ("tuning", "sweeping"),
    ("main", "sweep", "evaluate", "predict", "serve", "export", "import_keras", "report", "tune"),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
NEVER = {"training": {"workdir", "reporting", "os", "io", "pathlib", "shutil"}, "workdir": {"training", "models"}}


def imports(path):
    """The first part below cifar_flax, or else the top-level package, of all modules that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    for parent, alias in ((node, alias) for node in nodes for alias in node.names):
        name = alias.name if isinstance(parent, ast.Import) else f"{parent.module}.{alias.name}"
        yield name.split(".")[name.startswith("cifar_flax.")]


def test_imports_run_one_way():
    for path in sorted((ROOT / "cifar_flax").rglob("*.py")):
        importer = path.relative_to(ROOT / "cifar_flax").parts[0].removesuffix(".py")
        for imported in [] if importer == "__init__" else imports(path):
            below = LAYER_OF.get(imported, -1) < LAYER_OF[importer]
            assert imported == importer or below, f"{path} imports {imported}"
            assert imported not in NEVER.get(importer, ()), f"{path} imports {imported}"


def test_only_one_file_imports_clu():
    """A replacement of clu, which has had no release since April 2024, would change this file alone."""
    folders = ("cifar_flax", "experiments", "benchmarks", "tests")
    importers = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "clu" in imports(path)]
    assert importers == [ROOT / "cifar_flax/workdir/tensorboard.py"]


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_instant_and_touches_no_library():
    loaded = python("import sys; before = set(sys.modules); import cifar_flax; print(set(sys.modules) - before)")
    assert loaded.strip() == "{'cifar_flax'}"


def test_the_loop_imports_without_tensorflow_and_without_a_device():
    assert "False False" in python(
        "import sys, cifar_flax.train, jax._src.xla_bridge as bridge;"
        "print('tensorflow' in sys.modules, bool(bridge._backends))"
    )
