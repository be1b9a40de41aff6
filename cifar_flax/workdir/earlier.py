"""The environments of a resumed run: which versions and machine trained which of its steps."""

from collections.abc import Iterator
from typing import Any

FIELD = "earlier_environments"  # of run.json: those before the current one, in the order of their steps
END = "end_step"  # of each: the last step that was trained in it

# The fields of run.json that can change rounding. The config and the data are compared by identity.py.
ENVIRONMENT_FIELDS = (
    "versions",
    "git_commit",
    "platform",
    "device_kind",
    "num_devices",
    "processor",
    "num_cpus",
    "xla_flags",
    "lowering",
)


def resume(run: dict[str, Any], now: dict[str, Any], step: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The earlier environments of a run that continues after `step`, and how the last of them differs from `now`.

    Without a difference the last steps were trained in `now`, which then is not an earlier environment. An
    environment none of whose steps was restored is dropped: its process was killed before it saved one.

    Args:
        run: the content of run.json, as the process before left it; it may be empty.
        now: the ENVIRONMENT_FIELDS of this process; other fields are ignored.
        step: the step that was restored.
    """
    last = {END: step, **{field: run[field] for field in ENVIRONMENT_FIELDS if field in run}}
    environments = list(_restored([*run.get(FIELD, []), last], step))
    changed = changes(environments[-1], now) if environments else []
    return environments if changed else environments[:-1], changed


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments, each as `name: before -> now`. Fields of only one are not compared."""
    before, now = _by_name(before), _by_name(now)
    names = [name for name in now if name in before and before[name] != now[name]]
    return [f"{name}: {_shown(before[name])} -> {_shown(now[name])}" for name in names]


def _restored(environments: list[dict[str, Any]], step: int) -> Iterator[dict[str, Any]]:
    start = 0
    for environment in environments:
        end = min(environment[END], step)
        if end > start:
            yield environment | {END: end}
            start = end


def _by_name(environment: dict[str, Any]) -> dict[str, Any]:
    """All versions and all other fields, by name."""
    fields = {field: environment[field] for field in ENVIRONMENT_FIELDS if field in environment}
    versions = fields.pop("versions", None)
    return {**(versions or {}), **fields}


def _shown(value: Any) -> str:
    return "none" if value == "" else str(value)
