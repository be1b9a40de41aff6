"""Damaged and malicious files of the binary versions of CIFAR-10 and CIFAR-100."""

import numpy as np
import pytest
from hostile import examples, mutated
from hypothesis import given
from hypothesis import strategies as st

from cifar_flax.data import Options, Source, cifar
from cifar_flax.data.cifar_versions import VERSIONS

pytestmark = pytest.mark.medium

_, _, VERSION_10, VERSION_100 = VERSIONS
RECORDS = np.random.default_rng(0).integers(0, 3, (2, 3074), np.uint8)  # labels and pixels of two images
CLASS_NAMES = b"cat\ndog\nemu\n"


def files_of(version):
    content = RECORDS[:, 2 - len(version.names) :].tobytes()
    return dict.fromkeys((*version.train, version.test), content) | dict.fromkeys(version.names.values(), CLASS_NAMES)


FILES = {version.folder: files_of(version) for version in (VERSION_10, VERSION_100)}
LABELS = st.sampled_from([None, "fine", "coarse", "", "other", "\x1b[2J"])


@pytest.fixture
def read(tmp_path_factory):
    """A function that decodes the files of a version."""
    folder = tmp_path_factory.getbasetemp() / "binary"

    def decode(version, files, label=None):
        return cifar._decode(folder, version, files, label)

    return decode


def check(source):
    """A result that is not None is a valid source."""
    if source is None:
        return
    assert isinstance(source, Source)
    names = source.class_names
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and name for name in names)
    for split in (source.train, source.test):
        assert split.images.shape == (len(split), 32, 32, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert 0 <= split.labels.min() <= split.labels.max() < len(names)


@st.composite
def damaged(draw):
    """A version with one or two damaged files."""
    version = draw(st.sampled_from([VERSION_10, VERSION_100]))
    files = dict(FILES[version.folder])
    for name in draw(st.lists(st.sampled_from(version.files), min_size=1, max_size=2)):
        files[name] = draw(mutated([files[name], *files.values()]))
    return version, files


@given(damaged(), LABELS)
@examples(0.5)
def test_damaged_binary_version_is_read_or_rejected(watch, read, version_and_files, label):
    check(watch(read, *version_and_files, label))


NAMES = st.binary(max_size=60) | st.lists(st.text(max_size=8), max_size=300).map("\n".join).map(
    lambda text: text.encode("utf-8", "replace")
)


@given(st.sampled_from([VERSION_10, VERSION_100]), NAMES, LABELS)
@examples(0.3)
def test_arbitrary_class_names_are_read_or_rejected(watch, read, version, names, label):
    check(watch(read, version, FILES[version.folder] | dict.fromkeys(version.names.values(), names), label))


@given(st.binary(max_size=40), st.integers(0, 4), st.integers(-2, 2), LABELS)
@examples(0.2)
def test_arbitrary_records_are_read_or_rejected(watch, read, start, count, surplus, label):
    record = (start + bytes(3074))[:3074]
    content = record * count + b"x" * surplus if surplus >= 0 else (record * count)[:surplus]
    check(watch(read, VERSION_100, FILES[VERSION_100.folder] | {"train.bin": content}, label))


INVALID = {
    "a line of a million characters": b"x" * 10**6,
    "a million classes": b"\n".join(b"%d" % i for i in range(10**6)),
    "only line feeds": b"\n" * 10**7,
    "no UTF-8": b"\xff\xfe\n" * 10**6,
    "nulls": bytes(10**6),
}


@pytest.mark.parametrize("names", INVALID)
def test_class_names_that_are_too_many_or_too_long_are_rejected(names, watch, read):
    files = FILES[VERSION_10.folder] | {"batches.meta.txt": INVALID[names]}
    assert watch(read, VERSION_10, files) is None
    assert "batches.meta.txt does not list the class names" in watch.error


def test_files_of_the_largest_size_stay_within_the_limits_of_memory(watch, read):
    files = FILES[VERSION_100.folder] | {
        "train.bin": bytes(3074 * 80_000)
    }  # 246 MB, of which the watch allows four times
    source = watch(read, VERSION_100, files)
    assert source.train.images.shape == (80_000, 32, 32, 3)


def test_files_that_are_too_large_together_are_rejected(watch, tmp_path):
    for name, content in FILES[VERSION_10.folder].items():
        (tmp_path / name).write_bytes(content)
    for name in VERSION_10.train[:2]:
        with (tmp_path / name).open("wb") as sparse:
            sparse.truncate(2**27 + 1)
    assert watch(cifar.load, tmp_path, Options()) is None
    assert "data_batch_2.bin is too large to be CIFAR-10 or CIFAR-100 (268435456 bytes in all)" in watch.error
