"""`python -m cifar_flax.report runs/cnn`: a run's results in one self-contained HTML file.

For one run it shows the curves, accuracy by class, confusion matrix, calibration, predictions, mistakes and config, on
the test images of a finished run and on the validation images of an unfinished one. For several runs it compares their
results.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_flax.cli.bad_items import BadItems
from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput
from cifar_flax.inference import Classifier, load_run, load_split
from cifar_flax.reporting.html import report_of_run, report_of_runs
from cifar_flax.workdir.output import output_file
from cifar_flax.workdir.records import Records, open_run


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="the folder of a run")
    parser.add_argument(
        "--out", help="default: report.html in the run's folder; for several runs, in the current folder"
    )
    parser.add_argument("--dataset", help="where the run's dataset is now, if it has moved")
    parser.add_argument("--data_dir", help="folder of prepared TFDS datasets, if it has moved")
    parser.add_argument("--eval_batch_size", type=int, metavar="N", help="images per step; default: as in the run")
    arguments = parser.parse_args(argv)
    # several spellings of a folder are one run
    workdirs = list(dict.fromkeys(Path(os.path.normpath(read_path(text, "WORKDIR"))) for text in arguments.workdirs))
    out = None if arguments.out is None else read_path(arguments.out, "--out")
    if len(workdirs) == 1:
        classifier = load_run(workdirs[0], arguments.eval_batch_size)
        html = report_one(classifier, workdirs[0], arguments.data_dir, arguments.dataset)
        write_page(html, out or workdirs[0] / "report.html")
        return
    with BadItems() as bad_items:
        runs = started_runs(workdirs, bad_items)
        if runs:
            write_page(report_of_runs(runs), out or read_path("report.html", "--out"))


def write_page(html: str, out: Path) -> None:
    with output_file(out, "--out") as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")  # file names may not be valid UTF-8
    say(f"report      {out}")


def report_one(classifier: Classifier, workdir: Path, data_dir: str | None, dataset: str | None) -> str:
    """The page of one run."""
    records = open_started_run(workdir)
    name = "test" if classifier.done else "validation"  # test images are for finished runs
    split = load_split(classifier, name, data_dir, dataset)
    if not len(split):
        raise BadInput(f"WORKDIR: the run in {workdir} has no validation images to report on; finish it first")
    return report_of_run(classifier, split, name, records.epochs())


def started_runs(workdirs: Sequence[Path], bad_items: BadItems) -> dict[str, Records]:
    """The runs that have results, by their paths relative to the common folder of all workdirs."""
    common, runs = os.path.commonpath(workdirs), {}
    for workdir in workdirs:
        with bad_items.reported():
            runs[str(workdir.relative_to(common))] = open_started_run(workdir)
    return runs


def open_started_run(workdir: Path) -> Records:
    """The records of a run with at least one finished epoch."""
    records = open_run(workdir)
    if not records.epochs():
        raise BadInput(f"WORKDIR: the run in {workdir} has no finished epoch yet; wait for its first")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
