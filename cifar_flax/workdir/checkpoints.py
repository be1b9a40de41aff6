"""Two Orbax folders in a workdir: `latest/` with the two newest checkpoints, `best/` with the best one.

Two managers, because one that keeps the best deletes the newest (google/orbax, issue 526). Saving is synchronous: the
state is small, and a saved checkpoint is on the disk when `save` returns.

A checkpoint holds the checksums of its own arrays, so it is either seen to be what was saved or taken for damaged. A
damaged one is moved to `damaged/`, never deleted.
"""

import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from cifar_flax.errors import BadInput, Unwritable
from cifar_flax.workdir import checksums
from cifar_flax.workdir.atomic import synchronise

VERSION = 1  # counted up when what a checkpoint holds changes


class Damaged(Exception):
    """A checkpoint that is not what was saved. The message says which one, and what was found."""


class Checkpoints:
    """Saves and restores `arrays`, a tree of arrays, together with `progress`, a dict that JSON can hold."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Unless `read_only`, makes the folders, and clears away what a killed process left half written."""
        self.latest = _manager(workdir / "checkpoints" / "latest", 2, read_only)
        self.best = _manager(workdir / "checkpoints" / "best", 1, read_only)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.latest.close()
        self.best.close()


def save(manager: ocp.CheckpointManager, step: int, arrays: Any, progress: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`; one that is already there stays.

    Raises:
        Unwritable: the checkpoints from before are still there.
    """
    if step in manager.all_steps():
        return
    describes = {"version": VERSION, "shapes": _shapes(arrays), "checksums": checksums.of_arrays(arrays)}
    sealed = checksums.seal(describes | progress)
    items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(sealed))
    try:
        manager.save(step, args=items, force=True)  # also a step below one that is there
        _sync(_folder(manager, step))
    except Exception as error:  # Orbax and TensorStore raise a full disk as this or that
        _clear_unfinished(Path(manager.directory), step)
        raise Unwritable(f"{_folder(manager, step)} cannot be written ({_reason(error)})") from error


def read(manager: ocp.CheckpointManager, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The checkpoint of `step` as (arrays, progress).

    Args:
        manager: `latest` or `best`.
        step: one of `manager.all_steps()`.
        like: a tree of `jax.ShapeDtypeStruct` with shardings. The arrays come back placed like this, whatever devices
            they were saved from.

    Raises:
        Damaged: it is not what was saved.
        BadInput: it is sound, but another version of the program or of the network wrote it.
    """
    progress = _read_item(manager, step, "progress", ocp.args.JsonRestore())
    if not checksums.is_sealed(progress):
        raise Damaged(f"{_folder(manager, step)}: progress has another checksum")
    if progress["version"] != VERSION:
        raise BadInput(
            f"--workdir: {_folder(manager, step)} is of version {progress['version']}, this program reads version "
            f"{VERSION}; go on with the program that wrote it, or choose another workdir"
        )
    _refuse_other_arrays(progress["shapes"], like, _folder(manager, step))
    arrays = _read_item(manager, step, "arrays", ocp.args.StandardRestore(like))
    for path, found in checksums.of_arrays(arrays).items():
        if found != progress["checksums"][path]:
            raise Damaged(f"{_folder(manager, step)}: {path} has another checksum")
    return arrays, progress


def newest(manager: ocp.CheckpointManager, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest sound checkpoint, or None; damaged ones that are newer are set aside, each with a line on stderr."""
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            return read(manager, step, like)
        except Damaged as error:
            set_aside(manager, step, error)
    return None


def set_aside(manager: ocp.CheckpointManager, step: int, error: Damaged) -> None:
    """Moves a damaged checkpoint to checkpoints/damaged/ and says so."""
    folder = _folder(manager, step)
    aside = damaged_folder(folder.parents[2])
    aside.mkdir(exist_ok=True)
    places = (aside / f"{folder.parent.name}-{step}-{i}" for i in range(1, 1_000_000))
    place = next(place for place in places if not place.exists())
    folder.rename(place)
    manager.reload()
    print(f"damaged: {error}; set aside as {place}", file=sys.stderr)


def damaged_folder(workdir: Path) -> Path:
    return workdir / "checkpoints" / "damaged"


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The tree's shapes and dtypes, to be placed by `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _manager(folder: Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
    # not Orbax' own read_only: it says so in a warning, every time
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(folder, item_names=("arrays", "progress"), options=options)


def _folder(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _reason(error: Exception) -> str:
    """The end of the first line of what a library said: TensorStore's begins with a list of where it was."""
    lines = str(error).strip().splitlines()
    return ": ".join(lines[0].rsplit(": ", 2)[-2:]).split(" [")[0][-200:] if lines else type(error).__name__


def _read_item(manager: ocp.CheckpointManager, step: int, name: str, how: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
    except Exception as error:  # Orbax and TensorStore raise almost anything at a damaged file
        raise Damaged(f"{_folder(manager, step)}: {name} cannot be read ({_reason(error)})") from error


def _shapes(tree: Any) -> dict[str, str]:
    """Of every array in a tree, also an abstract one, by its path: such as `float32[3, 3, 16]`."""
    leaves = checksums.by_path(jax.eval_shape(checksums.as_data, tree))
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()}


def _refuse_other_arrays(stored: dict[str, str], like: Any, folder: Path) -> None:
    """Raises BadInput where the stored arrays are not those of the network at hand."""
    wanted = _shapes(like)
    differing = [path for path in sorted({*wanted, *stored}) if wanted.get(path) != stored.get(path)]
    if differing:
        path = differing[0]
        raise BadInput(
            f"--workdir: {folder} holds another state ({path}: {stored.get(path, 'not there')} stored, "
            f"{wanted.get(path, 'not there')} expected); use the program that wrote it, or choose another workdir"
        )


def _clear_unfinished(folder: Path, step: int) -> None:
    """Makes room; TensorStore's threads may still be writing for a moment."""
    for _ in range(20):
        unfinished = list(folder.glob(f"{step}.*tmp*"))
        if not unfinished:
            break
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1)


def _sync(folder: Path) -> None:
    """Has the folder and all below it written to the disk, so that a loss of power cannot take it away again."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        synchronise(path)
