"""Accuracy tables and curves of the experiments, from the run records in results/<experiment>/seed<N>."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from benchmarks import control, roofline
from benchmarks.contestants import AIRBENCH
from benchmarks.intervals import CONFIDENCE, mean_with_interval
from benchmarks.table import median, table
from cifar_flax.errors import BadInput
from cifar_flax.reporting.formatting import describe_seeds, mean_std_percent
from cifar_flax.workdir.records import Records

RECORD_FILES = ("config.json", "run.json", "metrics.jsonl")
MUON, MUON_SEEDS = "airbench94_muon", range(10)  # nothing is concluded before all of them have ended
GOAL = 0.939  # of MUON's mean with test-time augmentation
REFERENCE_EXPERIMENTS = ("mlp", "cnn", "cnn_augmented", "alexnet")  # listed first, in this order

Runs = dict[str, list[Records]]  # the runs of each experiment, sorted by seed


def copy_records(workdir: Path, results: Path) -> None:
    """Copies the text records of a finished run to `results`.

    Raises:
        BadInput: the run is not done, or its records were changed afterwards.
    """
    records = Records(workdir)
    if not records.done:
        raise BadInput(f"{workdir} does not hold a finished, unchanged run; finish it before publishing it")
    folder = results / str(records.run["experiment"]) / f"seed{records.run['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECORD_FILES:
        shutil.copyfile(workdir / name, folder / name)


def load_runs(results: Path) -> Runs:
    """The published runs, the reference's experiments first.

    Raises:
        BadInput: a run is not done, or its records were changed afterwards.
    """
    runs: Runs = {}
    for path in results.glob("*/seed*/run.json"):
        records = Records(path.parent)
        if not records.done:
            raise BadInput(f"{path.parent} was changed after the run; publish the run again")
        runs.setdefault(path.parts[-3], []).append(records)

    def order(name: str) -> tuple[int, str]:
        first = REFERENCE_EXPERIMENTS
        return first.index(name) if name in first else len(first), name

    return {name: sorted(runs[name], key=lambda records: records.run["seed"]) for name in sorted(runs, key=order)}


def load_reference(results: Path) -> dict[str, Any]:
    """The reference's test accuracy and epochs, by experiment."""
    return json.loads((results / "reference.json").read_text())


def values_of(runs: list[Records], field: str) -> list[float]:
    return [records.run[field] for records in runs]


def card_result(runs: list[Records]) -> str:
    """The `Result:` line of an experiment's header card, without its label."""
    if not runs:
        return "no run is published yet"
    plain = f"{mean_std_percent(values_of(runs, 'test_accuracy'))} test accuracy"
    tta = tta_accuracy(runs)
    return f"{plain}{f', {tta} with test-time augmentation' if tta else ''}, {seeds_of(runs)} (docs/results.md)"


def tta_accuracy(runs: list[Records], show: Callable[[list[float]], str] = mean_std_percent) -> str:
    """Test accuracy with test-time augmentation; empty if the experiment does not use it."""
    return show(values_of(runs, "tta_test_accuracy")) if all("tta_test_accuracy" in r.run for r in runs) else ""


def petaflop(records: Records) -> float:
    """Training compute of a run in 1e15 multiplications and additions, counted from the shapes of its products."""
    step = roofline.training_step(str(records.run["experiment"]), records.config["batch_size"])
    return step.operations * records.epochs()[-1]["step"] / 1e15


def seeds_of(runs: list[Records]) -> str:
    return describe_seeds([records.run["seed"] for records in runs])


def summary(all_runs: Runs, reference: dict[str, Any], keras: control.Control) -> str:
    """One table of the reference's experiments, with the reference and Keras, and one of all other experiments."""
    ours, others = [], []
    for name, runs in all_runs.items():
        accuracy = mean_with_interval(values_of(runs, "test_accuracy"))
        row = [f"`{name}`", accuracy, f"{len(runs)}", f"{petaflop(runs[0]):.2f}"]
        if name in reference:
            ours.append([*row, f"{100 * reference[name]['test_accuracy']:.2f} %", control.cell(keras.get(name, []))])
        else:
            others.append([*row, tta_accuracy(runs, mean_with_interval)])
    header = ["experiment", "test accuracy", "seeds", "PFLOP"]
    parts = [table([*header, "reference (one run)", "its recipe in Keras today (seeds)"], ours)]
    if others:
        parts += ["Experiments that are not in the notebook:", table([*header, "with test-time augmentation"], others)]
    return "\n\n".join([*parts, *headline(all_runs), conditions(all_runs)])


