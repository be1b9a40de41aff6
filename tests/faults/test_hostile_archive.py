"""Malicious and damaged archives of CIFAR: tars and gzips of unbounded size, and pickles, which are programs."""

import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest
from hostile import Canary, examples, mutated
from hypothesis import example, given
from hypothesis import strategies as st

from cifar_flax.data import Options, Source, Split, cifar, tar
from cifar_flax.data.cifar_versions import OFFICIAL_MD5, VERSIONS

pytestmark = pytest.mark.medium

RECORDS = np.random.default_rng(0).integers(0, 10, (2, 3073), np.uint8)  # a label and the pixels of each image
PICKLED, _, BINARY, _ = VERSIONS


def tarred(members, ending=bytes(1024)):
    """A tar of members (name, type, claimed size, content)."""
    blocks = []
    for name, kind, size, content in members:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        blocks += [bytes(header[-tarfile.BLOCKSIZE :]), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
    return b"".join(blocks) + ending


def members_of(version, contents):
    return [(f"{version.folder}/{name}", tarfile.REGTYPE, len(text), text) for name, text in contents.items()]


def valid_members():
    """The binary version, which contains no code, with two images in each file."""
    contents = dict.fromkeys((*BINARY.train, BINARY.test), RECORDS.tobytes())
    return members_of(BINARY, contents | {"batches.meta.txt": b"\n".join(b"class %d" % i for i in range(10))})


def pickled_members(content):
    return members_of(PICKLED, dict.fromkeys(PICKLED.files, content))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("archive")


@pytest.fixture(scope="module")
def read_tar(root):
    """A function that decodes a tar.gz, or a plain tar, with the given content."""

    def read(content):
        path = root / "cifar.tar.gz"
        source = cifar._decode(path, None, {path.name: content}, None)
        assert os.listdir(root) == []  # noqa: PTH208
        return source

    return read


def check(split):
    assert isinstance(split, Split)
    assert split.images.shape == (len(split), 32, 32, 3)
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
    assert 0 <= split.labels.min() <= split.labels.max() < 10


def check_source(source):
    if source is not None:
        assert isinstance(source, Source)
        check(source.train)
        check(source.test)
        assert len(source.class_names) <= 10


TARS = [tarred(valid_members()), tarred([*valid_members(), (BINARY.folder, tarfile.DIRTYPE, 0, b"")])]
TARS += [tarred(pickled_members(pickle.dumps(Canary(), 2)))]
FAST = {"compresslevel": 1, "mtime": 0}


def test_intact_tar_is_read(read_tar):
    for content in TARS[:2]:
        for source in (read_tar(content), read_tar(gzip.compress(content))):
            check_source(source)
            np.testing.assert_array_equal(source.test.labels, RECORDS[:, 0])


@given(mutated(TARS))
@example(TARS[0])
@examples(0.25)
def test_damaged_tar_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, gzip.compress(content, **FAST)))


@given(mutated(TARS))
@example(TARS[0])
@examples(0.1)
def test_damaged_uncompressed_tar_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, content))


@given(mutated([gzip.compress(content, mtime=0) for content in TARS]))
@examples(0.2)
def test_damaged_gzip_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, content))


