"""The tables of docs/performance.md about what was measured on accelerators."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.accelerator.speed import PYTORCH
from benchmarks.contestants import OURS
from benchmarks.intervals import mean_with_interval
from benchmarks.table import median, ratio, table, versions

NOTHING = "No accelerator has been measured yet."


def measured(results: Path) -> str:
    """All tables of each record in results/, or the sentence that there is none."""
    records = [json.loads(path.read_text()) for path in sorted(results.glob("accelerator_*.json"))]
    return "\n\n".join(tables(record) for record in records) or NOTHING


def tables(record: dict[str, Any]) -> str:
    """The tables of one record, without those of which no part is in it."""
    machine, dates = record["machine"], sorted(part["date"] for part in record["parts"].values())
    title = f"**{machine['device_kind']}.** {versions(machine)}"
    title += f", torch {machine['versions']['torch']}" if "torch" in machine["versions"] else ", without PyTorch"
    functions = (numerics, paths, runs, speed, profiles)
    sections = [function(record) for function in functions]
    return "\n\n".join([f"{title}, {dates[-1]}.", *(section for section in sections if section)])


def results_of(record: dict[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, result) of the parts `KIND: NAME`."""
    for name, part in record["parts"].items():
        if name.startswith(f"{kind}: "):
            yield name.removeprefix(f"{kind}: "), part["result"]


def numerics(record: dict[str, Any]) -> str:
    rows = []
    for experiment, result in results_of(record, "numerics"):
        for lowering, errors in result["errors"].items():
            cells = (f"{e['logits']['error']:.0e} / {e['gradients']['distance']:.0e}" for e in errors.values())
            rows.append([f"`{experiment}`, {lowering}", *cells])
    if not rows:
        return ""
    header = ["error of logits / gradients", "float32, highest precision", "float32, default", "bfloat16"]
    return (
        f"{table(header, rows)}\n\n"
        "Compared with the host's CPU in float32, for the same weights, images and dropout. Logits: the largest "
        "difference, divided by the largest logit. Gradients: the norm of the difference, divided by the norm."
    )


def paths(record: dict[str, Any]) -> str:
    columns = {}
    for experiment, result in results_of(record, "paths"):
        evaluation = {
            f"{name} (evaluation)": value for name, value in result["evaluation"].items() if name != "counted"
        }
        columns[experiment] = result["training"] | evaluation | {"augmentation at whole pixels": result["augmentation"]}
    for experiment, result in results_of(record, "resume"):
        resumed = {"stopped and resumed": max(result["errors"].values())}
        columns[experiment] = columns.get(experiment, {}) | resumed
    if not columns:
        return ""
    checks = list(dict.fromkeys(check for column in columns.values() for check in column))
    rows = [[check, *(_error(column.get(check)) for column in columns.values())] for check in checks]
    return (
        f"{table(['largest relative difference', *(f'`{name}`' for name in columns)], rows)}\n\n"
        "0: the same to the last bit. Each is compared with two epochs on images in the device's memory, one call for "
        "each epoch; `repeated` is that once more. Stopped and resumed: the losses of whole runs."
    )


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}" if error else "0"


def runs(record: dict[str, Any]) -> str:
    rows = []
    for experiment, result in results_of(record, "runs"):
        every = result["runs"]
        accuracies = [[run.get(name) for run in every] for name in ("test_accuracy", "tta_test_accuracy")]
        plain, tta = (mean_with_interval(values) if None not in values else "" for values in accuracies)
        seconds = [fmean(run[name] for run in every) for name in ("train_seconds", "seconds")]
        compilation = result["first_seed"][result["dtype"]]["compile_seconds"]
        cells = [f"{seconds[0]:.1f}", f"{compilation:.1f}", f"{seconds[1]:.1f}", _mib(result["peak_bytes"])]
        rows.append([f"`{experiment}`, {result['dtype']}", f"{len(every)}", *cells, plain, tta])
    if not rows:
        return ""
    header = [
        "run",
        "seeds",
        "training, s",
        "compilation, s",
        "whole run, s",
        "memory, MiB",
        "test accuracy",
        "with TTA",
    ]
    return (
        f"{table(header, rows)}\n\n"
        "Means over the seeds; the compilation is that of the first one, which the others take from JAX's cache. Where "
        "both dtypes were tried, the runs have the one whose training took less time. Brackets hold the mean's 95 % "
        "confidence interval."
    )


def _mib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 2**20:,.0f}"


def speed(record: dict[str, Any]) -> str:
    rows, num_rounds = [], set()
    for name, result in results_of(record, "speed"):
        contestants, cells = result["contestants"], []
        num_rounds.add(len(contestants[OURS]["train"]))
        for measure in ("train", "evaluate"):
            speeds = (contestants.get(name, {}).get(measure) for name in (OURS, *PYTORCH))
            cells += [f"{median(values):,.0f}" if values else "" for values in speeds]
            others = [name for name in PYTORCH if name in contestants]
            cells.append(f"**{ratio(result, tuple(others), measure):.2f}**" if others else "")
        peaks = (_mib(contestants.get(name, {}).get("peak_device_bytes")) for name in (OURS, PYTORCH[0]))
        rows.append([name, *cells, " / ".join(peak for peak in peaks if peak)])
    if not rows:
        return ""
    columns = ("cifar_flax", "eager", "compiled", "ratio")
    header = [
        "network, precision, batch",
        *(f"{what}: {column}" for what in ("training", "evaluation") for column in columns),
    ]
    return (
        f"{table([*header, 'memory, MiB'], rows)}\n\n"
        f"Images/s, medians of {_spread(num_rounds)} alternating rounds. PyTorch is eager, or compiled with CUDA "
        "graphs (mode reduce-overhead); the ratio is to the better of the two. `tf32`: float32 whose products may be "
        "rounded to TF32, in both frameworks; `float32`: in neither; `bfloat16`: by autocast in PyTorch. Memory: the "
        "peak of the device, cifar_flax / eager."
    )


def _spread(numbers: set[int]) -> str:
    return " to ".join(map(str, sorted({min(numbers), max(numbers)})))


def profiles(record: dict[str, Any]) -> str:
    blocks = []
    for experiment, result in results_of(record, "profile"):
        lines = "\n".join(result["operations"])
        blocks.append(
            f"The slowest operations of `{experiment}` ({_mib(result['peak_bytes'])} MiB):\n\n```\n{lines}\n```"
        )
    return "\n\n".join(blocks)
