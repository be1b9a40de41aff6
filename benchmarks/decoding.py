"""`python -m benchmarks.decoding`: seconds to decode a folder of small PNGs, ours and Pillow alone on the same cores.

Pillow alone is what one would write without this package: a `multiprocessing.Pool` of forked processes, as many as
cores, that return arrays. Both times include the start of the processes and end with one array in memory. The two take
turns, so that other load on the machine affects both.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.machine import describe
from cifar_flax.data import decoding

SIZE = 32  # pixels
CHUNK = decoding.CHUNK_PICTURES


def write_pictures(folder: Path, count: int) -> tuple[list[Path], np.ndarray]:
    """Writes PNGs of smooth colors with some noise, which take about as many bytes as photographs.

    Returns their paths, and their pixels [N, SIZE, SIZE, 3] uint8.
    """
    rng = np.random.default_rng(0)
    paths = [folder / f"{index:06}.png" for index in range(count)]
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for path, image in zip(paths, images, strict=True):
        colors = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(colors.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
        image[...] = np.clip(smooth + rng.integers(-6, 7, image.shape), 0, 255)
        Image.fromarray(image).save(path)
    return paths, images


def decode_with_cifar_flax(paths: Sequence[Path]) -> np.ndarray:
    return decoding.decode(paths, [str(path) for path in paths], None)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def decode_with_pillow(paths: Sequence[Path]) -> np.ndarray:
    with multiprocessing.get_context("fork").Pool(decoding.num_cpus()) as pool:
        return np.stack(pool.map(read, paths, chunksize=CHUNK))


CONTESTANTS: dict[str, Callable[[Sequence[Path]], np.ndarray]] = {
    "cifar_flax": decode_with_cifar_flax,
    "pillow": decode_with_pillow,
}


def cpu_seconds() -> float:
    """Of this process and of all that it started and that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(paths: Sequence[Path], images: np.ndarray, rounds: int) -> dict[str, dict[str, list[float]]]:
    """The seconds and CPU seconds of each contestant in each round.

    Raises:
        RuntimeError: a contestant decodes to other pixels.
    """
    measured: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu_seconds": []} for name in CONTESTANTS}
    for number in range(-1, rounds):  # one more, which fills the caches of the disk
        for name in list(CONTESTANTS)[:: 1 if number % 2 else -1]:
            start, cpu_start = time.perf_counter(), cpu_seconds()
            decoded = CONTESTANTS[name](paths)
            elapsed, cpu_elapsed = time.perf_counter() - start, cpu_seconds() - cpu_start
            if not np.array_equal(decoded, images):
                raise RuntimeError(f"{name} decodes to other pixels")
            if number >= 0:
                measured[name]["seconds"].append(elapsed)
                measured[name]["cpu_seconds"].append(cpu_elapsed)
                print(f"{name:12} {len(paths) / elapsed:9,.0f} pictures/s", flush=True)
    return measured


def median_ratio(measured: dict[str, dict[str, list[float]]], what: str) -> float:
    """The median over the rounds of Pillow's seconds in multiples of ours."""
    pairs = zip(measured["cifar_flax"][what], measured["pillow"][what], strict=True)
    return statistics.median(pillow / ours for ours, pillow in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("results/decoding.json"), help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(*write_pictures(Path(folder), options.pictures), options.rounds)
    ratios = {what: median_ratio(measured, what) for what in ("seconds", "cpu_seconds")}
    record = {
        "machine": describe(),  # starts JAX, so only after the processes were forked
        "pillow": PIL.__version__,
        "num_pictures": options.pictures,
        "image_size": SIZE,
        "contestants": measured,
        "median_pictures_per_second": {
            name: options.pictures / statistics.median(rounds["seconds"]) for name, rounds in measured.items()
        },
        "median_ratio": ratios,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{ratios['seconds']:.2f} times as fast as Pillow alone (median of {options.rounds} rounds)")
    print(f"Pillow alone takes {ratios['cpu_seconds']:.2f} times as much CPU time, whatever else the machine does")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