def headline(all_runs: Runs) -> list[str]:
    """Compares the compute and the accuracy of `alexnet` and the newest airbench94."""
    newest = AIRBENCH if _missing_seeds(all_runs) else MUON
    if not {newest, "alexnet"} <= all_runs.keys():
        return []
    old, new = all_runs["alexnet"], all_runs[newest]
    return [
        f"**`{newest}` reaches {100 * fmean(values_of(new, 'test_accuracy')):.1f} %, and "
        f"{100 * fmean(values_of(new, 'tta_test_accuracy')):.1f} % with test-time augmentation, for "
        f"{petaflop(new[0]):.2f} PFLOP; `alexnet`, a network from 2012, reaches "
        f"{100 * fmean(values_of(old, 'test_accuracy')):.1f} % for {petaflop(old[0]):.2f} PFLOP.**"
    ]


def _missing_seeds(all_runs: Runs) -> set[int]:
    return set(MUON_SEEDS) - {records.run["seed"] for records in all_runs.get(MUON, [])}


def muon(all_runs: Runs) -> str:
    """What the seeds of airbench94_muon say about its mean, as sentences."""
    runs = all_runs.get(MUON, [])
    if missing := _missing_seeds(all_runs):
        return (
            f"{len(runs)} of the {len(MUON_SEEDS)} runs have ended. Still missing: {describe_seeds(sorted(missing))}. "
            "The p-value will be here when all have ended."
        )
    plain, tta = values_of(runs, "test_accuracy"), values_of(runs, "tta_test_accuracy")
    above = stats.ttest_1samp(tta, GOAL, alternative="greater").pvalue
    minutes = [records.run["train_seconds"] / 60 for records in runs]
    epochs = [line["epoch_seconds"] for records in runs for line in records.epochs()]
    undisturbed = min(epochs) * len(epochs) / len(runs) / 60
    return (
        f"`{MUON}`, {seeds_of(runs)}: {mean_with_interval(tta, bold=True)} with test-time augmentation, "
        f"{mean_with_interval(plain)} without. If the true mean with it were at most {100 * GOAL:.1f} %, a mean as "
        f"high as this would be seen with a probability of at most p = {above:.2g} (one-sided t-test). The fastest of "
        f"the {len(epochs)} epochs took {min(epochs):.0f} s on one CPU. At this speed a run takes {undisturbed:.0f} "
        f"minutes. These took {median(minutes):.0f} ({min(minutes):.0f} to {max(minutes):.0f}), because of other work "
        "beside them."
    )


def conditions(all_runs: Runs) -> str:
    flat = [records.run for runs in all_runs.values() for records in runs]
    machines = sorted({f"{run['processor']} ({run['platform']}, CPUs: {run['num_cpus']})" for run in flat})
    versions = sorted({f"jax {run['versions']['jax']}, flax {run['versions']['flax']}" for run in flat})
    no_validation = [f"`{name}`" for name, runs in all_runs.items() if None in values_of(runs, "best_validation_loss")]
    exceptions = f" ({', '.join(no_validation)}: all 50,000 training images, last step)" if no_validation else ""
    return (
        f"Mean and standard deviation over the seeds, with the mean's {100 * CONFIDENCE:.0f} % confidence interval "
        "(Student's t) in brackets. Each run tests the epoch with the lowest validation loss once, on the 10,000 test "
        f"images{exceptions}. PFLOP: training compute, counted from the shapes. Hardware: "
        f"{'; '.join(machines)}. Software: {'; '.join(versions)}."
    )


def details(all_runs: Runs, reference: dict[str, Any]) -> str:
    """A table with a row per run, and a row of means per experiment."""
    rows = []
    for name, runs in all_runs.items():
        for records in runs:
            run = records.run
            rows.append(
                [
                    f"`{name}`",
                    f"{run['seed']}",
                    f"{run['best_epoch']} of {records.epochs()[-1]['epoch']}",
                    mean_std_percent([run["best_validation_accuracy"]]),
                    mean_std_percent([run["test_accuracy"]]),
                    tta_accuracy([records]),
                    *seconds([records]),
                    f"{run['git_commit'][:10]}",
                ]
            )
        compared = f", reference {100 * reference[name]['test_accuracy']:.2f} %" if name in reference else ""
        bold = partial(mean_with_interval, bold=True)
        test = f"{bold(values_of(runs, 'test_accuracy'))}{compared}"
        means = [mean_with_interval(values_of(runs, "best_validation_accuracy")), test, tta_accuracy(runs, bold)]
        rows.append([f"**`{name}`**", f"all {len(runs)}", "", *means, *seconds(runs), ""])
    header = ["experiment", "seed", "best epoch", "validation accuracy", "test accuracy", "with TTA"]
    return table([*header, "training, s", "with compilation, s", "commit"], rows)


def seconds(runs: list[Records]) -> tuple[str, str]:
    """Median training seconds, without and with compilation."""
    training = values_of(runs, "train_seconds")
    total = [a + b for a, b in zip(training, values_of(runs, "compile_seconds"), strict=True)]
    return f"{median(training):,.0f}", f"{median(total):,.0f}"


def curve_images(all_runs: Runs) -> str:
    return "\n\n".join(f"![Loss and accuracy of {name} by epoch](curves_{name}.svg)" for name in all_runs)
