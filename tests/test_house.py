"""The house: imports run one way, floor by floor, and importing it costs nothing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
