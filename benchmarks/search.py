"""`python -m benchmarks.search runs/cnn_tuned_search`: publishes a search.

Copies the trials.json of the workdir to results/search_<experiment>.json, from which `make results` writes the table in
docs/results.md.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import table
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.errors import BadInput
from cifar_flax.workdir.atomic import write_text

RESULTS = Path(__file__).parents[1] / "results"
NUM_BEST = 5  # trials in the table


def load() -> list[dict[str, Any]]:
    """The published searches."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("search_*.json"))]


def details(searches: list[dict[str, Any]]) -> str:
    """What each search compared, and a table of its best trials and of the recipe that it began with."""
    return "\n\n".join(f"{sentence(found)}\n\n{best_trials(found)}" for found in searches)


def sentence(found: dict[str, Any]) -> str:
    rows, best = found["trials"], found["best_trial"]
    counts = Counter(row["state"] for row in rows)
    ended = ", ".join(f"{count} {state}" for state, count in counts.items())
    accuracy = found["tested_trials"][str(best)]["test_accuracy"]
    return (
        f"`{found['experiment']}`, seed {found['seed']}: {len(rows)} trials of {found['num_epochs']:g} epochs "
        f"({ended}). Trial {best} has the lowest validation loss, and {100 * accuracy:.2f} % test accuracy."
    )


def best_trials(found: dict[str, Any]) -> str:
    complete = [row for row in found["trials"] if row["state"] == "complete"]
    ranked = sorted(complete, key=lambda row: row["validation_loss"])
    fields = list(dict.fromkeys(field for row in ranked for field in row["values"]))  # some may depend on others
    rows = [
        [
            f"{rank}{', the recipe' if row['is_recipe'] else ''}",
            f"{row['trial']}",
            f"{row['validation_loss']:.4f}",
            f"{100 * row['validation_accuracy']:.2f} %",
            *(value_text(row["values"].get(field, "")) for field in fields),
        ]
        for rank, row in enumerate(ranked, 1)
        if rank <= NUM_BEST or row["is_recipe"]
    ]
    return table(["rank", "trial", "validation loss", "accuracy", *(f"`{field}`" for field in fields)], rows)


def value_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m benchmarks.search", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdir", type=Path, help="of a finished search")
    path = parser.parse_args(argv).workdir / "trials.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); name the workdir of a search") from error
    if str(found["best_trial"]) not in found["tested_trials"]:
        raise BadInput(f"{path}: the search is not finished; finish it first")
    write_text(RESULTS / f"search_{found['experiment']}.json", json.dumps(found, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
