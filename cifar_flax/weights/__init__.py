"""Networks in files: the formats that `export` writes, and the weights that can be read again.

A new format is a module here and a line in FORMATS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cifar_flax.data import zip_arrays
from cifar_flax.errors import BadInput, printable
from cifar_flax.weights import keras_files, npz, safetensors, stablehlo
from cifar_flax.weights.contents import Network, Weights

READABLE = "name an exported .npz or .safetensors, or a file of Keras (.keras, .h5, .hdf5)"
HDF5 = b"\x89HDF\r\n\x1a\n"


class Format(NamedTuple):
    """A format to export to.

    Attributes:
        output: the name of the file or folder in the workdir, unless the user names another one.
        write: called with a path and a network.
        files: the names of its files, for a format that is a folder.
    """

    output: str
    write: Callable[[Path, Network], None]
    files: tuple[str, ...] = ()


def _write_keras(path: Path, network: Network) -> None:
    arrays, metadata = network.weights
    keras_files.write(path, metadata["model"], arrays, metadata["image_shape"], len(metadata["class_names"]))


FORMATS = {
    "npz": Format("parameters.npz", npz.write),
    "safetensors": Format("parameters.safetensors", safetensors.write),
    "keras": Format("model.keras", _write_keras),
    "stablehlo": Format("stablehlo", stablehlo.write, stablehlo.FILES),
}


def read(path: Path, field: str, model: str | None) -> Weights:
    """Reads weights from a file, whose kind is recognized by its content.

    Args:
        path: an exported `.npz` or `.safetensors`, or a file of Keras.
        field: the field or flag that named it, for error messages.
        model: the network that the weights are for, which files of Keras need because they do not name it.

    Raises:
        BadInput: the file cannot be used. The message names the field and the file.
    """
    start = _start(path, field)
    if start.startswith(HDF5) or (start.startswith(b"PK") and _is_keras(path, field)):
        return keras_files.read(path, field, model)
    if start.startswith(b"PK"):
        return npz.read(path, field)
    if start[8:] == b"{":
        return safetensors.read(path, field)
    begin = f"begins with {start!r}" if start else "is empty"
    raise BadInput(printable(f"{field}: {path} is not a file of weights: it {begin}; {READABLE}"))


def _start(path: Path, field: str) -> bytes:
    """The first nine bytes of a file."""
    try:
        if not path.is_file():  # a pipe would block
            kind = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
            raise BadInput(printable(f"{field}: {path} {kind}; {READABLE}"))
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise BadInput(printable(f"{field}: {path} cannot be read ({error.strerror}); {READABLE}")) from error


def _is_keras(path: Path, field: str) -> bool:
    with zip_arrays.open_npz(path, field) as stored:
        return "model.weights.h5" in stored.namelist()
