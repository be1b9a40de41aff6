"""The accuracy of the experiments, out of the records of their runs in results/<experiment>/seed<N>."""

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks import roofline
from benchmarks.contestants import AIRBENCH
from benchmarks.table import median, table
from cifar_flax.errors import BadInput
from cifar_flax.reporting.figures import STYLE, TRAINING, VALIDATION
from cifar_flax.reporting.formatting import percent, seeds
from cifar_flax.workdir.epochs import validated
from cifar_flax.workdir.records import Records

FILES = ("config.json", "run.json", "metrics.jsonl")
ORDER = ("mlp", "cnn", "cnn_augmented", "alexnet")  # the reference's; others follow


def take_over(workdir: Path, results: Path) -> None:
    """Copies the text records of a finished run.

    Raises:
        BadInput: the run is not done, or its records are not as it left them.
    """
    records = Records(workdir)
    if not records.done:
        raise BadInput(f"{workdir} holds no finished run; finish it before it is published")
    folder = results / str(records.run["experiment"]) / f"seed{records.run['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(workdir / name, folder / name)


def experiments(results: Path) -> dict[str, list[Records]]:
    """The records of each experiment that has some, by seed; the reference's experiments first."""
    found: dict[str, list[Records]] = {}
    for path in results.glob("*/seed*/run.json"):
        records = Records(path.parent)
        if not records.done:
            raise BadInput(f"{path.parent} is not as the run left it; take it over again")
        found.setdefault(path.parts[-3], []).append(records)
    names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return {name: sorted(found[name], key=lambda records: records.run["seed"]) for name in names}


def reference(results: Path) -> dict[str, Any]:
    """The reference's test accuracy and epochs, by experiment."""
    return json.loads((results / "reference.json").read_text())


def of_all(runs: list[Records], field: str) -> list[float]:
    return [records.run[field] for records in runs]


def card(runs: list[Records]) -> str:
    """What an experiment's header card says of its results."""
    if not runs:
        return "no run is published yet"
    plain = f"{percent(of_all(runs, 'test_accuracy'))} test accuracy"
    tta = with_tta(runs)
    return f"{plain}{f', {tta} with test-time augmentation' if tta else ''}, {named(runs)} (docs/results.md)"


def with_tta(runs: list[Records]) -> str:
    """Test accuracy with test-time augmentation; empty if the experiment does without."""
    return percent(of_all(runs, "tta_test_accuracy")) if all("tta_test_accuracy" in r.run for r in runs) else ""


def petaflop(records: Records) -> float:
    """Multiplications and additions of the products of all training steps, in 1e15, counted from the shapes."""
    step = roofline.training_step(str(records.run["experiment"]), records.config["batch_size"])
    return step.operations * records.epochs()[-1]["step"] / 1e15


def named(runs: list[Records]) -> str:
    return seeds([records.run["seed"] for records in runs])


def summary(found: dict[str, list[Records]], reference: dict[str, Any]) -> str:
    """Test accuracy of the reference's experiments beside its own, and apart from them that of all others."""
    ours, others = [], []
    for name, runs in found.items():
        row = [f"`{name}`", percent(of_all(runs, "test_accuracy")), f"{len(runs)}", f"{petaflop(runs[0]):.2f}"]
        if name in reference:
            ours.append([*row, f"{100 * reference[name]['test_accuracy']:.2f} %"])
        else:
            others.append([*row, with_tta(runs)])
    header = ["experiment", "test accuracy", "seeds", "PFLOP"]
    parts = [table([*header, "the reference, one run"], ours)]
    if others:
        parts += ["Beyond the notebook, with other recipes:", table([*header, "with test-time augmentation"], others)]
    return "\n\n".join([*parts, *headline(found), conditions(found)])


def headline(found: dict[str, list[Records]]) -> list[str]:
    """What the compute of a network of 2012 buys today."""
    if AIRBENCH not in found or "alexnet" not in found:
        return []
    old, new = found["alexnet"], found[AIRBENCH]
    least, most = petaflop(new[0]), petaflop(old[0])
    return [
        f"**The compute of a network of 2012, {most:.2f} PFLOP for `alexnet` and {least:.2f} for `{AIRBENCH}`: "
        f"{100 * fmean(of_all(new, 'tta_test_accuracy')):.1f} % instead of "
        f"{100 * fmean(of_all(old, 'test_accuracy')):.1f} %.**"
    ]


