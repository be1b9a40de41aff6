"""Tables of the benchmark results."""

from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.contestants import AIRBENCH, FLUSHED, OURS, PEERS, USUAL_LOOP
from benchmarks.intervals import mean_with_interval
from cifar_flax.reporting.formatting import describe_seeds, mean_std_percent

TITLES = {"mlp": "MLP", "cnn": "CNN", "alexnet": "AlexNet", AIRBENCH: AIRBENCH}
READERS = {  # titles of the readers in results/torture.json that are tested with generated inputs
    "archive": "generated CIFAR archives",
    "binary": "generated binary files of CIFAR-10 and CIFAR-100",
    "config": "generated configs and flags",
    "folder": "generated folders of pictures",
    "images": "generated image files",
    "npz": "generated .npz files",
    "parquet": "generated .parquet files",
    "serve": "generated requests to the page",
    "weights_keras": "generated files of Keras",
    "weights_npz": "generated .npz files of weights",
    "weights_safetensors": "generated .safetensors files",
}

QUANTITIES = ("statistics", "gradients", "state", "evaluation")  # in results/exactness.json
PRODUCTS = {"dot", "convolution"}  # operations of XLA
CASES = {"reproducer": "reproducer of the fault"}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(
        [row(*header), row(*("---:" if i else "---" for i in range(len(header)))), *(row(*r) for r in rows)]
    )


def versions(machine: dict[str, Any]) -> str:
    """The versions of Python and JAX."""
    return ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "jax", "jaxlib"))


def median(values: list[float]) -> float:
    return float(np.median(values))


def ratio(network: dict[str, Any], names: tuple[str, ...], measure: str) -> float:
    """Our median over the rounds, divided by the best median of those `names` that were measured."""
    contestants = network["contestants"]
    others = [median(contestants[name][measure]) for name in names if name in contestants]
    return median(contestants[OURS][measure]) / max(others)