KINDS = [tarfile.REGTYPE] * 4 + [tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
KINDS += [tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"?"]
MEMBER_NAMES = st.sampled_from(
    [*BINARY.files, *OFFICIAL_MD5, "../../batches.meta", "/etc/batches.meta.txt", "x\x1b[2J", "a\nb", "", "é"]
)
SIZES = st.one_of(st.integers(0, 3000), st.sampled_from([-1, -512, 2**33, 2**62, 2**87, tar.MAX_BYTES + 1]))
EXTENDED = st.sampled_from(
    [b"30 size=99999999999999999999\n", b"13 size=-512\n", b"9" * 900, b"22 GNU.sparse.major=1\n", b"x"]
)
MEMBERS = st.one_of(
    st.tuples(MEMBER_NAMES, st.sampled_from(KINDS), SIZES, EXTENDED),
    st.tuples(MEMBER_NAMES, st.sampled_from(KINDS), st.just(900), st.just(b"9" * 900)),
)


@given(
    st.lists(MEMBERS, max_size=5),
    st.sampled_from([bytes(1024), b"", bytes(512), b"x" * 700, bytes(100_000)]),
    st.booleans(),
)
@examples(0.3)
def test_arbitrary_tar_is_read_or_rejected(watch, read_tar, members, ending, complete):
    content = tarred(members, b"") + tarred(valid_members() * complete, ending)
    check_source(watch(read_tar, gzip.compress(content, **FAST)))


@given(mutated([gzip.compress(TARS[0], mtime=0), TARS[0], TARS[2]]))
@examples(0.15)
def test_damaged_archive_in_a_folder_is_recognized_or_not(watch, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "mine"
    path.write_bytes(content)
    assert watch(cifar.find, path) in (None, *VERSIONS)


def zeros(mib):
    """Gzipped zeros, `mib` MiB of them."""
    return gzip.compress(bytes(2**24), **FAST) * (mib // 16)


def gzipped(*members, ending=bytes(1024)):
    return gzip.compress(tarred(members, ending), **FAST)


FILE = ("data_batch_1.bin", tarfile.REGTYPE)
OTHER = ("x", tarfile.REGTYPE)
VALID_GZIP = gzipped(*valid_members())
TAR_BOMBS = {
    "a member of 256 MiB": (gzipped((*OTHER, 2**28 - 2048, b""), ending=b"") + zeros(512), "contains neither"),
    "a file of 256 MiB": (gzipped((*FILE, 2**28 - 2048, b""), ending=b"") + zeros(512), "does not contain"),
    "a member of exabytes": (gzipped((*OTHER, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "a file of exabytes": (gzipped((*FILE, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "a file that is too large": (gzipped((*FILE, tar.MAX_BYTES, b""), ending=b"") + zeros(512), "claims"),
    "a member of negative size": (gzipped((*OTHER, -1024, b"")), "claims -1024"),
    "only zeros": (zeros(1024), "contains neither"),
    "too many members": (gzipped(*[(*OTHER, 0, b"")] * 5_000), "more than"),
    "too many extended headers": (gzipped(*[("x", tarfile.XHDTYPE, 0, b"")] * 5_000), "more than"),
    "a name of exabytes": (gzipped(("x", tarfile.GNUTYPE_LONGNAME, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "an extended header of digits": (gzipped(("x", tarfile.XHDTYPE, 10**7, b"9" * 10**7)), "contains neither"),
    "one file twice": (gzipped(*valid_members(), valid_members()[0]), "twice"),
    "a link": (gzipped(("batches.meta.txt", tarfile.SYMTYPE, 0, b"")), "contains neither"),
    "a gzip in a gzip": (gzip.compress(VALID_GZIP, mtime=0), "not a readable tar.gz"),
    "a changed byte at the end": (VALID_GZIP[:-8] + b"\0" + VALID_GZIP[-7:], "not a readable tar.gz"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", TAR_BOMBS)
def test_tar_bomb_is_rejected(bomb, watch, read_tar):
    content, words = TAR_BOMBS[bomb]
    assert watch(read_tar, content) is None
    assert words in watch.error


def test_member_with_a_path_is_not_written_to_disk(read_tar, root):
    moved = [(f"../../../{name}", kind, size, content) for name, kind, size, content in valid_members()]
    check_source(read_tar(gzipped(*moved)))  # also asserts that no file was added to the folder
    assert not any((root.parent / name).exists() for name in (BINARY.folder, "batches.meta.txt"))


PICKLES = {
    "a call": b"cposix\nsystem\nX\x07\x00\x00\x00touch x\x85R.",
    "a call by another name": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x08import os\x85R.",
    "an instance": b"(ihostile\nrecord_call\n.",
    "a canary": pickle.dumps(Canary(), 2),
    "canaries as labels": pickle.dumps({b"data": RECORDS[:, 1:], b"labels": [Canary(), Canary()]}, 4),
    "an expansion": b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00el" * 40 + b".",
    "no stop": b"K\x01",
}


@pytest.mark.parametrize("content", PICKLES)
def test_pickle_is_not_executed(content, watch, read_tar, tmp_path):
    """`watch` fails if `pickle` is called at all."""
    folder = tmp_path / PICKLED.folder
    folder.mkdir()
    for name in PICKLED.files:
        (folder / name).write_bytes(PICKLES[content])
    assert watch(cifar.load, folder, Options()) is None
    assert "not the official CIFAR-10 (by the MD5 of data_batch_1, " in watch.error
    assert watch(read_tar, gzipped(*pickled_members(PICKLES[content]))) is None
    assert "no other pickles are read, because they can run code" in watch.error


def test_sparse_file_and_pipe_are_rejected(watch, tmp_path):
    with (tmp_path / "cifar.tar").open("wb") as sparse:
        sparse.truncate(2**40)
    assert watch(cifar.load, tmp_path / "cifar.tar", Options()) is None
    assert f"too large to be CIFAR-10 or CIFAR-100 ({tar.MAX_BYTES} bytes in all)" in watch.error
    os.mkfifo(tmp_path / "cifar.tar.gz")
    assert watch(cifar.load, tmp_path / "cifar.tar.gz", Options()) is None
    assert "not a regular file" in watch.error
    folder = tmp_path / PICKLED.folder
    folder.mkdir()
    for name in PICKLED.files:
        os.mkfifo(folder / name)
    assert cifar.find(folder) is None
    assert watch(cifar.load, folder, Options()) is None
    assert "not a regular file" in watch.error
