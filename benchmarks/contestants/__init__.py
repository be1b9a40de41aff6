"""The contestants of the speed benchmark by name, with one module per framework.

A contestant is built from the name of a network and the images. It is then called repeatedly to train some steps or to
evaluate all test images. Both calls return when the device has finished.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np


class Images(NamedTuple):
    """The data of all contestants: images [N, H, W, 3] uint8 and labels [N] int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Settings(NamedTuple):
    """What the contestants of a comparison have in common.

    Attributes:
        batch_size: images per training step.
        precision: of products on an accelerator: float32, tf32 (float32, of which they may read 10 bits of mantissa)
            or bfloat16. Parameters and optimizer are always float32. None: the framework's default.
        eval_batch_size: images per evaluation step. None: the contestant's own.
        num_classes: of the labels.
    """

    batch_size: int
    precision: str | None = None
    eval_batch_size: int | None = None
    num_classes: int = 10


class Contestant(Protocol):
    """One framework training one network, compiled when it is built.

    Attributes:
        num_parameters: number of trainable parameters, to verify that all contestants train the same network.
        compile_seconds: compilation time, or the time of the first step if the framework compiles during it.
    """

    num_parameters: int
    compile_seconds: float

    def train(self, num_steps: int) -> None: ...

    def evaluate(self) -> float:
        """Accuracy in [0, 1] on all test images."""
        ...

    def peak_device_bytes(self) -> int | None:
        """The most memory of the accelerator that was in use at once; None if unknown."""
        ...


class Entry(NamedTuple):
    """How a contestant is started.

    Attributes:
        module: its module in this package.
        arguments: keyword arguments of the module's `build`.
        environment: environment variables added to its process.
    """

    module: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    environment: Mapping[str, str] = MappingProxyType({})


OURS = "cifar_flax"
AUGMENTED = "cifar_flax, shift and flip"
FLUSHED = "PyTorch, eager, denormals flushed"
USUAL_LOOP = "Flax, usual loop"
CONTESTANTS = {
    OURS: Entry("ours"),
    AUGMENTED: Entry("ours", {"augment": "shift_flip"}),
    USUAL_LOOP: Entry("flax_loop"),
    "Keras on TensorFlow": Entry("keras_fit", environment={"KERAS_BACKEND": "tensorflow"}),
    "Keras on JAX": Entry("keras_fit", environment={"KERAS_BACKEND": "jax"}),
    "PyTorch, eager": Entry("pytorch"),
    FLUSHED: Entry("pytorch", {"flush_denormals": True}),
    "PyTorch, compiled": Entry("pytorch", {"compiled": True}),
}
AIRBENCH = "airbench94"  # a network that is measured separately: with its own batch size, SGD and fewer contestants
AIRBENCH_CONTESTANTS = (OURS, "PyTorch, eager", FLUSHED)
PEERS = tuple(name for name, entry in CONTESTANTS.items() if entry.module in ("keras_fit", "pytorch"))


def build(name: str, network: str, images: Images, settings: Settings) -> Contestant:
    entry = CONTESTANTS[name]
    contestant: Contestant = importlib.import_module(f"{__name__}.{entry.module}").build(
        network, images, settings, **entry.arguments
    )
    return contestant
