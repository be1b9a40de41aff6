"""Everyone who trains the same networks: a file for each framework, and their names.

A contestant is built from a network's name and the images; then it is asked, many times, to train some steps or to
evaluate all test images, and it comes back when the device has finished.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np


class Images(NamedTuple):
    """What all train on: images [N, 32, 32, 3] uint8 and labels [N] int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Contestant(Protocol):
    """One framework's training of one network, compiled and ready when it is built.

    Attributes:
        num_parameters: trainable ones, to see that all train the same network.
        compile_seconds: what compiling took, or running the first step where the framework compiles within it.
    """

    num_parameters: int
    compile_seconds: float

    def train(self, num_steps: int) -> None: ...

    def evaluate(self) -> float:
        """Accuracy in [0, 1] on all test images."""
        ...


class Entry(NamedTuple):
    """Of a contestant: its module here, arguments of the module's `build`, environment of its process."""

    module: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    environment: Mapping[str, str] = MappingProxyType({})


US = "cifar_flax"
AUGMENTED = "cifar_flax, shift and flip"
FLUSHED = "PyTorch, eager, denormals flushed"
USUAL_LOOP = "Flax, usual loop"
CONTESTANTS = {
    US: Entry("ours"),
    AUGMENTED: Entry("ours", {"augment": "shift_flip"}),
    USUAL_LOOP: Entry("flax_loop"),
    "Keras on TensorFlow": Entry("keras_fit", environment={"KERAS_BACKEND": "tensorflow"}),
    "Keras on JAX": Entry("keras_fit", environment={"KERAS_BACKEND": "jax"}),
    "PyTorch, eager": Entry("pytorch"),
    FLUSHED: Entry("pytorch", {"flush_denormals": True}),
    "PyTorch, compiled": Entry("pytorch", {"compiled": True}),
}
AIRBENCH = "airbench94"  # a network apart from the others: with its own batch size, SGD, and fewer contestants
OF_AIRBENCH = (US, "PyTorch, eager", FLUSHED)
PEERS = tuple(name for name, entry in CONTESTANTS.items() if entry.module in ("keras_fit", "pytorch"))


def build(name: str, network: str, images: Images, batch_size: int) -> Contestant:
    entry = CONTESTANTS[name]
    contestant: Contestant = importlib.import_module(f"{__name__}.{entry.module}").build(
        network, images, batch_size, **entry.arguments
    )
    return contestant
