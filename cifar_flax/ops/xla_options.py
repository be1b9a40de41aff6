"""XLA's options for CPUs, in the environment variable XLA_FLAGS. Other backends do not read them."""

import functools
import importlib.metadata
import os
from pathlib import Path

from cifar_flax.errors import BadInput, warn

EXTRA_OPTIONS = "--xla_backend_extra_options"
YNN_FUSION_TYPE = "--xla_cpu_experimental_ynn_fusion_type"

# An optimizer update writes all of its results in one pass over memory. Off by default in jaxlib 0.10 to 0.12.
ONE_PASS = f"{EXTRA_OPTIONS}=xla_cpu_use_multi_output_fusion"

# Leaves sums to XLA itself instead of to the library YNNPACK, with which these jaxlibs crash on some arrays of seven or
# more axes (jax issues 39257 and 40412), and with which 0.10.2 returns wrong sums over an axis of three (39103).
XLA_SUMS = f"{YNN_FUSION_TYPE}=-reduce"
FAULTY_SUMS = ("0.10.2", "0.11.0")


def choose_options() -> None:
    """Adds to XLA_FLAGS what this jaxlib needs to be right and fast. Must run before jax finds devices.

    Options that the user has set are kept. If XLA_FLAGS does not start with a hyphen, it names a file with options, and
    is replaced by the file's content.

    Raises:
        BadInput: there is no such file. XLA would abort the process.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):  # XLA's own rule
        flags = _read(flags)
    options = [ONE_PASS, XLA_SUMS] if _jaxlib() in FAULTY_SUMS else [ONE_PASS]
    missing = [option for option in options if option.partition("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise BadInput(f"XLA_FLAGS: {file!r} is neither options (--xla_...) nor a readable file; correct it") from error


@functools.cache  # one line per process
def warn_of_faulty_sums() -> None:
    """Warns if sums on CPUs may be wrong. The commands avoid that, unless XLA_FLAGS decides otherwise."""
    if _jaxlib() in FAULTY_SUMS and _ynnpack_sums(os.environ.get("XLA_FLAGS", "")):
        warn(
            f"XLA_FLAGS: without {XLA_SUMS}, jaxlib {_jaxlib()} may crash or return wrong sums on CPUs "
            "(jax issues 39103, 39257); add it before Python starts"
        )


def _ynnpack_sums(options: str) -> bool:
    """Whether XLA leaves sums to YNNPACK: by default, or by a list of types that contains `reduce`."""
    lists = [option.partition("=")[2] for option in options.split() if option.startswith(f"{YNN_FUSION_TYPE}=")]
    types = lists[-1].lower().split(",") if lists else []
    if all(kind.startswith(("+", "-")) for kind in types):  # changes to the default
        return "-reduce" not in types
    return "reduce" in types


def _jaxlib() -> str:
    return importlib.metadata.version("jaxlib")
