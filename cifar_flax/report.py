"""`python -m cifar_flax.report runs/cnn`: a run's results in one self-contained HTML file.

For one run it shows the curves, accuracy by class, confusion matrix, calibration, predictions, mistakes and config, on
the test images of a finished run and on the validation images of an unfinished one. For several runs it compares their
results.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run, load_split
from cifar_flax.reporting.html import report_of_run, report_of_runs
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.records import Records, open_run


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="the folder of a run")
    parser.add_argument(
        "--out", help="default: report.html in the run's folder; for several runs, in the current folder"
    )
    parser.add_argument("--data_dir", help="folder of prepared TFDS datasets, if it has moved")
    arguments = parser.parse_args(argv)
    workdirs = list(dict.fromkeys(os.path.normpath(workdir) for workdir in arguments.workdirs))
    if len(workdirs) == 1:
        html, out = report_one(workdirs[0], arguments.data_dir), Path(workdirs[0]) / "report.html"
    else:
        html, out = report_several(workdirs), Path("report.html")
    out = Path(arguments.out or out).expanduser().absolute()
    try:
        write_text(out, html)
    except OSError as error:
        raise BadInput(f"--out: {out} cannot be written ({error.strerror}); name a file in another folder") from error
    print(f"report      {out}")


def report_one(workdir: str, data_dir: str | None) -> str:
    """The page of one run."""
    classifier, records = load_run(workdir), open_started_run(workdir)
    name = "test" if classifier.done else "validation"  # test images are for finished runs
    split = load_split(classifier, name, data_dir)
    if not len(split):
        raise BadInput(f"WORKDIR: the run in {workdir} has no validation images to report on; finish it first")
    return report_of_run(classifier, split, name, records.epochs())


def report_several(workdirs: Sequence[str]) -> str:
    """The page of several runs, named by their paths below the folder they share."""
    runs = [open_started_run(workdir) for workdir in workdirs]
    common = os.path.commonpath([records.workdir for records in runs])
    return report_of_runs({str(records.workdir.relative_to(common)): records for records in runs})


def open_started_run(workdir: str) -> Records:
    """The records of a run with at least one finished epoch."""
    records = open_run(workdir)
    if not records.epochs():
        raise BadInput(f"WORKDIR: the run in {workdir} has no finished epoch yet; wait for its first")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
