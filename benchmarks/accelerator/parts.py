"""The parts of the record, in the order of their worth, with the seconds that each is expected to take.

The estimates are for an H100 or H200 and were made before any part had run on one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.accelerator import numerics, paths, profiling, runs, speed

CASES = {  # experiment -> lowerings of its convolutions
    "mlp": ["library"],
    "cnn": ["library", "patches", "winograd"],
    "alexnet": ["library"],
    "airbench94": ["library", "patches", "winograd"],
    "airbench94_muon": ["library"],
}
NETWORKS = ("mlp", "cnn", "alexnet", "airbench94")


class Part(NamedTuple):
    """A call whose result is written to the record.

    Attributes:
        name: in the record.
        function: called with the arguments and `dataset`; returns what JSON can hold.
        arguments: as JSON holds them. If they change, the part is measured again.
        seconds: estimate.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any]
    seconds: int


def all_parts() -> list[Part]:
    return [
        *(_numerics(experiment, lowerings, 128) for experiment, lowerings in CASES.items()),
        *(_paths(experiment, 512, 20) for experiment in ("cnn_augmented", "airbench94")),
        _resume("cnn_augmented", {"batch_size": 512, "num_epochs": 2.0}, 45),
        *(_runs(name, list(range(10)), ["float32", "bfloat16"], {}, 240) for name in ("airbench94", "airbench94_muon")),
        *(_speed(network, precision, 512) for network in NETWORKS for precision in ("tf32", "bfloat16")),
        _runs("alexnet", [0], ["float32"], {}, 150),
        *(_profile(experiment, {}) for experiment in ("airbench94", "alexnet", "cnn")),
        *(_speed(network, precision, 32) for network in NETWORKS for precision in ("tf32", "bfloat16")),
        *(_speed(network, precision, 2048) for network in NETWORKS for precision in ("tf32", "bfloat16")),
        *(_speed(network, "float32", 512) for network in NETWORKS),
    ]


def tiny_parts() -> list[Part]:
    """One of each kind, in seconds on a CPU. The networks are not those of the record."""
    return [
        _numerics("cnn", ["library", "patches"], 8),
        _paths("cnn_augmented", 32, 3),
        _resume("cnn_augmented", {"num_validation": 5_000, "num_epochs": 2.0, "batch_size": 64}, 1),
        _runs("mlp", [0, 1], ["float32", "bfloat16"], {"num_epochs": 0.5, "batch_size": 64}, 1),
        _speed("mlp", "bfloat16", 32, seconds=0.1, rounds=1),
        _profile("cnn", {"batch_size": 8}),
    ]


def _numerics(experiment: str, lowerings: list[str], batch_size: int) -> Part:
    arguments = {"experiment": experiment, "lowerings": lowerings, "batch_size": batch_size}
    return Part(f"numerics: {experiment}", numerics.compare, arguments, 25 + 20 * len(lowerings))


def _paths(experiment: str, batch_size: int, num_batches: int) -> Part:
    arguments = {"experiment": experiment, "batch_size": batch_size, "num_batches": num_batches}
    return Part(f"paths: {experiment}", paths.compare, arguments, 50)


def _resume(experiment: str, overrides: dict[str, Any], seconds: int) -> Part:
    return Part(f"resume: {experiment}", paths.resume, {"experiment": experiment, "overrides": overrides}, seconds)


def _runs(experiment: str, seeds: list[int], dtypes: list[str], overrides: dict[str, Any], seconds: int) -> Part:
    arguments = {"experiment": experiment, "seeds": seeds, "dtypes": dtypes, "overrides": overrides}
    return Part(f"runs: {experiment}", runs.train, arguments, seconds)


def _speed(network: str, precision: str, batch_size: int, seconds: float = 0.5, rounds: int = 5) -> Part:
    arguments = {"network": network, "precision": precision, "batch_size": batch_size}
    arguments |= {"seconds": seconds, "rounds": rounds}
    return Part(f"speed: {network}, {precision}, {batch_size}", speed.compare, arguments, 45)


def _profile(experiment: str, overrides: dict[str, Any]) -> Part:
    return Part(f"profile: {experiment}", profiling.profile, {"experiment": experiment, "overrides": overrides}, 40)
