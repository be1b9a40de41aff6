"""What all processes of a run must have in common."""

from typing import Any

from ml_collections import ConfigDict

from cifar_flax.errors import BadInput
from cifar_flax.training.checks import check_config
from cifar_flax.workdir.environment import software

# Fields of the config that may differ between processes: where the data is, whose content is compared instead, and what
# only process 0 reads.
LOCAL_FIELDS = ("dataset", "data_dir", "init_from", "save_seconds")


def describe_program(config: ConfigDict) -> dict[str, Any]:
    """What determines the compiled functions, by the names that messages use; or an `error` in the config."""
    try:
        check_config(config)
    except BadInput as error:
        return {"error": str(error)}
    described = software()
    versions = {f"version of {name}": version for name, version in described["versions"].items()}
    fields = {f"config.{name}": value for name, value in config.to_dict().items() if name not in LOCAL_FIELDS}
    return fields | versions | {"XLA_FLAGS": described["xla_flags"], "git commit": described["git_commit"]}


def disagreement(descriptions: dict[int, dict[str, Any]]) -> str | None:
    """What is not the same in all processes, or a mistake in one of them; None if they agree.

    Args:
        descriptions: of each process, from `describe_program`.
    """
    for process, description in descriptions.items():
        if "error" in description:
            return f"process {process}: {description['error']}"
    first = descriptions[0]
    for process, description in descriptions.items():
        for name in sorted({*first, *description}):
            if first.get(name) != description.get(name):
                values = f"{first.get(name)!r} in process 0 and {description.get(name)!r} in process {process}"
                return f"{name}: {values}; it must be the same in all processes"
    return None
