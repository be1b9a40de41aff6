"""Tables out of the records of the benchmarks."""

from typing import Any

import numpy as np

from benchmarks.contestants import AIRBENCH, FLUSHED, PEERS, US, USUAL_LOOP

TITLES = {"mlp": "MLP", "cnn": "CNN", "alexnet": "AlexNet", AIRBENCH: AIRBENCH}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(
        [row(*header), row(*("---:" if i else "---" for i in range(len(header)))), *(row(*r) for r in rows)]
    )


def median(values: list[float]) -> float:
    return float(np.median(values))


def ratio(network: dict[str, Any], names: tuple[str, ...], measure: str) -> float:
    """Ours over the fastest of `names` that took part, medians of all rounds."""
    contestants = network["contestants"]
    others = [median(contestants[name][measure]) for name in names if name in contestants]
    return median(contestants[US][measure]) / max(others)


def conditions(record: dict[str, Any]) -> str:
    machine, rounds = record["machine"], len(next(iter(record["networks"].values()))["contestants"][US]["train"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rates = [network["rates"] for network in record["networks"].values()]
    optimizer = "SGD" if AIRBENCH in record["networks"] else "Adam"
    return (
        f"Medians of {rounds} alternating rounds of one run on the {machine['platform'].upper()}, batch "
        f"{record['batch_size']}, float32, {optimizer}: {machine['processor']}, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB; the machine multiplies at "
        f"{min(r['operations_per_second'] for r in rates) / 1e9:.0f} to "
        f"{max(r['operations_per_second'] for r in rates) / 1e9:.0f} GFLOP/s and copies at "
        f"{min(r['bytes_per_second'] for r in rates) / 1e9:.0f} to "
        f"{max(r['bytes_per_second'] for r in rates) / 1e9:.0f} GB/s. {versions}."
    )


def summary(record: dict[str, Any]) -> str:
    """Training images per second of everyone, and our ratios."""
    networks = record["networks"]
    rows = [
        [name, *(f"{median(network['contestants'][name]['train']):,.0f}" for network in networks.values())]
        for name in networks["mlp"]["contestants"]
    ]
    as_they_come = tuple(name for name in PEERS if name != FLUSHED)
    for title, others in (
        ("the best of Keras and PyTorch", PEERS),
        ("the best of them as they come", as_they_come),
        ("the usual Flax loop", (USUAL_LOOP,)),
    ):
        rows.append([f"*ours over {title}*", *(f"{ratio(n, others, 'train'):.2f}" for n in networks.values())])
    header = ["training images/s", *(TITLES[name] for name in networks)]
    return f"{table(header, rows)}\n\n{conditions(record)}"


def details(record: dict[str, Any]) -> str:
    """A table for each network: training with its spread and share of the roofline, evaluation, memory."""
    parts = []
    for name, network in record["networks"].items():
        work, least = network["work"], network["least_seconds"]
        rows = []
        for contestant, measured in network["contestants"].items():
            train, evaluate = measured["train"], measured["evaluate"]
            share = median(train) / record["batch_size"] * least
            rows.append(
                [
                    contestant,
                    f"{median(train):,.0f} ({min(train):,.0f} to {max(train):,.0f})",
                    f"{100 * share:.0f} %",
                    f"{median(evaluate):,.0f}",
                    f"{measured['compile_seconds']:.1f}",
                    f"{measured['peak_memory_mib']:,.0f}",
                ]
            )
        header = [TITLES[name], "training images/s", "of the roofline", "evaluation images/s", "compiling, s", "MiB"]
        parts.append(
            f"{table(header, rows)}\n\n"
            f"{TITLES[name]}: {work['operations'] / 1e9:.2f} GFLOP and {work['bytes'] / 1e9:.2f} GB of the "
            f"optimizer a step, so at least {1000 * least:,.1f} ms; ours over the best peer: training "
            f"{ratio(network, PEERS, 'train'):.2f}, evaluation {ratio(network, PEERS, 'evaluate'):.2f}."
        )
    return "\n\n".join(parts)


def airbench(record: dict[str, Any]) -> str:
    """The record of the network that is measured alone."""
    return f"{details(record)}\n\n{conditions(record)}"


def startup(record: dict[str, Any]) -> str:
    """Seconds to the first step and where they go, and the memory of a run."""
    rows = []
    for experiment, measured in record["experiments"].items():
        parts = {part: median([spent[part] for spent in measured["rounds"]]) for part in measured["rounds"][0]}
        rest = 2 * parts["total"] - sum(parts.values())
        seconds = (parts["imports"], parts["data"], parts["compilation"], rest, parts["total"])
        rows.append([f"`{experiment}`", *(f"{s:.1f}" for s in seconds), f"{measured['peak_memory_mib']:,.0f}"])
    header = ["seconds to the first step", "imports", "data", "compilation", "the rest", "all", "peak MiB of a run"]
    return table(header, rows)


def torture(record: dict[str, Any]) -> str:
    """What was tried how often, and how often it failed."""
    rows = []
    for name, title in (("SIGKILL", "kill -9"), ("SIGTERM", "SIGTERM")):
        tried, failures = record[name]["tries"], len(record[name]["failures"])
        rows.append([f"{title} at a random moment, over {record[name]['runs']} runs", f"{tried}", f"{failures}"])
    rows += [[reader["target"], f"{reader['examples']:,}", f"{reader['failures']}"] for reader in record["readers"]]
    machine = record["machine"]
    return (
        f"{table(['what', 'tried', 'failed'], rows)}\n\n"
        f"{record['date']}, on {machine['processor']}, {machine['threads']} threads, {machine['memory_gib']} GiB. The "
        f"run that was killed: `cnn_augmented` on drawings, {record['fields']['num_epochs']} epochs, a checkpoint "
        f"every {record['fields']['save_seconds']} s, a kill within {record['kill_within_seconds']:.0f} s of a start."
    )
