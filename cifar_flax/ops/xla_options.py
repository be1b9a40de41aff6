"""XLA's options for CPUs, in the environment variable XLA_FLAGS. Other backends do not read them."""

import functools
import importlib.metadata
import itertools
import os
from pathlib import Path

from jax._src import xla_bridge  # jax has no public way to ask whether it has found its devices

from cifar_flax.errors import BadInput, warn

YNN_FUSION_TYPE = "--xla_cpu_experimental_ynn_fusion_type"

# An optimizer update writes all of its results in one pass over memory. Off by default in jaxlib 0.10 to 0.12.
ONE_PASS = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"

# Leaves sums to XLA itself instead of to the library YNNPACK. With it, these jaxlibs return wrong sums over a matrix
# product that is not stored: all of them for a batch of products, 0.10.2 also for products with a 3x3 matrix (jax issue
# 39103). 0.10.2 and 0.11.0 also crash on sums of arrays with seven or more axes (jax issues 39257 and 40412).
XLA_SUMS = f"{YNN_FUSION_TYPE}=-reduce"
FAULTY_SUMS = ("0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1")


def choose_options() -> None:
    """Adds to XLA_FLAGS what this jaxlib needs to be right and fast. Must run before jax finds devices.

    Options that the user has set are kept. If XLA_FLAGS names a file with options, its content replaces the name.

    Raises:
        BadInput: there is no such file. XLA would abort the process.
    """
    flags = options_in_use()
    options = [ONE_PASS, XLA_SUMS] if _jaxlib() in FAULTY_SUMS else [ONE_PASS]
    names = [option.partition("=")[0] for option in _words(flags)]
    missing = [option for option in options if option.partition("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*missing, flags]).strip()  # first, because XLA may ignore the end of `flags`


def choose_options_if_early() -> None:
    """`choose_options`, unless jax has found its devices. XLA has read its options then.

    Raises:
        BadInput: as `choose_options`.
    """
    if not xla_bridge.backends_are_initialized():
        choose_options()


def evaluation_options(platform: str) -> dict[str, str] | None:
    """Options for compiling evaluation, which is faster without YNNPACK; None: those of the process.

    A choice of the user's in XLA_FLAGS is kept.
    """
    chosen = {word for word in _words(options_in_use()) if word.startswith(YNN_FUSION_TYPE)}
    is_free = platform == "cpu" and _jaxlib() in FAULTY_SUMS and chosen <= {XLA_SUMS}
    return {YNN_FUSION_TYPE.removeprefix("--"): ""} if is_free else None


def options_in_use() -> str:
    """The content of XLA_FLAGS, or of the file that it names.

    Raises:
        BadInput: it is neither an option nor the name of a text file.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags or flags.startswith("-"):  # XLA's own rule
        return flags
    try:
        content = Path(flags).read_text().strip() if Path(flags).is_file() else "\0"
    except (OSError, ValueError):
        content = "\0"
    if "\0" in content:
        raise BadInput(f"XLA_FLAGS: {flags!r} is neither options (--xla_...) nor a readable file; correct it")
    return content


@functools.cache  # one line per process
def warn_of_faulty_sums() -> None:
    """Warns if sums on CPUs may be wrong. The commands avoid that, unless XLA_FLAGS decides otherwise."""
    if _jaxlib() in FAULTY_SUMS and _ynnpack_sums(options_in_use()):
        warn(
            f"XLA_FLAGS: without {XLA_SUMS}, jaxlib {_jaxlib()} may return wrong sums on CPUs "
            "(see docs/reliability.md); add it before Python starts"
        )


def _words(flags: str) -> list[str]:
    """The options that XLA reads: it stops at the first word that does not start with a hyphen."""
    return list(itertools.takewhile(lambda word: word.startswith("-"), flags.split()))


def _ynnpack_sums(flags: str) -> bool:
    """Whether XLA leaves sums to YNNPACK. It does by default; the option changes that or lists all kinds anew."""
    sums = True
    for name, _, value in (word.partition("=") for word in _words(flags)):
        if name == YNN_FUSION_TYPE:
            kinds = value.strip("\"'").lower().replace("library_fusion_type_", "").split(",")
            if not all(kind.startswith(("+", "-")) for kind in kinds):
                sums = "reduce" in kinds
            for kind in kinds:
                sums = {"+reduce": True, "-reduce": False}.get(kind, sums)
    return sums


def _jaxlib() -> str:
    return importlib.metadata.version("jaxlib")
