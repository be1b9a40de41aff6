"""Decides whether a stored run and a requested one have the same config and the same data."""

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cifar_flax.config import base_config
from cifar_flax.data import Dataset, is_path, load
from cifar_flax.data.paths import read_path
from cifar_flax.errors import BadInput
from cifar_flax.workdir.records import Records

# Fields that may change when a run is resumed: names, paths, rounding, memory and what is reported, never what is
# trained. The content of the dataset and of `init_from` is compared instead of the path.
RUNTIME_FIELDS = ("experiment", "dataset", "data_dir", "lowering", "eval_batch_size", "tta", "stream", "save_seconds")

IMPORTED = "imported_from"  # field of run.json: the file and its checksum, for a network that was not trained here

# The fields of run.json and of checkpoints that say what a run was trained on.
DATA_FIELDS = {
    "num_train_examples": "training images",
    "num_validation_examples": "validation images",
    "num_test_examples": "test images",
    "image_shape": "image shape",
    "class_names": "classes",
    "data_sha256": "content",
}


def describe_run(config: ConfigDict) -> dict[str, Any]:
    """The fields of run.json that name the run."""
    return {field: config[field] for field in ("experiment", "model", "dataset", "seed", "lowering")}


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """The values of DATA_FIELDS."""
    return {
        "num_train_examples": len(dataset.train),
        "num_validation_examples": len(dataset.validation),
        "num_test_examples": len(dataset.test),
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "data_sha256": dataset.sha256(),
    }


def refuse_other_config(records: Records, config: ConfigDict) -> None:
    """Raises BadInput if the workdir holds a run with another config, or a run whose config is lost.

    A run that never saved a checkpoint may be replaced.
    """
    if not records.saved:
        return
    if not records.config:
        raise BadInput(f"--workdir: {records.workdir} holds a run without its config.json; choose another workdir")
    differing = differences(records.config, config) + _moved_data(records, config)
    if differing:
        raise BadInput(
            f"--workdir: {records.workdir} holds a run of another config ({'; '.join(differing)}); "
            "choose another workdir or the stored values"
        )
    if IMPORTED in records.run and (not records.done or only_adds_epochs(records.config, config)):
        raise BadInput(
            f"--workdir: {records.workdir} holds imported weights, which are not trained further there; choose another "
            f"workdir, and start from them with --config.init_from={records.workdir}"
        )


def refuse_other_data(stored: dict[str, Any], data: dict[str, Any], found: str) -> None:
    """Raises BadInput if a run was trained on other images, labels or class names.

    Fields that were not stored, by an older version of the program, are not compared.

    Args:
        stored: the DATA_FIELDS of the run.
        data: those of the dataset, from `describe_data`.
        found: the flag or field that named the dataset, and its value, for the message.
    """
    if any(field in stored and stored[field] != data[field] for field in DATA_FIELDS):
        raise BadInput(
            f"{found} is not what the run was trained on ({data_differences(stored, data)}); "
            "name the original data, wherever it is now, or choose another workdir"
        )


def data_differences(stored: dict[str, Any], data: dict[str, Any]) -> str:
    """How two values of `describe_data` differ, in words."""
    differing = [field for field in DATA_FIELDS if field in stored and stored[field] != data[field]]
    visible = [field for field in differing if field != "data_sha256"] or differing
    return "; ".join(_data_difference(field, stored[field], data[field]) for field in visible)


def refuse_replaced_data(records: Records, config: ConfigDict) -> None:
    """Raises BadInput if the dataset of a finished run was replaced.

    An unchanged name that is not a path, such as that of a TFDS dataset, is not checked, because that could download
    it. An unchanged path that can no longer be read is not an error.
    """
    is_new = config.dataset != with_defaults(records.config)["dataset"]
    if not is_new and not Path(config.dataset).is_absolute():
        return
    try:
        data = describe_data(load(config))
    except BadInput:
        if is_new:
            raise
    else:
        refuse_other_data(records.run, data, f"config.dataset: {config.dataset}")


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
    """A copy whose `dataset`, if it is a path, `data_dir` and `init_from` can be found from any folder."""
    config = config.copy_and_resolve_references()
    if is_path(config.dataset):
        config.dataset = str(read_path(config.dataset, "config.dataset"))
    for field in ("data_dir", "init_from"):
        if config[field] is not None:
            config[field] = str(read_path(config[field], f"config.{field}"))
    return config


def differences(stored: dict[str, Any], config: ConfigDict) -> list[str]:
    """The fields that change the results of a run and differ, each as `field: stored -> requested`.

    A larger `num_epochs` is not a difference if nothing before the stored end depends on it, and neither is another
    path in `init_from`. A field that was added after the run was stored counts with its default.
    """
    stored = with_defaults(stored)
    fields = sorted({*stored, *config} - set(RUNTIME_FIELDS))
    differing = [field for field in fields if stored.get(field) != config.get(field)]
    if "num_epochs" in differing and only_adds_epochs(stored, config):
        differing.remove("num_epochs")
    if "init_from" in differing and None not in (stored["init_from"], config.get("init_from")):
        differing.remove("init_from")
    if differing and stored.get("dataset") != config.get("dataset"):
        differing.insert(0, "dataset")  # not a difference itself, but perhaps the cause of the others
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


def _data_difference(field: str, before: Any, now: Any) -> str:
    if field == "data_sha256":
        parts = [part.replace("train_", "training ").replace("_", " ") for part in now if before.get(part) != now[part]]
        return "other " + ", ".join(parts)
    if field == "class_names" and len(before) == len(now):
        label = next(label for label, name in enumerate(before) if name != now[label])
        return f"class {label}: {before[label]!r} -> {now[label]!r}"
    if field == "class_names":
        before, now = len(before), len(now)
    return f"{DATA_FIELDS[field]}: {before} -> {now}"


def _moved_data(records: Records, config: ConfigDict) -> list[str]:
    """Another `dataset` of a run that an older version trained, whose images are not known: only its path tells it."""
    before = with_defaults(records.config)["dataset"]
    same = config.dataset in (before, str(read_path(before, "config.dataset")))
    return (
        []
        if same or not records.run or "data_sha256" in records.run
        else [f"dataset: {before!r} -> {config.dataset!r}"]
    )