def conditions(found: dict[str, list[Records]]) -> str:
    runs = [records.run for several in found.values() for records in several]
    machines = sorted({f"{run['processor']}, {run['platform']}, CPUs: {run['num_cpus']}" for run in runs})
    versions = sorted({f"jax {run['versions']['jax']}, flax {run['versions']['flax']}" for run in runs})
    without = [f"`{name}`" for name, several in found.items() if None in of_all(several, "best_validation_loss")]
    unvalidated = f"; {', '.join(without)}: trained on all 50,000 images, of the last step" if without else ""
    return (
        "Mean and standard deviation over the seeds, of the epoch with the lowest validation loss of each run, tested "
        f"once on the 10,000 test images{unvalidated}. PFLOP: of training, counted from the shapes. Computed on "
        f"{'; '.join(machines)} with {'; '.join(versions)}."
    )


def details(found: dict[str, list[Records]], reference: dict[str, Any]) -> str:
    """Every run: seed by seed."""
    rows = []
    for name, runs in found.items():
        for records in runs:
            run = records.run
            rows.append(
                [
                    f"`{name}`",
                    f"{run['seed']}",
                    f"{run['best_epoch']} of {records.epochs()[-1]['epoch']}",
                    percent([run["best_validation_accuracy"]]),
                    percent([run["test_accuracy"]]),
                    with_tta([records]),
                    *seconds([records]),
                    f"{run['git_commit'][:10]}",
                ]
            )
        theirs = f", reference {100 * reference[name]['test_accuracy']:.2f} %" if name in reference else ""
        test = f"**{percent(of_all(runs, 'test_accuracy'))}**{theirs}"
        validation = percent(of_all(runs, "best_validation_accuracy"))
        tta = with_tta(runs)
        means = [validation, test, f"**{tta}**" if tta else ""]
        rows.append([f"**`{name}`**", f"{len(runs)} in all", "", *means, *seconds(runs), ""])
    header = ["experiment", "seed", "best epoch", "validation accuracy", "test accuracy", "with TTA"]
    return table([*header, "training, s", "with compilation, s", "commit"], rows)


def seconds(runs: list[Records]) -> tuple[str, str]:
    """Medians of the seconds of training, without and with compilation."""
    training = of_all(runs, "train_seconds")
    both = [a + b for a, b in zip(training, of_all(runs, "compile_seconds"), strict=True)]
    return f"{median(training):,.0f}", f"{median(both):,.0f}"


def gallery(found: dict[str, list[Records]]) -> str:
    return "\n\n".join(f"![Loss and accuracy of {name} by epoch](curves_{name}.svg)" for name in found)


def curves(runs: list[Records], theirs: dict[str, Any] | None) -> Figure:
    """Mean over the seeds and the range between them, and the reference's one run as dashes, if there is one."""
    name = runs[0].run["experiment"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        figure.suptitle(f"{name}: {named(runs)}" + (", and the reference's one run" if theirs else ""))
        for axis, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            splits = (("train", TRAINING, "o"), ("validation", VALIDATION, "s"))
            for split, colour, marker in splits if validated(runs[0].epochs()) else splits[:1]:
                field = f"{split}_{quantity}"
                values = np.array([[line[field] for line in records.epochs()] for records in runs])
                at = np.arange(1, values.shape[1] + 1)
                axis.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
                axis.plot(at, values.mean(0), color=colour, marker=marker, markersize=4, label=split)
                if theirs:
                    lines = theirs["epochs"]
                    axis.plot(
                        [line["epoch"] for line in lines],
                        [line[field] for line in lines],
                        color=colour, linestyle="--", linewidth=1, marker=marker, markersize=4,
                        markerfacecolor="white", label=f"{split}, reference",
                    )  # fmt: skip
            axis.set(title=quantity.capitalize(), xlabel="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend(fontsize=9)
    return figure
