"""Decides whether a stored run and a requested config are the same run."""

import math
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.config import base_config
from cifar_flax.data import Dataset
from cifar_flax.errors import BadInput
from cifar_flax.workdir.records import Records

# Fields that may change when a run is resumed: names, paths, rounding and what is reported, never what is trained.
RUNTIME_FIELDS = ("experiment", "data_dir", "lowering", "eval_batch_size", "tta", "save_seconds")


def describe_run(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """The fields of run.json that say what is trained on what."""
    fields = ("experiment", "model", "dataset", "seed", "lowering")
    return {field: config[field] for field in fields} | {
        "num_train_examples": len(dataset.train),
        "num_validation_examples": len(dataset.validation),
        "num_test_examples": len(dataset.test),
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
    }


def refuse_other_config(records: Records, config: ConfigDict) -> None:
    """Raises BadInput if the workdir holds a run with another config, or a run whose config is lost."""
    if not records.config and (records.run or (records.workdir / "checkpoints").exists()):
        raise BadInput(f"--workdir: {records.workdir} holds a run without its config.json; choose another workdir")
    differing = differences(records.config, config) if records.config else []
    if differing:
        raise BadInput(
            f"--workdir: {records.workdir} holds a run of another config ({'; '.join(differing)}); "
            "choose another workdir or the stored values"
        )


def differences(stored: dict[str, Any], config: ConfigDict) -> list[str]:
    """The fields that change the results of a run and differ, each as `field: stored -> requested`.

    A larger `num_epochs` is not a difference if nothing before the stored end depends on it. A field that was added
    after the run was stored counts with its default.
    """
    stored = with_defaults(stored)
    fields = sorted({*stored, *config} - set(RUNTIME_FIELDS))
    differing = [field for field in fields if stored.get(field) != config.get(field)]
    if "num_epochs" in differing and only_adds_epochs(stored, config):
        differing.remove("num_epochs")
    return [f"{field}: {stored.get(field)!r} -> {config.get(field)!r}" for field in differing]


def with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config, completed with the defaults of the fields that are newer than it."""
    return {**base_config().to_dict(), **stored}


def only_adds_epochs(stored: dict[str, Any], config: ConfigDict) -> bool:
    """Whether the config asks for more epochs of a run whose first steps are exactly those of the stored run."""
    before, now = stored.get("num_epochs"), config.num_epochs
    constant = config.schedule == "constant" and config.warmup == 0 and config.average_every == 0
    is_integer = isinstance(before, int | float) and math.isfinite(before) and before == int(before)
    return is_integer and now > before and constant
