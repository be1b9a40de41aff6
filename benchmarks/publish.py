"""`make results`, or `python -m benchmarks.publish [WORKDIR ...]`: every published number anew, from the records.

Takes over the records of finished runs that are named, and writes the tables in README.md and docs/, the curves there
and the results in the header cards of experiments/.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import accuracy, table
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.reporting.figures import svg
from cifar_flax.workdir.atomic import replacing
from cifar_flax.workdir.records import Records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGES = ("README.md", "docs/results.md", "docs/performance.md", "docs/reliability.md")


def tables(found: dict[str, list[Records]], reference: dict[str, Any]) -> dict[str, str]:
    """Every generated part of a page, by its name."""
    speed, airbench, startup, torture = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("speed_cpu", "speed_airbench94_cpu", "startup_cpu", "torture")
    )
    return {
        "accuracy": accuracy.summary(found, reference),
        "accuracy in detail": accuracy.details(found, reference),
        "curves": accuracy.gallery(found),
        "speed": table.summary(speed),
        "speed in detail": table.details(speed),
        "speed of airbench94": table.airbench(airbench),
        "start-up": table.startup(startup),
        "torture": table.torture(torture),
    }


def with_tables(text: str, parts: dict[str, str]) -> str:
    """The page with what lies between each part's two marks replaced."""
    for name, part in parts.items():
        begin, end = f"<!-- {name}: make results -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        if found:
            text = f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"
    return text


def with_result(card: str, result: str) -> str:
    """An experiment file with the line `Result:` of its header card replaced."""
    return re.sub(r"^Result: .*$", f"Result:      {result}", card, count=1, flags=re.MULTILINE)


def published() -> dict[Path, str]:
    """The text of every published file, as the records have it."""
    found, reference = accuracy.experiments(RESULTS), accuracy.reference(RESULTS)
    parts = tables(found, reference)
    files = {ROOT / page: with_tables((ROOT / page).read_text(), parts) for page in PAGES}
    for path in sorted((ROOT / "experiments").glob("*.py")):
        files[path] = with_result(path.read_text(), accuracy.card(found.get(path.stem, [])))
    for name, runs in found.items():
        files[ROOT / "docs" / f"curves_{name}.svg"] = svg(accuracy.curves(runs, reference.get(name)))
    return files


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m benchmarks.publish", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="*", metavar="WORKDIR", help="a finished run, to be published from now on")
    for workdir in parser.parse_args(argv).workdirs:
        accuracy.take_over(Path(workdir), RESULTS)
    for path, text in published().items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
