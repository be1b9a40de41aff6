"""Reads Parquet files of encoded pictures and labels, as the `datasets` library of Hugging Face writes them.

A dataset is a folder of `train-*.parquet`, and optionally `test-*.parquet` and `validation-*.parquet`, or one file.
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifar_flax.data import cache, child, parquet_columns
from cifar_flax.data.dataset import MAX_CLASSES, Options, Source, Split, are_class_names
from cifar_flax.data.decoding import MAX_BYTES, decode
from cifar_flax.data.parquet_columns import Columns
from cifar_flax.data.paths import listed
from cifar_flax.data.split import interleaved
from cifar_flax.errors import BadInput, import_problem, in_one_line, printable, warn

FILE = re.compile(r"(train|test|validation|valid|val)([-_.].*)?\.parquet")
SHARD = re.compile(r"-(\d{1,9})-of-(\d{1,9})")
VALIDATION = {"valid": "validation", "val": "validation"}
PROGRAM = Path(__file__).with_name("parquet_child.py")
LFS_POINTER = b"version https://git-lfs"  # what a clone without Git LFS has in place of a large file
DECODE_BYTES = 2**26  # of encoded pictures that are decoded at once; a call of the decoder can start processes
ROW_BYTES = 2**9  # of Python objects for a row, apart from the content of its picture
MAX_LISTED = 1000  # entries of a folder to look at


class _Row(NamedTuple):
    """A picture of a file, which is encoded, with its name for messages."""

    picture: bytes
    name: str
    label: int


def find(folder: Path) -> Path | None:
    """The folder itself, if it has the files."""
    with contextlib.suppress(OSError):  # it is not a folder, or may not be read
        if any(FILE.fullmatch(path.name) for path in itertools.islice(folder.iterdir(), MAX_LISTED)):
            return folder
    return None


def load(path: Path, options: Options) -> Source:
    """Reads the images of a folder, or of one file as the training images, in the stored order.

    Training images that are grouped by class are interleaved, because the first ones can become the validation split.

    Raises:
        BadInput: names the file and what is wrong with it.
    """
    try:
        files = _files_of(path) if path.is_dir() else {"train": [path]}
        for file in itertools.chain(*files.values()):
            if not file.is_file():  # a pipe would block
                raise BadInput(f"config.dataset: {file} is not a regular file")
        contents = {split: [cache.fingerprint([file]) for file in files[split]] for split in files}
    except OSError as error:
        raise BadInput(f"config.dataset: {error.filename or path} cannot be read ({error.strerror})") from error
    if (shard := SHARD.search(path.name)) and path.is_file() and int(shard[2]) > 1:
        warn(f"{path} is one of {int(shard[2])} files; to read all of them, name their folder")
    key = hashlib.sha256(repr((contents, options)).encode()).hexdigest()[:16]
    return cache.load_or_build("parquet", key, lambda: _build(files, options))


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, sorted by name.

    Raises:
        BadInput: there are no training images, or a file is missing or superfluous.
    """
    files: dict[str, list[Path]] = {"train": [], "test": [], "validation": []}
    for path in sorted(folder.iterdir()):
        if match := FILE.fullmatch(path.name):
            files[VALIDATION.get(match[1], match[1])].append(path)
    if not files["train"]:
        names = listed([path.name for path in itertools.chain(*files.values())])
        raise BadInput(f"config.dataset: {folder} has no train-*.parquet, but {names}; download all of its files")
    for split, paths in files.items():
        _check_shards(folder, split, [path.name for path in paths])
    return {split: paths for split, paths in files.items() if paths}


def _check_shards(folder: Path, split: str, names: list[str]) -> None:
    """Raises BadInput unless the files `train-00000-of-00002.parquet` and so on are there, each once."""
    shards = {(int(match[1]), int(match[2])) for name in names if (match := SHARD.search(name))}
    totals = {total for _, total in shards}
    if shards and (len(shards) < len(names) or len(totals) > 1 or len(names) > min(totals)):
        raise BadInput(
            f"config.dataset: {folder} holds files that cannot belong to one {split} split: {listed(names)}; "
            "keep those of one version"
        )
    if shards and len(names) < min(totals):
        raise BadInput(
            f"config.dataset: {folder} holds {len(names)} of the {min(totals)} files of its {split} split: "
            f"{listed(names)}; download the others"
        )


def _build(files: dict[str, list[Path]], options: Options) -> Source:
    columns, num_rows = _survey(list(itertools.chain(*files.values())), options.label)
    reader = _Reader(columns, options.image_size)
    splits = {name: reader.read(paths, sum(num_rows[path] for path in paths)) for name, paths in files.items()}
    channels = max(split.images.shape[3] for split in splits.values())
    # strings are numbered as they occur, but the names of the classes are sorted
    numbers = np.argsort(np.argsort(reader.class_names)) if columns.is_text else np.arange(len(reader.class_names))
    class_names = tuple(sorted(reader.class_names)) if columns.is_text else reader.class_names
    for name, split in splits.items():
        images = split.images if split.images.shape[3] == channels else np.repeat(split.images, channels, axis=3)
        splits[name] = Split(images, numbers[split.labels].astype(np.int32))
    labels = splits["train"].labels
    if "validation" not in splits and np.count_nonzero(np.diff(labels)) == len(np.unique(labels)) - 1:  # one run each
        splits["train"] = interleaved(splits["train"])
    return Source(splits["train"], splits.get("test"), class_names, splits.get("validation"))


