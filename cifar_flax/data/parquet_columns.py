"""Chooses the columns of a Parquet file that hold the images and their labels, reads class names, and checks labels."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifar_flax.data.dataset import are_class_names
from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput, printable, warn

METADATA = b"huggingface"  # the key under which the `datasets` library stores the types of the columns as JSON
IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
ABBREVIATIONS = {"fine": "fine_label", "coarse": "coarse_label"}


class Columns(NamedTuple):
    """What a dataset reads from its files.

    Attributes:
        image: the column of encoded pictures.
        label: the column of labels.
        is_text: whether the labels are strings, which are the names of the classes.
        names: the names of the classes of integer labels, if the file has them.
    """

    image: str
    label: str
    is_text: bool
    names: tuple[str, ...] | None


def choose(path: Path, schema: Any, wanted: str | None) -> Columns:
    """The columns to read from a file with this schema.

    Args:
        path: the file, for messages.
        schema: a pyarrow.Schema.
        wanted: the column of labels that `config.label` names, if any.

    Raises:
        BadInput: there are no such columns, or several.
    """
    image, label = _choose_image(path, schema), _choose_label(path, schema, wanted)
    if any(schema.names.count(name) > 1 or not name.isprintable() for name in (image, label)):
        raise BadInput(f"config.dataset: {path}: the names of its columns are not distinct and printable; rename them")
    is_text = _is_text(schema.field(label).type)
    stored = None if is_text else _class_labels(schema).get(label)
    names = _class_names(stored)
    if stored is not None and names is None:
        warn(
            f"{path}: the names of the classes are not distinct strings of one line and at most 100 characters; "
            "the classes are called by their numbers"
        )
    return Columns(image, label, is_text, names)


def check(path: Path, schema: Any, columns: Columns, first: Path) -> None:
    """Raises BadInput if a file does not have the same columns and class names as the first one."""
    fields = {field.name: field.type for field in schema}
    is_label = _is_text if columns.is_text else _is_integer
    for name, is_valid in ((columns.image, _is_image), (columns.label, is_label)):
        if name not in fields or not is_valid(fields[name]):
            problem = f"does not store a column {name} as {first.name} does"
            raise BadInput(f"config.dataset: {path} {problem}; store all files with the same columns, or remove it")
    if not columns.is_text and _class_names(_class_labels(schema).get(columns.label)) != columns.names:
        raise BadInput(
            f"config.dataset: {path} names other classes than {first.name}; use files of one version of the dataset"
        )


def check_labels(source: str, column: str, labels: np.ndarray, num_classes: int) -> None:
    """Raises BadInput unless all labels are from 0 to num_classes - 1."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if not len(wrong):
        return
    counted = f"config.dataset: {len(wrong)} of the {len(labels)} images in {source}"
    if (wrong == -1).all():
        advice = "remove these files, and set config.test_share to make a test split"
        raise BadInput(f"{counted} have the {column} -1, which hides the class of a test image; {advice}")
    problem = f"have a {column} that is not from 0 to {num_classes - 1}, such as {wrong[0]}"
    raise BadInput(f"{counted} {problem}; remove these images, or correct the class names")


def _choose_image(path: Path, schema: Any) -> str:
    images = [field.name for field in schema if _is_image(field.type)]
    preferred = [name for name in IMAGES if name in images] or images
    if not images:
        columns = listed([f"{field.name} ({field.type})" for field in schema])
        raise BadInput(f"config.dataset: {path} has no column of encoded pictures; it has {columns}")
    if len(preferred) > 1:
        raise BadInput(
            f"config.dataset: {path} has several columns of pictures: {listed(preferred)}; "
            "rename the one to use to image, and remove the others"
        )
    return preferred[0]


def _choose_label(path: Path, schema: Any, wanted: str | None) -> str:
    usable = [field.name for field in schema if _is_text(field.type) or _is_integer(field.type)]
    if wanted is not None:
        name = wanted if wanted in usable else ABBREVIATIONS.get(wanted, wanted)
        if name not in usable:
            raise BadInput(
                f"config.label: {path} has no column {wanted!r} of integers or strings; it has {listed(usable)}"
            )
        return name
    named = [name for name in LABELS if name in schema.names]
    choices = named[:1] or [name for name in usable if name in _class_labels(schema)]
    if len(choices) != 1:
        raise BadInput(
            f"config.label: {path} has no column {', '.join(LABELS[:-1])} or {LABELS[-1]}; "
            f"name the column of the labels, one of {listed(choices or usable)}"
        )
    if choices[0] not in usable:
        kind = printable(str(schema.field(choices[0]).type))[:100]
        raise BadInput(
            f"config.dataset: {path}: the column {choices[0]} is {kind}, not one integer or string for each image; "
            "use a dataset with one class for each image"
        )
    return choices[0]


def _is_image(kind: Any) -> bool:
    """Whether a column has the type of an encoded picture: bytes, or a struct of `bytes` and `path`."""
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _class_labels(schema: Any) -> dict[str, Any]:
    """By column, the names of its classes as the `datasets` library has stored them; empty without its metadata."""
    try:
        features = json.loads(schema.metadata[METADATA])["info"]["features"]
        return {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except Exception:  # there is no metadata, or any JSON
        return {}


def _class_names(names: Any) -> tuple[str, ...] | None:
    """The names of the classes from a list or from `{"0": name, "1": name, ...}`; None if they cannot be used."""
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not are_class_names(names):
        return None
    return tuple(names)