def conditions(record: dict[str, Any]) -> str:
    machine, rounds = record["machine"], len(next(iter(record["networks"].values()))["contestants"][OURS]["train"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rates = [network["rates"] for network in record["networks"].values()]
    operations = [rate["operations_per_second"] / 1e9 for rate in rates]
    copies = [rate["bytes_per_second"] / 1e9 for rate in rates]
    optimizer = "SGD" if AIRBENCH in record["networks"] else "Adam"
    return (
        f"Medians of {rounds} alternating rounds of one run. {machine['platform'].upper()}, batch size "
        f"{record['batch_size']}, float32, {optimizer}. Machine: {machine['processor']}, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, {_spread(operations)} GFLOP/s in a large matrix product, {_spread(copies)} GB/s "
        f"in a large copy. Software: {versions}."
    )


def _spread(values: list[float]) -> str:
    """`159 to 181`, or `54` if both ends round to the same number."""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def summary(record: dict[str, Any]) -> str:
    """Training images per second of each contestant, and our ratios to the others."""
    networks = record["networks"]
    rows = [
        [name, *(f"{median(network['contestants'][name]['train']):,.0f}" for network in networks.values())]
        for name in networks["mlp"]["contestants"]
    ]
    unflushed = tuple(name for name in PEERS if name != FLUSHED)
    for title, others in (
        ("best of Keras and PyTorch", PEERS),
        ("best of Keras and PyTorch, without flushed denormals", unflushed),
        (USUAL_LOOP, (USUAL_LOOP,)),
    ):
        rows.append([f"*{OURS} / {title}*", *(f"{ratio(n, others, 'train'):.2f}" for n in networks.values())])
    header = ["training images/s", *(TITLES[name] for name in networks)]
    return f"{table(header, rows)}\n\n{conditions(record)}"


def details(record: dict[str, Any]) -> str:
    """A table per network: training speed with its range and fraction of the roofline, evaluation, memory."""
    parts = []
    for name, network in record["networks"].items():
        work, min_seconds = network["work"], network["least_seconds"]
        peers = "PyTorch" if name == AIRBENCH else "Keras and PyTorch"
        rows = []
        for contestant, measured in network["contestants"].items():
            train, evaluate = measured["train"], measured["evaluate"]
            fraction = median(train) / record["batch_size"] * min_seconds
            rows.append(
                [
                    contestant,
                    f"{median(train):,.0f} ({min(train):,.0f} to {max(train):,.0f})",
                    f"{100 * fraction:.0f}",
                    f"{median(evaluate):,.0f}",
                    f"{measured['compile_seconds']:.1f}",
                    f"{measured['peak_memory_mib']:,.0f}",
                ]
            )
        header = [
            TITLES[name],
            "training images/s",
            "% of roofline",
            "evaluation images/s",
            "compilation, s",
            "peak memory, MiB",
        ]
        parts.append(
            f"{table(header, rows)}\n\n"
            f"{TITLES[name]}: a step needs {work['operations'] / 1e9:.2f} GFLOP, and {work['bytes'] / 1e9:.2f} GB for "
            f"the optimizer, hence about {1000 * min_seconds:,.1f} ms at the measured rates. {OURS} / best of {peers}: "
            f"training {ratio(network, PEERS, 'train'):.2f}, evaluation {ratio(network, PEERS, 'evaluate'):.2f}."
        )
    return "\n\n".join([*parts, conditions(record)])


def startup(record: dict[str, Any]) -> str:
    """Seconds to the first training step by phase, and the peak memory of a run."""
    rows = []
    for experiment, measured in record["experiments"].items():
        parts = {part: median([spent[part] for spent in measured["rounds"]]) for part in measured["rounds"][0]}
        other = 2 * parts["total"] - sum(parts.values())
        seconds = (parts["imports"], parts["data"], parts["compilation"], other, parts["total"])
        rows.append([f"`{experiment}`", *(f"{s:.1f}" for s in seconds), f"{measured['peak_memory_mib']:,.0f}"])
    header = ["seconds to the first step", "imports", "data", "compilation", "other", "total", "peak memory, MiB"]
    return table(header, rows)


def torture(record: dict[str, Any]) -> str:
    """The number of trials and failures of each fault."""
    rows = []
    for name, title in (("SIGKILL", "kill -9"), ("SIGTERM", "SIGTERM")):
        trials, failures = record[name]["tries"], len(record[name]["failures"])
        rows.append([f"{title} at a random time, {record[name]['runs']} runs", f"{trials}", f"{failures}"])
    for reader in record["readers"]:
        title = READERS.get(reader["target"], reader["target"].replace(", ", ": "))
        rows.append([title, f"{reader['examples']:,}", f"{reader['failures']}"])
    machine, overrides = record["machine"], record["fields"]
    return (
        f"{table(['fault', 'trials', 'failures'], rows)}\n\n"
        f"{record['date']}, {machine['processor']}, {machine['threads']} threads, {machine['memory_gib']} GiB. The "
        f"killed run: `cnn_augmented` on synthetic images, {overrides['num_epochs']} epochs, a checkpoint every "
        f"{overrides['save_seconds']} s, a kill within {record['kill_within_seconds']:.0f} s of each start."
    )


def exactness(record: dict[str, Any]) -> str:
    """The largest error of each quantity, and the reductions that the programs leave to YNNPACK."""
    rows, ranks = [], []
    for name, case in record["cases"].items():
        quantities = (case["errors"].get(quantity) for quantity in QUANTITIES)
        cells = [_errors(errors) if errors else "" for errors in quantities]
        reductions = [words.split() for program in case["reductions"]["published"].values() for words in program]
        products = [words for words in reductions if PRODUCTS & set(words)]
        ranks += [words[-1].count(",") + 1 for words in reductions]
        rows.append([CASES.get(name, f"`{name}`"), *cells, f"{len(reductions)}", f"{len(products)}"])
    machine = record["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "jax", "jaxlib", "flax"))
    header = ["largest error", *QUANTITIES, "reductions", "of a product"]
    return (
        f"{table(header, rows)}\n\n"
        f"{record['date']}, {machine['processor']}, {machine['threads']} threads, {versions}, dataset "
        f"`{record['dataset']}`. Each error: with the options of the first published runs / with the option that "
        f"avoids the fault. No reduction reads an array of more than {max(ranks)} dimensions."
    )


def _errors(errors: dict[str, Any]) -> str:
    both = (errors[process]["error"] for process in ("published", "avoiding"))
    return " / ".join(f"{error:.0e}" if error else "0" for error in both)


def decoding(record: dict[str, Any]) -> str:
    """A sentence about the speed of decoding a folder of small pictures."""
    speeds, ratios, machine = record["median_pictures_per_second"], record["median_ratio"], record["machine"]
    rounds = len(record["contestants"]["pillow"]["seconds"])
    return (
        f"{record['num_pictures']:,} PNGs of {record['image_size']} x {record['image_size']} pixels: "
        f"{speeds['cifar_flax']:,.0f} a second, Pillow alone in a pool of processes {speeds['pillow']:,.0f}; "
        f"{ratios['seconds']:.2f} times as fast in the median round, for {1 / ratios['cpu_seconds']:.0%} of its CPU "
        f"time (medians of {rounds} alternating rounds, starts of processes included; `python -m "
        f"benchmarks.decoding`). {machine['processor']}, {machine['threads']} threads, python "
        f"{machine['versions']['python']}, Pillow {record['pillow']}."
    )


def fine_tuning(record: dict[str, Any]) -> str:
    """The test accuracy of each start, with its seeds."""
    rows, sources = [], record["source_test_accuracy"]
    for start in record["starts"]:
        source = f"`{start['source']}:demo`" if start["source"] else "random weights"
        accuracies = start["test_accuracy"]
        seeds = ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
        rows.append([source, start["title"], mean_with_interval(accuracies, bold=True), seeds])
    machine, num_images, names = record["machine"], record["num_images"], record["class_names"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "jax", "flax"))
    reached = " and ".join(f"`{name}:demo` {100 * accuracy:.1f} %" for name, accuracy in sources.items())
    return (
        f"{table(['start from', 'trained', 'test accuracy', 'of each seed, %'], rows)}\n\n"
        f"{len(names)} classes ({', '.join(names)}), {num_images['train']} training and {num_images['test']} test "
        f"pictures each, drawn anew for each of the {describe_seeds(record['seeds'])}. Brackets hold the mean's 95 % "
        f"confidence interval. On their own test images, "
        f"{reached}. {record['date']}, {machine['processor']}, {machine['threads']} threads, {versions}."
    )


def fine_tuning_card(record: dict[str, Any]) -> str:
    """The `Result:` line of `cnn_finetuned`: the accuracy of the experiment and the best without its start."""
    ours = next(start["test_accuracy"] for start in record["starts"] if start["is_experiment"])
    others = [start["test_accuracy"] for start in record["starts"] if start["source"] is None]
    nothing = max(others, key=fmean)
    return (
        f"{mean_std_percent(ours)} test accuracy, {mean_std_percent(nothing)} from random weights, "
        f"{describe_seeds(record['seeds'])} (docs/weights.md)"
    )
