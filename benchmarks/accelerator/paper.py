"""What a training step costs at least on an accelerator, on paper: from its shapes and the limits of the chip."""

from typing import Any, NamedTuple

from benchmarks.table import TITLES, table

BATCH_SIZES = (32, 512, 2048)
IMAGE_BYTES = 32 * 32 * 3  # uint8


class Limits(NamedTuple):
    """The limits of a chip, without sparsity.

    Attributes:
        tf32, bfloat16: operations per second of its matrix units.
        bytes_per_second: of its memory.
    """

    tf32: float
    bfloat16: float
    bytes_per_second: float


# NVIDIA, H100 and H200 Tensor Core GPU datasheets, SXM modules. The operations are given with sparsity, which doubles
# them.
TF32, BFLOAT16 = 989e12, 1979e12
CHIPS = {"H100": Limits(TF32 / 2, BFLOAT16 / 2, 3.35e12), "H200": Limits(TF32 / 2, BFLOAT16 / 2, 4.8e12)}


def on_paper(*records: dict[str, Any]) -> str:
    """A table of the work of a step and the least time for it.

    Args:
        records: of benchmarks.speed, whose work of a step was counted by benchmarks.roofline.
    """
    rows = []
    for record in records:
        for network, measured in record["networks"].items():
            for batch_size in BATCH_SIZES:
                operations = measured["work"]["operations"] / record["batch_size"] * batch_size
                rows.append(
                    [f"{TITLES[network]}, {batch_size:,}", *_cells(operations, measured["work"]["bytes"], batch_size)]
                )
    memory = " and ".join(f"{chip.bytes_per_second / 1e12:.3g} TB/s ({name})" for name, chip in CHIPS.items())
    header = ["network, batch size", "GFLOP", "optimizer, MB", "images, MB", "products in TF32, µs", "in bfloat16, µs"]
    header += [f"memory of {name}, µs" for name in CHIPS]
    return (
        f"{table(header, rows)}\n\n"
        "Computed, not measured. GFLOP: the matrix products and convolutions, forward and backward, counted as for the "
        "roofline above. The optimizer reads and writes parameters, gradients and moments once, in float32; the batch "
        "is read as uint8. Activations are not counted, so all times are lower bounds. The limits are those of "
        f"NVIDIA's datasheets for the SXM modules: {TF32 / 1e12:,.0f} TFLOP/s in TF32 and {BFLOAT16 / 1e12:,.0f} in "
        f"bfloat16, both halved because they count on sparsity, and {memory}."
    )


def _cells(operations: float, parameter_bytes: float, batch_size: int) -> list[str]:
    limits, num_bytes = CHIPS["H100"], parameter_bytes + batch_size * IMAGE_BYTES
    microseconds = [1e6 * operations / rate for rate in (limits.tf32, limits.bfloat16)]
    microseconds += [1e6 * num_bytes / chip.bytes_per_second for chip in CHIPS.values()]
    amounts = (operations / 1e9, parameter_bytes / 1e6, batch_size * IMAGE_BYTES / 1e6)
    return [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in (*amounts, *microseconds)]
