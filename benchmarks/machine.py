"""On what a benchmark ran: enough to compare with, nothing that names the machine."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "keras", "tensorflow-cpu", "tensorflow", "torch", "numpy")


def describe() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    names = {name for name in PACKAGES if name in installed or name.replace("-", "_") in installed}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in names}


def _processor() -> str:
    """The name and the vector instructions of the first processor, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    vectors = [flag for flag in ("avx2", "avx512f", "amx_tile") if flag in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *vectors])
