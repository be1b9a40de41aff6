"""Reads the arrays of a file of Keras that may be malicious or damaged: an HDF5 file, or a `.keras` with one in it.

HDF5 is a C library that a damaged file can send into an endless loop. Therefore `keras_files` runs this file as a
program in a process of its own (`data.child`). It reads stdin and writes to stdout

    {"description": Keras' description of the layers, or an empty text, "layers": [[name, [shape, ...]], ...]}

on a line, and then the values of all arrays, float32. Scalars are left out.
"""

import io
import json
import os
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

# before the libraries are loaded: no plugins, because filters are refused, and no threads, which take memory
os.environ |= {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
import h5py
import numpy as np

DESCRIPTION, ARRAYS = "config.json", "model.weights.h5"  # entries of a .keras
KERAS_2_12 = "_layer_checkpoint_dependencies"  # the name of "layers" in Keras 2.12 to 2.15
MAX_BYTES = 2 * 2**30  # of all arrays together as float32
MAX_ENTRIES = 1000  # layers of a file, and arrays of a layer
MAX_CHARACTERS = 2**20  # of the description of the layers
MAX_SECONDS = 20  # of CPU time; 2 GiB take less than 3
PLAIN = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)


def main() -> None:
    with suppress(OSError, ValueError):  # there is a lower limit
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with open(0, "rb", closefd=False) as file:
        try:
            _answer(file, sys.stdout.buffer)
        except ValueError as error:
            sys.exit(str(error))


def _answer(file: BinaryIO, out: BinaryIO) -> None:
    if file.read(2) != b"PK":
        _write(None, file, out)
        return
    with zipfile.ZipFile(file) as stored:
        for name in (DESCRIPTION, ARRAYS):
            if name not in stored.namelist():
                raise ValueError(f"it has no {name}")
            if stored.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed, which Keras does not do")
        _write(stored.read(DESCRIPTION).decode(), io.BytesIO(stored.read(ARRAYS)), out)


def _write(description: str | None, content: BinaryIO, out: BinaryIO) -> None:
    size = content.seek(0, io.SEEK_END)
    with h5py.File(content, "r") as file:
        if description is None:
            description = _text(file.attrs, "model_config")
        if len(description) > MAX_CHARACTERS:
            raise ValueError(f"it describes its layers in more than {MAX_CHARACTERS} characters")
        layers = list(_layers(file))
        arrays = [array for _, arrays in layers for array in arrays]
        _check(arrays, size)
        shapes = [(name, [array.shape for array in arrays]) for name, arrays in layers]
        out.write(json.dumps({"description": description, "layers": shapes}).encode() + b"\n")
        for array in arrays:
            out.write(np.asarray(array[()], np.float32).tobytes())


def _layers(file: h5py.File) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """All layers with their arrays."""
    root = _child(file, "model_weights") if file.id.links.exists(b"model_weights") else file
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:  # Keras 2, and models that Keras 3 saves as .h5
        for name in _names(root, "layer_names"):
            layer = _child(root, name)
            yield name, _arrays(layer, _names(layer, "weight_names"))
        return
    layers = _child(file, KERAS_2_12 if file.id.links.exists(KERAS_2_12.encode()) else "layers")
    for name in sorted(_keys(layers), key=_number):
        layer = _child(layers, name)
        if "vars" in _keys(layer):
            variables = _child(layer, "vars")
            own_name = _text(variables.attrs, "name") or name  # files of earlier versions have no own name
            yield own_name, _arrays(variables, sorted(_keys(variables), key=_number))


def _number(name: str) -> tuple[str, int]:
    """The key by which Keras 3 counts the layers of a class: dense, dense_1, ..., dense_10."""
    match = re.fullmatch(r"(.*?)_?(\d{1,9})?", name, re.DOTALL)
    assert match
    return match[1], int(match[2] or 0)


def _keys(group: Any) -> list[str]:
    if not isinstance(group, h5py.Group) or len(group) > MAX_ENTRIES:
        raise ValueError("it has a layer that is no group, or too many layers or arrays")
    return list(group)


def _child(group: Any, path: str) -> Any:
    """What is at a path within a group. Links to other files or places are not followed."""
    for part in path.split("/"):
        links = group.id.links if isinstance(group, h5py.Group) else ()
        if not links or not links.exists(part.encode()):
            raise ValueError(f"it has no {path}")
        if links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{path} is a link to another place, and links are not followed")
        group = group[part]
    return group


def _arrays(group: Any, names: list[str]) -> list[h5py.Dataset]:
    """The arrays with these names, without scalars."""
    arrays = [_child(group, name) for name in names]
    if not all(isinstance(array, h5py.Dataset) for array in arrays):
        raise ValueError(f"{group.name} has an array that is none")
    return [array for array in arrays if array.shape]


def _check(arrays: list[h5py.Dataset], file_bytes: int) -> None:
    """Checks that the arrays are plain numbers and stored in the file, with the sizes that they claim."""
    for array in arrays:
        if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
            raise ValueError(f"{array.name} is of {array.dtype}, not of floating-point numbers")
        properties, size = array.id.get_create_plist(), array.id.get_storage_size()
        is_plain = properties.get_layout() in PLAIN and not properties.get_nfilters()
        if not is_plain or properties.get_external_count() or size != array.size * array.dtype.itemsize:
            raise ValueError(f"{array.name} is compressed, virtual or incomplete, which Keras does not do")
    # many links can lead to the same array
    if sum(array.nbytes for array in arrays) > file_bytes or sum(4 * array.size for array in arrays) > MAX_BYTES:
        raise ValueError(f"its arrays are larger than the file, or than {MAX_BYTES} bytes in all")


def _names(group: Any, attribute: str) -> list[str]:
    """A list of strings. Keras divides one that is too long for an attribute into `layer_names0`, ..."""
    parts = [attribute] if attribute in group.attrs else [f"{attribute}{i}" for i in range(MAX_ENTRIES)]
    names: list[str] = []
    for part in parts:
        if part not in group.attrs:
            break
        shape = group.attrs.get_id(part).shape
        if len(shape) != 1 or len(names) + shape[0] > MAX_ENTRIES:
            raise ValueError(f"its {attribute} are not a list of at most {MAX_ENTRIES} names")
        names += [_decode(value) for value in group.attrs[part]]
    return names


def _text(attributes: h5py.AttributeManager, name: str) -> str:
    """A string, or an empty one if there is none."""
    if name not in attributes:
        return ""
    if attributes.get_id(name).shape != ():
        raise ValueError(f"its {name} is not a text")
    return _decode(attributes[name])


def _decode(value: Any) -> str:
    return value if isinstance(value, str) else bytes.decode(value)


if __name__ == "__main__":
    main()
