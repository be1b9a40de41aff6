"""The machine and the package versions of a benchmark."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from cifar_flax.data.decoding import num_cpus
from cifar_flax.workdir.environment import processor

PACKAGES = ("jax", "jaxlib", "flax", "optax", "keras", "tensorflow-cpu", "tensorflow", "torch", "numpy")


def describe() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "processor": processor(),
        "threads": num_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def peak_device_bytes() -> int | None:
    """The most memory of the first device that JAX used at once in this process; None on CPUs."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    names = {name for name in PACKAGES if name in installed or name.replace("-", "_") in installed}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in names}
