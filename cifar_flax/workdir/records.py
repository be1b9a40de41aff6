"""The text files of a run: config.json, run.json and metrics.jsonl."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput, Diverged, Interrupted, Stopped, Unwritable, warn
from cifar_flax.workdir import checksums, earlier
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.epochs import EPOCH_FIELDS, VALIDATION_FIELDS, best_of

TEST_FIELDS = ("test_loss", "test_accuracy", "tta_test_loss", "tta_test_accuracy")  # the last two only with TTA
REWRITE = "delete it, and the same training command rewrites it from the checkpoints"


class Records:
    """The text files of a workdir, each written atomically.

    run.json holds its own checksum and, once the run is done, that of metrics.jsonl.

    Attributes:
        workdir: the folder.
        config: the content of config.json; empty if there is none.
        run: the content of run.json; empty if there is none.
    """

    def __init__(self, workdir: str | Path):
        self.workdir = read_path(workdir, "--workdir")
        if not _is_utf8(self.workdir):
            name = repr(str(self.workdir))
            raise BadInput(f"--workdir: {name} is not valid UTF-8, which checkpoints need; choose another name")
        self._begun = False
        self.read()

    def read(self) -> None:
        """Reads config.json and run.json.

        Raises:
            BadInput: a file cannot be read or is damaged.
        """
        self.config: dict[str, Any] = self._read("config.json", "restore it or choose another workdir")
        self.run: dict[str, Any] = self._read("run.json", REWRITE)
        if self.run and not checksums.checksum_matches(self.run):
            path = self.workdir / "run.json"
            raise BadInput(f"--workdir: {path} is damaged: its checksum (sha256) does not match; {REWRITE}")

    def _read(self, name: str, advice: str) -> dict[str, Any]:
        path = self.workdir / name
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except NotADirectoryError as error:
            raise BadInput(f"--workdir: {self.workdir} is not a folder; choose another workdir") from error
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput(f"--workdir: {path} cannot be read ({error}); {advice}") from error
        if not isinstance(stored, dict) or not stored:
            raise BadInput(f"--workdir: {path} is damaged: not a JSON object with fields; {advice}")
        return stored

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl.

        Raises:
            BadInput: it cannot be read or is damaged.
        """
        path = self.workdir / "metrics.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput(f"--workdir: {path} cannot be read ({error}); {REWRITE}") from error
        fields: tuple[str, ...] = EPOCH_FIELDS
        for number, line in enumerate(lines, 1):
            values = line if isinstance(line, dict) else {}
            if number == 1 and (self.config.get("num_validation") != 0 or "validation_loss" in values):
                fields += VALIDATION_FIELDS
            if not all(isinstance(values.get(field), int | float) for field in fields):
                raise BadInput(f"--workdir: {path}, line {number}, lacks a number; {REWRITE}")
        return lines

    @property
    def saved(self) -> bool:
        """Whether a checkpoint was ever saved here, as far as the files show. If run.json is lost, that is assumed."""
        kept = [path for path in (self.workdir / "checkpoints").glob("*/*") if path.name.isdecimal()]
        damaged = (self.workdir / "checkpoints" / "damaged").exists()
        return "checkpoint_step" in self.run or bool(kept) or damaged or bool(self.config and not self.run)

    def intact_epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl if the file is as `write_epochs` left it, otherwise none."""
        intact = self.run.get("metrics_sha256") == self._metrics_checksum()
        return self.epochs() if intact else []

    def begin(self, config: ConfigDict, fields: dict[str, Any], step: int) -> None:
        """Sets these fields of run.json and the status `running`, and writes config.json.

        Other fields keep their values until they are set again: a run that is extended keeps its results until it has
        new ones. If the steps up to `step` were trained in another environment, that is recorded and printed.

        Raises:
            BadInput: the workdir cannot be written.
        """
        self.run = {name: value for name, value in self.run.items() if name != "reason"} if self.saved else {}
        self.config, self._begun = config.to_dict(), True
        environments, changes = earlier.resume(self.run, fields, step)
        try:
            self.update(status="running", **fields, **{earlier.FIELD: environments})
            write_text(self.workdir / "config.json", json.dumps(self.config, indent=2) + "\n")
        except OSError as error:
            raise BadInput(
                f"--workdir: {self.workdir} cannot be written ({error.strerror}); choose another workdir"
            ) from error
        if changes:
            warn(
                f"resumed in another environment ({'; '.join(changes)}): from step {step + 1:,} on, numbers can differ "
                "from those of a run in one environment; run.json records both"
            )

    def update(self, **fields: Any) -> None:
        """Sets fields of run.json."""
        self.run = checksums.add_checksum(self.run | fields)
        write_text(self.workdir / "run.json", json.dumps(self.run, indent=2, allow_nan=False) + "\n")

    def write_epochs(self, epochs: list[dict[str, Any]], batch_size: int) -> None:
        """Writes metrics.jsonl, a line per epoch, and the fields of run.json derived from it."""
        lines = "".join(json.dumps(epoch, allow_nan=False) + "\n" for epoch in epochs)
        write_text(self.workdir / "metrics.jsonl", lines)
        if epochs:
            best, last = best_of(epochs), epochs[-1]
            seconds = sum(line["epoch_seconds"] for line in epochs)
            self.update(
                metrics_sha256=self._metrics_checksum(),
                best_epoch=best["epoch"],
                best_validation_loss=best.get("validation_loss"),
                best_validation_accuracy=best.get("validation_accuracy"),
                train_seconds=seconds,
                train_images_per_second=last["step"] * batch_size / seconds if seconds else 0.0,  # imported
            )

    def finish(self, **fields: Any) -> None:
        """Sets the results of the test and the status `done`. Results of an earlier, shorter run are removed."""
        self.run = {name: value for name, value in self.run.items() if name not in TEST_FIELDS}
        self.update(status="done", **fields)

    @property
    def done(self) -> bool:
        """Whether the run is done and its metrics.jsonl is unchanged since."""
        return self.run.get("status") == "done" and self.run.get("metrics_sha256") == self._metrics_checksum()

    def _metrics_checksum(self) -> str:
        try:
            return checksums.of_bytes((self.workdir / "metrics.jsonl").read_bytes())
        except OSError:
            return "missing"

    @contextmanager
    def status(self) -> Iterator[None]:
        """Records in run.json how the block failed, with the `reason`, if it had called `begin`.

        A block that succeeds calls `finish` itself.

        Raises:
            Unwritable: a file of the workdir could not be written.
        """
        try:
            yield
        except (Interrupted, KeyboardInterrupt, Stopped):
            self._end(status="interrupted")
            raise
        except Diverged as error:
            self._end(status="diverged", reason=str(error))
            raise
        except BaseException as error:
            self._end(status="failed", reason=f"{type(error).__name__}: {error}")
            if isinstance(error, OSError):
                path = error.filename or self.workdir
                raise Unwritable(f"{path} cannot be written ({error.strerror or error})") from error
            raise

    def _end(self, **fields: Any) -> None:
        if self._begun:
            with suppress(OSError):  # a full disk must not hide what ended the run
                self.update(**fields)


def _is_utf8(path: Path) -> bool:
    """False for a path with bytes that are not UTF-8, which Python represents by surrogates."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def open_run(workdir: str | Path) -> Records:
    """The records of an existing run.

    Raises:
        BadInput: there is no run, or its records are damaged.
    """
    records = Records(workdir)
    if not records.config or not records.run:
        raise BadInput(f"--workdir: there is no run in {workdir}; train one with python -m cifar_flax.main")
    return records


def load_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, one for each finished epoch.

    Raises:
        BadInput: there is no run, or its records are damaged.
    """
    return open_run(workdir).epochs()