@contextlib.contextmanager
def _opened(path: Path, *columns: str) -> Iterator[Any]:
    """The `pyarrow.RecordBatchReader` of what `parquet_child` copies. All exceptions in the context become BadInput."""
    try:
        import pyarrow
    except Exception as error:
        problem = f"can only be read with pyarrow, and {import_problem(error, 'pyarrow')}; install pyarrow"
        raise BadInput(f"config.dataset: {path} {problem}") from error
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise BadInput(f"config.dataset: {path} is a Git LFS pointer; fetch the file with git lfs pull")
            with child.output_of(PROGRAM, pyarrow, file, *columns) as output:
                yield pyarrow.ipc.open_stream(output)
    except BadInput:
        raise
    except Exception as error:
        problem = printable(str(error)) if isinstance(error, child.ChildFailed) else in_one_line(error)
        raise BadInput(f"config.dataset: {path} is not a readable Parquet file ({problem})") from error


def _survey(paths: Sequence[Path], label: str | None) -> tuple[Columns, dict[Path, int]]:
    """The columns to read from all files, and the number of rows that each one claims to have."""
    columns, num_rows = None, {}
    for path in paths:
        with _opened(path) as stream:
            columns = columns or parquet_columns.choose(path, stream.schema, label)
            parquet_columns.check(path, stream.schema, columns, paths[0])
            num_rows[path] = int(stream.schema.metadata[b"num_rows"])
    assert columns
    return columns, num_rows


@dataclass
class _Reader:
    """Reads and decodes the splits of a dataset, the training images first.

    Attributes:
        columns: what to read.
        image_size: as in the config.
        texts: the number of each label that is a string.
        class_names: of the training images.
        first: the first of them, with which the others are decoded, because they must have the same size.
    """

    columns: Columns
    image_size: int | None
    texts: dict[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    first: _Row | None = None

    def read(self, paths: Sequence[Path], count: int) -> Split:
        """The images and labels (int64) of a split that has this number of rows."""
        source = f"{paths[0]}" + (f" and {len(paths) - 1} other files of its split" if len(paths) > 1 else "")
        images, labels = np.empty((0, 0, 0, 3), np.uint8), np.empty(0, np.int64)
        start, stop, is_gray = 0, 0, True
        for rows in _parts(itertools.chain.from_iterable(map(self._rows, paths))):
            known = [self.first] if self.first else []
            pictures, names, _ = zip(*known, *rows, strict=True)
            decoded = decode(pictures, names, self.image_size)[len(known) :]
            self.first = self.first or rows[0]
            if not start:
                images, labels = _allocate(source, count, decoded), np.empty(count, np.int64)
            if (stop := start + len(rows)) > count:
                break
            images[start:stop] = decoded  # gray values are repeated in all channels
            labels[start:stop] = [row.label for row in rows]
            start, is_gray = stop, is_gray and decoded.shape[3] == 1
        if stop != count or not count:
            problem = f"it does not have the {count} rows that it claims" if count else "there are no images in it"
            raise BadInput(f"config.dataset: {source}: {problem}")
        class_names = self.columns.names or tuple(self.texts) or map(str, range(min(labels.max() + 1, MAX_CLASSES)))
        self.class_names = self.class_names or tuple(class_names)
        parquet_columns.check_labels(source, self.columns.label, labels, len(self.class_names))
        return Split(images[..., :1].copy() if is_gray else images, labels)

    def _rows(self, path: Path) -> Iterator[_Row]:
        with _opened(path, self.columns.image, self.columns.label) as stream:
            rows = itertools.chain.from_iterable(zip(*batch.to_pydict().values(), strict=True) for batch in stream)
            for index, (picture, label) in enumerate(rows):
                if picture is None:
                    problem = "holds no picture, at most its path; store the pictures themselves in the file"
                    raise BadInput(f"config.dataset: {path}, row {index} {problem}")
                if label is None:
                    problem = f"has no {self.columns.label}; remove the images without a label"
                    raise BadInput(f"config.dataset: {path}, row {index} {problem}")
                number = self._number(path, label) if self.columns.is_text else label
                yield _Row(picture, f"{path.name}, row {index}", number)

    def _number(self, path: Path, text: str) -> int:
        if text not in self.texts:
            if len(self.texts) == MAX_CLASSES or not are_class_names([text]):
                raise BadInput(
                    f"config.dataset: {path}: the column {self.columns.label} does not hold the names of at most "
                    f"{MAX_CLASSES} classes, each one line of at most 100 characters"
                )
            if self.class_names:
                problem = f"has the {self.columns.label} {text!r}, which no training image has; remove or rename it"
                raise BadInput(f"config.dataset: {path} {problem}")
            self.texts[text] = len(self.texts)
        return self.texts[text]


def _parts(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """The rows in lists of about `DECODE_BYTES`, but the first one alone, because its size tells the size of all."""
    part: list[_Row] = []
    num_bytes = DECODE_BYTES
    for row in rows:
        part.append(row)
        num_bytes += len(row.picture) + ROW_BYTES
        if num_bytes >= DECODE_BYTES:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _allocate(source: str, count: int, decoded: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] uint8 for all images of a split."""
    _, height, width, _ = decoded.shape
    num_bytes = 3 * count * height * width
    if num_bytes > MAX_BYTES:
        raise BadInput(
            f"config.image_size: the {count} images of {width} x {height} pixels in {source} take "
            f"{num_bytes / 2**30:.1f} GiB of memory, more than {MAX_BYTES // 2**30}; set it to a smaller size"
        )
    return np.empty((count, height, width, 3), np.uint8)
