"""The format `stablehlo`: a folder with the network as a program that needs no library but JAX.

The program is a `jax.export` artifact with the parameters in it. It takes images [N, H, W, C] uint8, for any N, and
returns logits [N, K] float32, on CPUs, NVIDIA GPUs and TPUs.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from flax.traverse_util import unflatten_dict
from jax import Array, export

from cifar_flax.errors import BadInput, in_one_line, is_out_of_memory
from cifar_flax.weights.contents import Network

ARTIFACT, DESCRIPTION, README = FILES = ("network.jax_export", "network.json", "README.md")
PLATFORMS = ("cpu", "cuda", "tpu")

TEXT = """# {model}

A trained network as a program, written by `jax.export`. It needs JAX, and flatbuffers to read the file:
`pip install jax flatbuffers`. In this folder:

```python
import jax.export, pathlib
network = jax.export.deserialize(bytearray(pathlib.Path("{artifact}").read_bytes()))
logits = network.call(images)
```

- `images` is an array {shape} uint8, with N at least 1. The program divides the pixels by 255 itself{standardizes}.
- `logits` is an array [N, {num_classes}] float32. `jax.nn.softmax(logits)` gives probabilities, and `logits.argmax(1)`
  the numbers of the classes below, whose names are also in {description}.
- It runs on CPUs, NVIDIA GPUs and TPUs, and is compiled at the first call with another N.

## Versions

Written by jax {jax} and jaxlib {jaxlib}. According to the documentation of `jax.export`
(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees), it can be compiled and executed by a
compiler and a JAX runtime system that are

- "up to 6 months newer than the version of JAX used for exporting" (6 months backward compatibility), and
- "up to 3 weeks older than the version of JAX used for exporting" (3 weeks forward compatibility).

What matters is when the two jaxlib releases were built. Logits differ by rounding between versions and devices.

## Classes

{classes}
"""


def write(folder: Path, network: Network) -> None:
    """Writes FILES to an empty folder.

    Raises:
        BadInput: the network cannot be exported.
    """
    (folder / ARTIFACT).write_bytes(_export(network))
    description = network.weights.metadata | {"input": "images [N, H, W, C] uint8", "output": "logits [N, K] float32"}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (folder / README).write_text(_readme(network), encoding="utf-8")


def _export(network: Network) -> bytearray:
    variables = unflatten_dict(network.weights.arrays, sep="/")
    (batch_size,) = export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((batch_size, *network.weights.metadata["image_shape"]), jnp.uint8)

    def logits(images: Array) -> Any:
        return network.module.apply(variables, images.astype(jnp.float32) / 255, train=False)

    try:
        return export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize()
    except Exception as error:  # of a network that needs a fixed batch size, or of a library that is missing
        if is_out_of_memory(error):
            raise
        raise BadInput(
            f"--format: this network cannot be exported to stablehlo ({in_one_line(error)}); choose another format"
        ) from error


def _readme(network: Network) -> str:
    metadata = network.weights.metadata
    names = metadata["class_names"]
    return TEXT.format(
        model=metadata["model"],
        artifact=ARTIFACT,
        description=DESCRIPTION,
        shape=f"[N, {', '.join(map(str, metadata['image_shape']))}]",
        standardizes=", and standardizes them" if metadata["normalize"] else "",
        num_classes=len(names),
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        classes="\n".join(f"{label}. {name}" for label, name in enumerate(names)),
    )
