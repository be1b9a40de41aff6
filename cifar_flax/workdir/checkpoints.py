"""The checkpoints of a workdir: the two newest in `latest/`, the best one in `best/`, both written by Orbax.

There are two managers because one that keeps the best deletes the newest (google/orbax, issue 526). Saving is
synchronous: the state is small, and a checkpoint is on disk when `save` returns.

A checkpoint holds the checksums of its arrays, which are verified whenever it is read. A damaged checkpoint is moved to
`damaged/` and never deleted.
"""

import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cifar_flax.errors import BadInput, Unwritable, warn
from cifar_flax.random_keys import as_data, with_keys
from cifar_flax.workdir import checksums
from cifar_flax.workdir.atomic import flush_folder, fsync

VERSION = 1  # incremented when older checkpoints can no longer be resumed with the same results

# Words in the errors of a checkpoint that may be intact -> the problem, and what to do.
NOT_DAMAGE = {
    "PermissionError": "permission denied; ask its owner for it",
    "PERMISSION_DENIED": "permission denied; ask its owner for it",
    "Permission denied": "permission denied; ask its owner for it",
    "Too many open files": "too many open files; raise the limit (ulimit -n)",
    "MemoryError": "out of memory; free some",
    "RESOURCE_EXHAUSTED": "out of memory; free some",
    "Input/output error": "input/output error; check the disk, then run the command again",
    "Stale file handle": "stale file handle; check the network disk, then run the command again",
    "Transport endpoint": "not connected; check the network disk, then run the command again",
}


class Damaged(Exception):
    """A checkpoint that differs from what was saved. The message names it and what was found."""


class Checkpoints:
    """The Orbax managers `latest` and `best` of a workdir.

    Each checkpoint holds `arrays`, a tree of arrays, and `progress`, a dict that JSON can hold.
    """

    def __init__(self, workdir: Path, read_only: bool = False):
        """Unless `read_only`, creates the folders and removes what a killed process left half written."""
        if not read_only and not flush_folder(workdir):
            _flush_without_tensorstore()
        self.latest = _make_manager(workdir / "checkpoints" / "latest", max_to_keep=2, read_only=read_only)
        self.best = _make_manager(workdir / "checkpoints" / "best", max_to_keep=1, read_only=read_only)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.latest.close()
        self.best.close()


