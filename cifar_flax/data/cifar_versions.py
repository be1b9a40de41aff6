"""The versions in which CIFAR-10 and CIFAR-100 are published: their files, and what these contain.

The Python versions are pickles, and a pickle is a program that unpickling runs. So only the official files are read,
which are known by their MD5: no other file with the MD5 of a given one can be made. The binary versions contain no
code, and are read whatever their content.
"""

import hashlib
import pickle
from dataclasses import dataclass

import numpy as np

from cifar_flax.data.dataset import Options, Source, Split, are_class_names
from cifar_flax.data.paths import listed
from cifar_flax.errors import BadInput

# of the files from cs.toronto.edu/~kriz/cifar.html
OFFICIAL_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Version:
    """A published version of a dataset.

    Attributes:
        dataset: its name, for messages.
        folder: the folder in which it is published.
        train: the files of the training images, in their order.
        test: the file of the test images.
        names: the file of the class names for each kind of labels, in the order in which the labels are stored.
    """

    dataset: str
    folder: str
    train: list[str]
    test: str
    names: dict[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, *dict.fromkeys(self.names.values()))

    def decode(self, files: dict[str, bytes], label: str | None) -> Source:
        """The images and their labels, by default the fine ones, from the contents of all files.

        Raises:
            BadInput: there are no such labels.
            ValueError: a file cannot be used.
        """
        if "" in self.names:
            Options(label=label).refuse("label", source=self.dataset)
        elif label not in (None, *self.names):
            raise BadInput(f"config.label: {label!r} is not valid; use fine or coarse")
        kind = label or ("" if "" in self.names else "fine")
        self.check(files)
        names = self.class_names(files, kind)
        return Source(self._split(files, self.train, kind, names), self._split(files, [self.test], kind, names), names)

    def _split(self, files: dict[str, bytes], parts: list[str], kind: str, names: tuple[str, ...]) -> Split:
        records = [self.records(files, part, kind) for part in parts]
        for part, (_, labels) in zip(parts, records, strict=True):
            if labels.max() >= len(names):
                problem = f"{part} has the label {labels.max()}"
                raise ValueError(f"{problem}, but {self.names[kind]} names only {len(names)} classes")
        images = np.empty((sum(len(labels) for _, labels in records), 32, 32, 3), np.uint8)
        np.concatenate([rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for rows, _ in records], out=images)
        return Split(images, np.concatenate([labels for _, labels in records]).astype(np.int32))

    def check(self, files: dict[str, bytes]) -> None:
        """Raises ValueError if the files may not be read."""

    def class_names(self, files: dict[str, bytes], kind: str) -> tuple[str, ...]:
        raise NotImplementedError

    def records(self, files: dict[str, bytes], name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The images of a file, as rows [N, 3072] uint8, and their labels [N]."""
        raise NotImplementedError


class PythonVersion(Version):
    """Pickled dictionaries."""

    def check(self, files: dict[str, bytes]) -> None:
        others = [name for name in self.files if hashlib.md5(files[name]).hexdigest() != OFFICIAL_MD5[name]]
        if others:
            raise ValueError(
                f"not the official {self.dataset} (by the MD5 of {listed(others)}), and no other pickles are read, "
                "because they can run code; download it again, or store your own arrays in a .npz with numpy.savez"
            )

    def class_names(self, files: dict[str, bytes], kind: str) -> tuple[str, ...]:
        stored = pickle.loads(files[self.names[kind]], encoding="bytes")
        return tuple(name.decode() for name in stored[f"{kind}_label_names".lstrip("_").encode()])

    def records(self, files: dict[str, bytes], name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        stored = pickle.loads(files[name], encoding="bytes")
        return stored[b"data"], np.array(stored[f"{kind}_labels".lstrip("_").encode()])


class BinaryVersion(Version):
    """For each image, a byte for each kind of labels and 3,072 for the pixels; and a class name in each line."""

    def class_names(self, files: dict[str, bytes], kind: str) -> tuple[str, ...]:
        lines = files[self.names[kind]].decode("utf-8", "replace").split("\n")
        names = tuple(line.strip() for line in lines if line.strip())
        if not are_class_names(names):
            raise ValueError(f"{self.names[kind]} does not list the class names, a different one in each line")
        return names

    def records(self, files: dict[str, bytes], name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        length, size = len(files[name]), len(self.names) + PIXELS
        if not length or length % size:
            raise ValueError(f"{name} has {length} bytes, not a multiple of the {size} of an image")
        stored = np.frombuffer(files[name], np.uint8).reshape(-1, size)
        return stored[:, -PIXELS:], stored[:, list(self.names).index(kind)]


BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
BINARY_BATCHES = [f"{name}.bin" for name in BATCHES]
BINARY_NAMES = {"coarse": "coarse_label_names.txt", "fine": "fine_label_names.txt"}
VERSIONS = (
    PythonVersion("CIFAR-10", "cifar-10-batches-py", BATCHES, "test_batch", {"": "batches.meta"}),
    PythonVersion("CIFAR-100", "cifar-100-python", ["train"], "test", {"fine": "meta", "coarse": "meta"}),
    BinaryVersion("CIFAR-10", "cifar-10-batches-bin", BINARY_BATCHES, "test_batch.bin", {"": "batches.meta.txt"}),
    BinaryVersion("CIFAR-100", "cifar-100-binary", ["train.bin"], "test.bin", BINARY_NAMES),
)
