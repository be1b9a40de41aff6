"""The text files that a run writes: config.json, run.json and metrics.jsonl; and the lock on its workdir."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput, Diverged, Interrupted, Unwritable
from cifar_flax.workdir import checksums
from cifar_flax.workdir.atomic import replacing
from cifar_flax.workdir.epochs import EPOCH_FIELDS, VALIDATION_FIELDS

LOCK = ".lock"
REWRITE = "delete it, and the command that trains writes it anew from the checkpoints"


class Records:
    """The text files of a workdir. Each is written under another name and renamed, so none is ever half there.

    run.json holds its own checksum, and that of the finished metrics.jsonl.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.read()

    def read(self) -> None:
        """Reads what is stored; a file that is not there counts as empty.

        Raises:
            BadInput: a file that cannot be read, or is not as it was written.
        """
        self.config: dict[str, Any] = self._read("config.json", "restore it or choose another workdir")
        self.run: dict[str, Any] = self._read("run.json", REWRITE)
        if self.run and not checksums.is_sealed(self.run):
            path = self.workdir / "run.json"
            raise BadInput(f"--workdir: {path} is damaged: it is not as it was written (sha256); {REWRITE}")

    def _read(self, name: str, advice: str) -> dict[str, Any]:
        path = self.workdir / name
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput(f"--workdir: {path} cannot be read ({error}); {advice}") from error
        if not isinstance(stored, dict) or not stored:
            raise BadInput(f"--workdir: {path} is damaged: not a JSON object with fields; {advice}")
        return stored

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl.

        Raises:
            BadInput: it cannot be read, or is not what a run writes.
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
            numbers = line if isinstance(line, dict) else {}
            if number == 1 and (self.config.get("num_validation") != 0 or "validation_loss" in numbers):
                fields += VALIDATION_FIELDS
            if not all(isinstance(numbers.get(field), int | float) for field in fields):
                raise BadInput(f"--workdir: {path}, line {number}, lacks a number; {REWRITE}")
        return lines

    def begin(self, config: ConfigDict, fields: dict[str, Any]) -> None:
        """Writes config.json and begins run.json anew with these fields; `checkpoint_step` stays.

        Raises:
            BadInput: the workdir cannot be written.
        """
        self.config = config.to_dict()
        self.run = {name: value for name, value in self.run.items() if name == "checkpoint_step"}
        try:
            _write(self.workdir / "config.json", json.dumps(self.config, indent=2) + "\n")
            self.update(**fields)
        except OSError as error:
            raise BadInput(f"--workdir: {self.workdir} cannot be written ({error.strerror}); choose another") from error

    def update(self, **fields: Any) -> None:
        """Sets fields of run.json."""
        self.run = checksums.seal(self.run | fields)
        _write(self.workdir / "run.json", json.dumps(self.run, indent=2, allow_nan=False) + "\n")

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """metrics.jsonl, a line per epoch, as a whole: what a checkpoint does not know of is cut off."""
        lines = "".join(json.dumps(epoch, allow_nan=False) + "\n" for epoch in epochs)
        _write(self.workdir / "metrics.jsonl", lines)

    def finish(self, **fields: Any) -> None:
        """Sets the last fields of run.json, and that the run is done."""
        self.update(status="done", metrics_sha256=self._metrics_checksum(), **fields)

    @property
    def done(self) -> bool:
        """Whether the run is done and its metrics.jsonl is as the run left it."""
        return self.run.get("status") == "done" and self.run["metrics_sha256"] == self._metrics_checksum()

    def _metrics_checksum(self) -> str:
        try:
            return checksums.of_bytes((self.workdir / "metrics.jsonl").read_bytes())
        except OSError:
            return "not there"

    @contextmanager
    def status(self) -> Iterator[None]:
        """Keeps run.json's `status`: running, and then how the block ended, with the `reason` if it failed.

        The block itself ends with `finish`.

        Raises:
            Unwritable: a file of the workdir could not be written.
        """
        try:
            self.update(status="running")
            yield
        except (Interrupted, KeyboardInterrupt):
            self._end(status="interrupted")
            raise
        except Diverged as error:
            self._end(status="diverged", reason=str(error))
            raise
        except BaseException as error:
            self._end(status="failed", reason=f"{type(error).__name__}: {error}")
            if isinstance(error, OSError):
                place = error.filename or self.workdir
                raise Unwritable(f"{place} cannot be written ({error.strerror or error})") from error
            raise

    def _end(self, **fields: Any) -> None:
        with suppress(OSError):  # a full disk must not hide what ended the run
            self.update(**fields)


@contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Makes the workdir and keeps other processes out of it; a process that dies gives it back.

    A workdir that was made here and in which nothing was written goes away again.

    Raises:
        BadInput: another process works there, or the folder cannot be made.
    """
    made = not workdir.exists()
    lock = filelock.FileLock(workdir / LOCK, timeout=0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise BadInput(
            f"--workdir: another process trains in {workdir} now; wait for it to end or choose another"
        ) from error
    except OSError as error:
        raise BadInput(f"--workdir: {workdir} cannot be written ({error.strerror}); choose another") from error
    try:
        yield
    finally:
        lock.release()
        if made and {path.name for path in workdir.iterdir()} <= {LOCK}:
            shutil.rmtree(workdir)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
