"""`python -m cifar_flax.report runs/cnn`: what a run learned, as one HTML file that needs nothing beside it.

Of one run: its curves, accuracy by class, confusion matrix, calibration, predictions, mistakes and config, on the test
images of a finished run and on the validation images of an unfinished one. Of several: their results side by side.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.data import load
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run
from cifar_flax.reporting.html import report_of_run, report_of_runs
from cifar_flax.workdir.atomic import replacing
from cifar_flax.workdir.records import Records


def command(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m cifar_flax.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="the folder of a run")
    parser.add_argument("--out", help="default: report.html in the run's folder; of several runs, in this one")
    parser.add_argument("--data_dir", help="where TFDS' sets are now, if they were moved")
    arguments = parser.parse_args(argv)
    workdirs = list(dict.fromkeys(os.path.normpath(workdir) for workdir in arguments.workdirs))
    if len(workdirs) == 1:
        html, out = _of_one(workdirs[0], arguments.data_dir), Path(workdirs[0]) / "report.html"
    else:
        runs = [_records(name) for name in workdirs]
        common = os.path.commonpath([records.workdir for records in runs])
        html = report_of_runs({str(records.workdir.relative_to(common)): records for records in runs})
        out = Path("report.html")
    out = Path(arguments.out or out).expanduser().absolute()
    try:
        with replacing(out) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--out: {out} cannot be written ({error.strerror}); name a file in another folder") from error
    print(f"report      {out}")


def _of_one(workdir: str, data_dir: str | None) -> str:
    classifier, records = load_run(workdir), _records(workdir)
    if data_dir:
        classifier.config.update(data_dir=data_dir)
    name = "test" if classifier.run["status"] == "done" else "validation"  # test images are for finished runs
    split = getattr(load(classifier.config), name)
    if not len(split):
        raise BadInput(f"the run in {workdir} has no validation images to report on before it is done; finish it first")
    return report_of_run(classifier, split, name, records.epochs())


def _records(workdir: str) -> Records:
    """The records of a run with an epoch at least."""
    records = Records(Path(workdir).expanduser().absolute())
    if not records.config or not records.run:
        raise BadInput(f"there is no run in {workdir}; train one with python -m cifar_flax.main")
    if not records.epochs():
        raise BadInput(f"the run in {workdir} has no finished epoch yet; wait for its first")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