def save(manager: ocp.CheckpointManager, step: int, arrays: Any, progress: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`, unless it exists.

    Raises:
        Unwritable: the disk is full or the folder cannot be written. Earlier checkpoints are not affected.
    """
    if step in manager.all_steps():
        return
    content = {"version": VERSION, "shapes": _shapes(arrays), "checksums": checksums.of_arrays(arrays), **progress}
    arrays = jax.device_get(as_data(arrays))  # of several processes only one saves, and Orbax would wait for the others
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(checksums.add_checksum(content))
    )
    try:
        manager.save(step, args=items, force=True)  # also if a later step exists
        _fsync_tree(_folder(manager, step))
    except Exception as error:  # Orbax and TensorStore report a full disk in many ways
        _remove_unfinished(Path(manager.directory), step)
        raise Unwritable(f"{_folder(manager, step)} cannot be written ({_reason(error)})") from error


def read(manager: ocp.CheckpointManager, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The checkpoint of `step` as (arrays, progress).

    Args:
        manager: `latest` or `best`.
        step: one of `manager.all_steps()`.
        like: a tree of `jax.ShapeDtypeStruct` with shardings. The arrays are placed accordingly, whatever devices they
            were saved from.

    Raises:
        Damaged: it differs from what was saved.
        BadInput: it may be intact, but cannot be read (NOT_DAMAGE), or was written by another version of the program or
            for another network.
    """
    progress = _read_item(manager, step, "progress", ocp.args.JsonRestore())
    if not checksums.checksum_matches(progress):
        raise Damaged(f"{_folder(manager, step)}: the checksum of progress does not match")
    if progress["version"] != VERSION:
        raise BadInput(
            f"--workdir: {_folder(manager, step)} has version {progress['version']}, this program reads version "
            f"{VERSION}; continue with the program that wrote it, or choose another workdir"
        )
    _refuse_other_arrays(progress["shapes"], like, _folder(manager, step))
    empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), jax.eval_shape(as_data, like))
    arrays = _read_item(manager, step, "arrays", ocp.args.StandardRestore(empty))
    for path, checksum in checksums.of_arrays(arrays).items():
        if checksum != progress["checksums"][path]:
            raise Damaged(f"{_folder(manager, step)}: the checksum of {path} does not match")
    return jax.device_put(with_keys(arrays, like), jax.tree.map(lambda leaf: leaf.sharding, like)), progress


def newest(manager: ocp.CheckpointManager, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest intact checkpoint, or None. Newer, damaged ones are set aside."""
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            return read(manager, step, like)
        except Damaged as error:
            set_aside(manager, step, error)
    return None


def set_aside(manager: ocp.CheckpointManager, step: int, error: Damaged) -> None:
    """Moves a damaged checkpoint to checkpoints/damaged/ and reports it on stderr."""
    folder = _folder(manager, step)
    aside = damaged_folder(folder.parents[2])
    aside.mkdir(exist_ok=True)
    places = (aside / f"{folder.parent.name}-{step}-{i}" for i in range(1, 1_000_000))
    place = next(place for place in places if not place.exists())
    folder.rename(place)
    manager.reload()
    warn(f"damaged: {error}; set aside as {place}")


def damaged_folder(workdir: Path) -> Path:
    return workdir / "checkpoints" / "damaged"


def _make_manager(folder: Path, *, max_to_keep: int, read_only: bool) -> ocp.CheckpointManager:
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)  # Orbax does not create it for one of several processes
    # not Orbax's own read_only, which warns every time
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else max_to_keep,
        create=False,
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
    )
    return ocp.CheckpointManager(folder, item_names=("arrays", "progress"), options=options)


def _flush_without_tensorstore() -> None:
    """Keeps TensorStore from flushing folders, which some file systems cannot do. `save` flushes everything anyway.

    Orbax has no option for this, so its internal constants are changed.
    """
    with suppress(ImportError, AttributeError):  # of another version of Orbax
        from orbax.checkpoint._src.serialization import tensorstore_utils

        for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
            context["file_io_sync"] = False


def _folder(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _reason(error: Exception) -> str:
    """The end of the first line of a library's message; TensorStore's starts with a chain of locations."""
    lines = str(error).strip().splitlines()
    return ": ".join(lines[0].rsplit(": ", 2)[-2:]).split(" [")[0][-200:] if lines else type(error).__name__


def _read_item(manager: ocp.CheckpointManager, step: int, name: str, args: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]
    except Exception as error:  # Orbax and TensorStore raise almost anything for a damaged file
        for words, problem in NOT_DAMAGE.items():
            if words in f"{type(error).__name__}: {error}":
                raise BadInput(f"--workdir: {_folder(manager, step)} cannot be read: {problem}") from error
        raise Damaged(f"{_folder(manager, step)}: {name} cannot be read ({_reason(error)})") from error


def _shapes(tree: Any) -> dict[str, str]:
    """Dtype and shape of every array, concrete or abstract, by its path, such as `float32[3, 3, 16]`."""
    leaves = checksums.by_path(jax.eval_shape(as_data, tree))
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()}


def _refuse_other_arrays(stored: dict[str, str], like: Any, folder: Path) -> None:
    """Raises BadInput if the stored arrays do not have the expected shapes and dtypes."""
    expected = _shapes(like)
    differing = [path for path in sorted({*expected, *stored}) if expected.get(path) != stored.get(path)]
    if differing:
        path = differing[0]
        raise BadInput(
            f"--workdir: {folder} holds another state ({path}: {stored.get(path, 'nothing')} stored, "
            f"{expected.get(path, 'nothing')} expected); use the program that wrote it, or choose another workdir"
        )


def _remove_unfinished(folder: Path, step: int) -> None:
    """Removes a half-written checkpoint. TensorStore's threads may still be writing for a moment."""
    for _ in range(20):
        unfinished = list(folder.glob(f"{step}.*tmp*"))
        if not unfinished:
            break
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1)


def _fsync_tree(folder: Path) -> None:
    """Flushes a folder and everything in it to disk, so that it survives a loss of power."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        fsync(path)
