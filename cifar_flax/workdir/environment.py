"""The hardware and software of a run."""

import contextlib
import importlib.metadata
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from cifar_flax.data.decoding import num_cpus
from cifar_flax.errors import BadInput, in_one_line, warn
from cifar_flax.ops import xla_options

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
PACKAGE = Path(__file__).parents[1]
PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")  # the second is deprecated and still in use


def find_devices() -> list[jax.Device]:
    """All devices of JAX's default platform. JAX's warnings, such as of a broken driver, are printed as one line each.

    Raises:
        BadInput: JAX cannot start the platform that the environment asks for, or finds none.
    """
    with _collected_warnings("jax._src.xla_bridge") as problems:
        try:
            devices = jax.devices()
        except Exception as error:  # RuntimeError, or AssertionError without a text for JAX_PLATFORMS=cuda
            problems += [in_one_line(error)] if str(error) and not problems else []
            raise BadInput(_no_devices(problems)) from error
    for problem in problems:
        warn(problem)
    return devices


def _no_devices(problems: list[str]) -> str:
    reason = "".join(f" ({problem})" for problem in problems)
    chosen = [f"{name}={os.environ[name]!r}" for name in PLATFORM_VARIABLES if os.environ.get(name)]
    if not chosen:
        return f"JAX finds no device{reason}; set JAX_PLATFORMS=cpu, or repair the driver"
    advice = "unset it, set JAX_PLATFORMS=cpu, or install jax for this device"
    return f"{' '.join(chosen)}: JAX finds no such device{reason}; {advice}"


@contextlib.contextmanager
def _collected_warnings(logger_name: str) -> Iterator[list[str]]:
    """Keeps a logger's warnings and errors, which may be tracebacks, from stderr, and yields them as lines."""
    lines: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}: {type(error).__name__}: {error}" if error else record.getMessage()
        lines.append(" ".join(text.split()))
        return False

    logger = logging.getLogger(logger_name)
    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)


def environment(devices: list[jax.Device]) -> dict[str, Any]:
    """The fields of run.json about devices, processor, versions and commit. Warns if sums may be wrong on them."""
    if devices[0].platform == "cpu":
        xla_options.warn_of_faulty_sums()
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "processor": processor(),
        "num_cpus": num_cpus(),
        **software(),
    }


def software() -> dict[str, Any]:
    """The fields of run.json about versions, XLA's options and the commit."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "xla_flags": " ".join(xla_options.options_in_use().split()),
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": _git_commit(),
    }


def processor() -> str:
    """Model name and vector instruction sets of the first processor; off Linux, the platform's name for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    vectors = [flag for flag in ("avx2", "avx512f", "amx_tile") if flag in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *vectors])


def _git_commit() -> str:
    """The commit of this checkout, with -dirty if files differ from it; "unknown" for an installed package.

    The repository is named, because git would otherwise find any repository around the package, such as that of a
    project whose environment contains it, or the one in GIT_DIR, which git sets for the commands that it runs.
    """
    repository = [f"--git-dir={PACKAGE.parent / '.git'}", f"--work-tree={PACKAGE.parent}"]
    command = ["git", *repository, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        finished = subprocess.run(
            command, cwd=PACKAGE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return finished.stdout.strip()
