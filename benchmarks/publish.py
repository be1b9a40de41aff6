"""`make results`, or `python -m benchmarks.publish [WORKDIR ...]`: regenerates all published numbers from results/.

Copies the records of the given finished runs to results/. Then writes the tables in README.md and docs/, the curves in
docs/ and the results in the header cards of experiments/.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    accuracy,
    accuracy_figures,
    control,
    costs,
    engines,
    page,
    robustness_tables,
    scaling,
    search,
    streaming,
    sweeping,
    table,
    torture_distributed,
)
from benchmarks.accelerator import paper
from benchmarks.accelerator import tables as accelerator
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.reporting.figures import svg
from cifar_flax.workdir.atomic import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DOCS = ("results", "performance", "reliability", "own_images", "weights", "scaling", "robustness")
PAGES = ("README.md", *(f"docs/{name}.md" for name in DOCS))


def tables(all_runs: accuracy.Runs, reference: dict[str, Any]) -> dict[str, str]:
    """The generated sections of all pages, by the name in their marks."""
    speed = _record("speed_cpu")
    keras = control.load()
    ours = {name: [records.run for records in runs] for name, runs in all_runs.items()}
    return {
        "accuracy": accuracy.summary(all_runs, reference, keras),
        "accuracy in detail": accuracy.details(all_runs, reference),
        "control": control.details(keras, ours, reference),
        "one order": control.one_order(control.load(control.ONE_ORDER), ours),
        "curves": accuracy.curve_images(all_runs),
        "muon": accuracy.muon(all_runs),
        "many runs": sweeping.details(_record("sweeping")),
        "speed": table.summary(speed),
        "speed in detail": table.details(speed),
        "speed of airbench94": table.details(_record("speed_airbench94_cpu")),
        "engines": engines.details(_record("engines_cpu")),
        "costs": costs.details(_record("costs_cpu")),
        "start-up": table.startup(_record("startup_cpu")),
        "torture": table.torture(_record("torture")),
        "torture distributed": torture_distributed.summary(_record("torture_distributed")),
        "rounding": table.exactness(_record("exactness")),
        "decoding": table.decoding(_record("decoding")),
        "streaming memory": streaming.memory(_record("streaming")),
        "streaming cost": streaming.cost(_record("streaming")),
        "search": search.details(search.load()),
        "fine_tuning": table.fine_tuning(_record("fine_tuning")),
        "scaling": scaling.measured(_record("scaling")),
        "scaling on paper": scaling.paper(_record("scaling")),
        "accelerators": accelerator.measured(RESULTS),
        "accelerators on paper": paper.on_paper(speed, _record("speed_airbench94_cpu")),
        **robustness_tables.sections(robustness_tables.load()),
    }


def _record(name: str) -> dict[str, Any]:
    """The record of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def replace_sections(text: str, sections: dict[str, str]) -> str:
    """Replaces the text between the two marks of each section that the page has."""
    for name, section in sections.items():
        begin, end = f"<!-- {name}: make results -->", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(begin)
        if mark:
            text = f"{before}{begin}\n{section}\n{end}{rest.partition(end)[2]}"
    return text


def replace_result(text: str, result: str) -> str:
    """Replaces the line `Result:` in the header card of an experiment file."""
    return re.sub(r"^Result: .*$", f"Result:      {result}", text, count=1, flags=re.MULTILINE)


def published_files() -> dict[Path, str]:
    """The text of all published files, generated from the records."""
    all_runs, reference = accuracy.load_runs(RESULTS), accuracy.load_reference(RESULTS)
    sections = tables(all_runs, reference)
    files = {ROOT / page: replace_sections((ROOT / page).read_text(), sections) for page in PAGES}
    cards = {"cnn_finetuned": table.fine_tuning_card(_record("fine_tuning"))}
    for path in sorted((ROOT / "experiments").glob("*.py")):
        result = cards.get(path.stem) or accuracy.card_result(all_runs.get(path.stem, []))
        files[path] = replace_result(path.read_text(), result)
    for name, runs in all_runs.items():
        files[ROOT / "docs" / f"curves_{name}.svg"] = svg(accuracy_figures.curves(runs, reference.get(name)))
    files[ROOT / "docs/accuracy.svg"] = svg(accuracy_figures.overview(all_runs, reference))
    files[ROOT / "docs/costs.svg"] = svg(costs.figure(_record("costs_cpu")))
    if records := robustness_tables.load():
        files[ROOT / "docs/robustness.svg"] = svg(robustness_tables.figure(records))
    figures = {path.name: text for path, text in files.items() if path.suffix == ".svg"}
    files[ROOT / "docs/index.html"] = page.page(sections, figures)
    return files


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m benchmarks.publish", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="*", metavar="WORKDIR", help="workdir of a finished run to publish")
    for workdir in parser.parse_args(argv).workdirs:
        accuracy.copy_records(Path(workdir), RESULTS)
    for path, text in published_files().items():
        write_text(path, text)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
