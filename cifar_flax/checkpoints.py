"""Two Orbax folders in a workdir: `latest/` with the two newest checkpoints, `best/` with the best one.

Two managers, because one that keeps the best deletes the newest (google/orbax, issue 526). Saving is synchronous: the
state is small, and a saved checkpoint is there when `save` returns.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """Saves and restores `arrays`, a tree of arrays, together with `progress`, a dict that JSON can hold."""

    def __init__(self, workdir: Path):
        self.latest = _manager(workdir / "checkpoints" / "latest", keep=2)
        self.best = _manager(workdir / "checkpoints" / "best", keep=1)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.latest.close()
        self.best.close()


def save(manager: ocp.CheckpointManager, step: int, arrays: Any, progress: dict[str, Any]) -> None:
    """Writes the checkpoint of `step`; one that is already there stays."""
    if step in manager.all_steps():
        return
    manager.save(
        step, args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress))
    )


def restore(manager: ocp.CheckpointManager, like: Any) -> tuple[Any, dict[str, Any]]:
    """The manager's newest checkpoint as (arrays, progress).

    Args:
        manager: `latest` or `best`, with at least one checkpoint.
        like: a tree of `jax.ShapeDtypeStruct` with shardings. The arrays come back placed like this, whatever devices
            they were saved from.
    """
    restored = manager.restore(
        manager.latest_step(),
        args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()),
    )
    return restored["arrays"], restored["progress"]


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The tree's shapes and dtypes, to be placed by `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder, item_names=("arrays", "progress"), options=options)
