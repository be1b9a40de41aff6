"""What a file of weights holds, and which names and dtypes a reader accepts."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import flax.linen as nn
import numpy as np

from cifar_flax.errors import BadInput, printable

MAX_BYTES = 2 * 2**30  # of all arrays of a file together; AlexNet has 86 million
DTYPE = "float32"  # of all parameters and running statistics, whatever the dtype of the computation
NAME = re.compile(r"(params|batch_stats)(/[^/]+)+")
MAX_CHARACTERS = 200  # of a name


class Weights(NamedTuple):
    """The parameters and running statistics of a network.

    Attributes:
        arrays: by their paths, such as `params/conv1/kernel` and `batch_stats/norm1/mean`.
        metadata: what is known about them; perhaps `model`, `class_names`, `image_shape` and `normalize`, which is
            whether the network standardizes its images itself.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


class Network(NamedTuple):
    """A trained network to be written to a file.

    Attributes:
        module: called with images [N, H, W, C] float32 in [0, 1] and `train`; its lowering is `library`.
        weights: its variables; the metadata has at least `model`, `class_names`, `image_shape` and `normalize`.
    """

    module: nn.Module
    weights: Weights


def is_normalized(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the variables of a network that standardizes its images itself (`config.normalize`)."""
    return "batch_stats/normalize/mean" in arrays


def check(source: str, dtypes: Mapping[str, str]) -> None:
    """Checks that the entries of a file can be the variables of a network.

    Args:
        source: the field and the file, for the message.
        dtypes: the dtype of each entry by its name.

    Raises:
        BadInput: a name is not the path of a variable, or a variable is not float32.
    """
    if not any(name.startswith("params/") for name in dtypes):
        reject(source, "has no entry params/...; name a file that python -m cifar_flax.export wrote")
    for name, dtype in dtypes.items():
        if len(name) > MAX_CHARACTERS or not name.isprintable() or not NAME.fullmatch(name):
            reject(source, f"has an entry {name[:80]!r}; entries are params/... or batch_stats/...")
        if dtype != DTYPE:
            reject(source, f"has an entry {name} of {dtype}; convert it to {DTYPE}")
    for name in dtypes:
        for folder in (name[:end] for end, character in enumerate(name) if character == "/"):
            if folder in dtypes:
                reject(source, f"has entries {folder} and {name}; one cannot be an array and contain the other")


def reject(source: str, problem: str) -> NoReturn:
    raise BadInput(printable(f"{source} {problem}"))
