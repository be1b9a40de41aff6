"""The house: imports run one way, floor by floor, and importing it costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# from the cellar up; a room imports from the floors below its own only
FLOORS = (
    {"errors", "windows"},
    {"commandline", "checksums", "durable", "machine", "spread", "calibration", "epochs", "winograd", "tta"},
    {"layers", "data", "figures", "records", "events", "augment", "metrics", "state", "optimizers", "interruption"},
    {"models", "checkpoints", "averaging"},
    {"config", "steps", "console", "gallery"},
    {"programs", "flags"},
    {"train", "inference"},
    {"pages"},
    {"main", "sweep", "evaluate", "predict", "export", "report"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.split(".")[0] == "cifar_flax")


def test_imports_run_one_way():
    for path in sorted((ROOT / "cifar_flax").rglob("*.py")):
        room = path.relative_to(ROOT / "cifar_flax").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(path):
            assert other == room or FLOOR_OF[other] < FLOOR_OF[room], f"{path} imports {other}"


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
