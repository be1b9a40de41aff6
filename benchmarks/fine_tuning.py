"""`python -m benchmarks.fine_tuning`: what a start from trained weights gains on 50 pictures of five classes.

Each start is a run of `experiments/cnn_finetuned.py` with some fields changed, for five seeds. A seed draws the
pictures of its runs (benchmarks/five_shapes.py) and is the seed of the run. The report is results/fine_tuning.json, and
`make results` copies it to docs/weights.md. It takes about 20 minutes on two cores.

`--write FOLDER` writes the pictures of one seed and trains nothing.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks import five_shapes
from benchmarks.machine import describe
from cifar_flax.cli.experiment import load_experiment
from cifar_flax.ops.xla_options import choose_options
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir.atomic import write_text

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results/fine_tuning.json"
SEEDS = range(5)


class Start(NamedTuple):
    """What a run starts from, and how it is trained.

    Attributes:
        title: of the row in the table.
        source: the experiment whose variant `demo` is the source; None: random weights.
        fields: of the config, where they differ from the experiment's.
    """

    title: str
    source: str | None
    fields: dict[str, Any]


# All recipes were chosen on the pictures of seeds 100 to 103. Of 26 recipes that were tried there for random weights,
# none was better than the second of these by more than a point.
EXPERIMENT = Start("only the output layer", "cnn", {})
STARTS = (
    Start("all layers", None, {"frozen_epochs": 0.0}),
    Start("all layers, 200 epochs of batch 16", None, {"frozen_epochs": 0.0, "batch_size": 16, "num_epochs": 200.0}),
    Start("all layers", "cnn", {"frozen_epochs": 0.0}),
    Start("at first the output layer, after 50 epochs all", "cnn", {"frozen_epochs": 50.0}),
    EXPERIMENT,
    Start("only the output layer", "cnn_augmented", {}),
)


def experiment(name: str) -> ConfigDict:
    """The config of an experiment, with its variant if there is one, such as `cnn.py:demo`."""
    return load_experiment(str(ROOT / "experiments" / name))


def train_source(name: str, folder: Path) -> dict[str, Any]:
    """The content of run.json of an experiment on the synthetic images, trained if it is not done."""
    return train_and_evaluate(experiment(f"{name}.py:demo"), folder / f"{name}_demo")


def train_start(index: int, seed: int, folder: Path) -> dict[str, Any]:
    """The content of run.json of one start and seed."""
    start, pictures = STARTS[index], folder / "fine_tuning" / f"pictures{seed}"
    if not pictures.exists():
        five_shapes.write(pictures, seed)
    config = experiment("cnn_finetuned.py")
    config.update(start.fields, seed=seed, dataset=str(pictures))
    config.init_from = start.source and str(folder / f"{start.source}_demo")
    return train_and_evaluate(config, folder / "fine_tuning" / f"start{index}" / f"seed{seed}")


def measure(folder: Path) -> dict[str, Any]:
    """Trains all runs that are not done, and returns the report."""
    names = sorted({start.source for start in STARTS if start.source})
    sources = {name: train_source(name, folder)["test_accuracy"] for name in names}
    starts = []
    for index, start in enumerate(STARTS):
        runs = [train_start(index, seed, folder) for seed in SEEDS]
        accuracies = [run["test_accuracy"] for run in runs]
        fields = {"source": start.source, "title": start.title, "is_experiment": start == EXPERIMENT}
        starts.append(fields | {"test_accuracy": accuracies})
    return {
        "date": date.today().isoformat(),
        "machine": describe(),
        "seeds": list(SEEDS),
        "num_images": five_shapes.NUM_IMAGES,
        "class_names": list(five_shapes.SHAPES),
        "source_test_accuracy": sources,
        "starts": starts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fine_tuning", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the pictures of a seed and do nothing else")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are written; default: 0")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the workdirs; default: runs")
    options = parser.parse_args()
    if options.write:
        five_shapes.write(options.write, options.seed)
        print(f"wrote {options.write}")
        return
    choose_options()
    write_text(REPORT, json.dumps(measure(options.runs), indent=2) + "\n")
    print(f"wrote {REPORT}; `make results` updates the table in docs/")


if __name__ == "__main__":
    main()
