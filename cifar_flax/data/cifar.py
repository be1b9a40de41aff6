"""Reads CIFAR-10 and CIFAR-100 as their authors publish them: a folder, or an archive of it, which is not unpacked."""

from collections.abc import Collection
from pathlib import Path

from cifar_flax.data import cache, tar
from cifar_flax.data.cifar_versions import VERSIONS, Version
from cifar_flax.data.dataset import Options, Source
from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput, in_one_line, printable

VERSION_OF = {name: version for version in VERSIONS for name in version.files}


def find(path: Path) -> Version | None:
    """The version of which a folder has all files, or of which an archive has one near its start."""
    if path.is_dir():
        version, absent = _closest(_files_in(path))
        return None if absent else version
    name = tar.first_name(path, VERSION_OF) if path.is_file() else None  # a pipe would block
    return VERSION_OF[name] if name else None


def incomplete(folder: Path) -> str | None:
    """What a folder lacks that has at least half of the files of a version, or None."""
    version, absent = _closest(_files_in(folder))
    return f"{folder} is {version.dataset} without {listed(absent)}" if 2 * len(absent) <= len(version.files) else None


def load(path: Path, options: Options) -> Source:
    """Reads the images of a folder that `find` accepts, or of an archive, compressed or not, in the authors' order.

    Raises:
        BadInput: names the file and what is wrong with it.
    """
    options.refuse("image_size", source="CIFAR-10 and CIFAR-100")
    version = find(path) if path.is_dir() else None
    contents = _read([path / name for name in version.files] if version else [path])
    key = cache.fingerprint_of([*contents.values(), (options.label or "").encode()])
    return cache.load_or_build("cifar", key, lambda: _decode(path, version, contents, options.label))


def _decode(path: Path, version: Version | None, contents: dict[str, bytes], label: str | None) -> Source:
    try:
        if version:
            return version.decode(contents, label)
        files = tar.read(contents[path.name], VERSION_OF)
        version, absent = _closest(files)
        if not files:
            raise ValueError("it contains neither CIFAR-10 nor CIFAR-100; unpack it, and name the folder")
        if absent:
            raise ValueError(f"it does not contain {listed(absent)} of {version.dataset}")
        return version.decode(files, label)
    except ValueError as error:
        raise BadInput(printable(f"config.dataset: {path}: {error}")) from error
    except tar.DAMAGES as error:
        problem = f"is not a readable tar.gz or tar, or is truncated ({in_one_line(error)})"
        raise BadInput(f"config.dataset: {path} {problem}") from error


def _closest(available: Collection[str]) -> tuple[Version, list[str]]:
    """The version of which the most is available, and its files that are not."""
    absent = [[name for name in version.files if name not in available] for version in VERSIONS]
    return min(zip(VERSIONS, absent, strict=True), key=lambda pair: len(pair[1]) / len(pair[0].files))


def _files_in(folder: Path) -> set[str]:
    return {name for name in VERSION_OF if (folder / name).is_file()}


def _read(paths: list[Path]) -> dict[str, bytes]:
    """The files' contents by name. Each is read once, so that what was checked is what is decoded."""
    contents: dict[str, bytes] = {}
    remaining = tar.MAX_BYTES
    for path in paths:
        try:
            if not path.is_file():  # a pipe would block, and a device may never end
                raise BadInput(f"config.dataset: {path} is not a regular file")
            with path.open("rb") as file:
                contents[path.name] = file.read(remaining + 1)
        except OSError as error:
            raise BadInput(f"config.dataset: {path} cannot be read ({error.strerror})") from error
        remaining -= len(contents[path.name])
        if remaining < 0:
            problem = f"is too large to be CIFAR-10 or CIFAR-100 ({tar.MAX_BYTES} bytes in all)"
            raise BadInput(f"config.dataset: {path} {problem}; if it is another archive, unpack it and name its folder")
    return contents
