"""Decides whether a workdir holds this search: the same config, the same space, and the runs of the same study."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from ml_collections import ConfigDict

from cifar_flax.errors import BadInput
from cifar_flax.tuning.space import Space
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.identity import differences

FILE = "search.json"
STUDY = "id"  # of search.json and of the study's user attributes: the same in both


def stored_search(workdir: Path) -> dict[str, Any]:
    """The content of search.json; empty if there is none.

    Raises:
        BadInput: it cannot be read, or the workdir holds a run.
    """
    path = workdir / FILE
    if (workdir / "run.json").exists():
        raise BadInput(f"--workdir: {workdir} holds a run, not a search; choose another workdir")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: stored[name] for name in (STUDY, "config", "space")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        advice = "restore it or choose another workdir"
        raise BadInput(f"--workdir: {path} cannot be read ({type(error).__name__}); {advice}") from error


def refuse_other_search(workdir: Path, stored: dict[str, Any], config: ConfigDict, space: Space) -> None:
    """Raises BadInput if the workdir holds a search with another config or space."""
    if not stored:
        return
    differing = differences(stored["config"], config)
    epochs = stored["config"]["num_epochs"]
    if epochs != config.num_epochs and not any(text.startswith("num_epochs:") for text in differing):
        differing.append(f"num_epochs: {epochs!r} -> {config.num_epochs!r}")  # a longer run, but not the same trial
    if differing:
        raise BadInput(
            f"--workdir: {workdir} holds a search with another config ({'; '.join(differing)}); "
            "choose another workdir or the stored values"
        )
    if stored["space"] != space.text:
        lines = zip((stored["space"] + "\n").splitlines(), (space.text + "\n").splitlines(), strict=False)
        number = next((number for number, (before, now) in enumerate(lines, 1) if before != now), None)
        where = f"{space.path}, line {number}," if number else str(space.path)
        raise BadInput(
            f"--space: {where} is not what the search in {workdir} began with; restore it or choose another workdir"
        )


def join(workdir: Path, stored: dict[str, Any], config: ConfigDict, space: Space, study: optuna.Study) -> None:
    """Connects the workdir and the study, or verifies that they belong together.

    Raises:
        BadInput: the study has its runs in another folder, or the runs of the workdir are of another study.
    """
    known = study.user_attrs.get(STUDY)
    if known and known != stored.get(STUDY):
        raise BadInput(
            f"--workdir: {workdir} is not where the study {study.study_name!r} has its runs; all workers need the same "
            "folder, on several hosts a shared one; or choose a workdir of another name for another study"
        )
    if not known and any(workdir.glob("trial*")):
        raise BadInput(f"--storage: the study of the runs in {workdir} is not there; name the storage it began with")
    if not known:
        search = {STUDY: uuid4().hex, "config": config.to_dict(), "space": space.text}
        write_text(workdir / FILE, json.dumps(search, indent=2) + "\n")
        study.set_user_attr(STUDY, search[STUDY])
