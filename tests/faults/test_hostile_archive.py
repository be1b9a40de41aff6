"""Malicious and damaged archives: pickles that are programs, and tars and gzips of unbounded size."""

import gzip
import hashlib
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from hostile import Canary, examples, mutated
from hypothesis import example, given
from hypothesis import strategies as st

from cifar_flax.data import Source, Split, archive, pickles, read

pytestmark = pytest.mark.medium

ROWS = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
BATCH = {b"batch_label": b"a batch", b"labels": [3, 8], b"data": ROWS, b"filenames": [b"a.png", b"b.png"]}
NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("archive")


def short(text):
    """A string as pickled by Python 2."""
    return b"U" + bytes([len(text)]) + text


def official_meta():
    """batches.meta as written by its authors."""
    names = b"".join(short(name) + b"q" + bytes([5 + i]) for i, name in enumerate(NAMES))
    return (
        b"\x80\x02}q\x01(" + short(b"num_cases_per_batch") + b"q\x02M\x10'" + short(b"label_names") + b"q\x03]q\x04("
        + names + b"e" + short(b"num_vis") + b"q\x0fM\x00\x0cu."
    )  # fmt: skip


def official_batch(rows, labels):
    """A batch as pickled by cPickle of Python 2."""
    data = rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01"
        + b"M" + struct.pack("<H", len(rows)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    )  # fmt: skip
    items = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}q\x01(" + short(b"labels") + b"q\x02]q\x03(" + items + b"e" + short(b"data") + array + b"u."


def read_batch(content):
    return archive._batch("PATH", "data_batch_1", content, 10)


def check(split):
    """A result that is not None is a valid batch."""
    if split is not None:
        assert isinstance(split, Split)
        assert split.images.shape == (len(split), 32, 32, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert 0 <= split.labels.min() <= split.labels.max() < 10


def test_official_pickles_are_read():
    assert hashlib.md5(official_meta()).hexdigest() == archive.MD5[archive.META]
    assert pickles.loads(official_meta()) == {b"num_cases_per_batch": 10_000, b"label_names": NAMES, b"num_vis": 3072}
    split = read_batch(official_batch(ROWS, [3, 8]))
    np.testing.assert_array_equal(split.images, ROWS.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert split.labels.tolist() == [3, 8]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_python_3_are_read(protocol, order):
    pickled = pickle.dumps(BATCH | {b"data": np.asarray(ROWS, order=order)}, protocol)
    np.testing.assert_array_equal(pickles.loads(pickled)[b"data"], ROWS)
    assert read_batch(pickled).labels.tolist() == [3, 8]


def array_of(dtype, shape, content):
    """A pickled array with the given dtype, shape and content."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88\x87R\x89" + content + b"tb"
    )  # fmt: skip


def nested_tuples(depth):
    """A tuple that a traversal expands to 2**depth items."""
    return b"K\x01" + b"q\x00h\x00\x86" * depth


REPEATED_CALL = b"h\x01h\x02h\x03\x86R" * 20_000
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
HUGE = b"\x8a\x08" + struct.pack("<q", 2**62)
ENCODED = b"c_codecs\nencode\nq\x01" + b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x02X\x06\x00\x00\x00"
BOMBS = {
    "a memo for 2 billion objects": b"Nr\xff\xff\xff\x7f.",
    "a terabyte of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "a terabyte of text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
    "a terabyte in a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "bytes of negative length": b"T\xff\xff\xff\xff.",
    "an integer with a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "an integer of a million bytes": b"\x8b" + struct.pack("<I", 1_000_000) + b"\x77" * 1_000_000 + b".",
    "nested lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "a list that contains itself": b"]" + b"q\x00h\x00a" * 60_000 + b".",
    "too many lists": b"](" + b"]" * 1_000_000 + b"e.",
    "a dictionary key with an exponential hash time": b"}" + nested_tuples(60) + b"K\x01s.",
    "nested labels": b"}X\x06\x00\x00\x00labels" + nested_tuples(60) + b"s.",
    "one string encoded many times": b"](" + ENCODED + b"latin1q\x03\x86R" + REPEATED_CALL + b"e.",
    "another codec": ENCODED + b"rot-13\x86R.",
    "a huge array without content": ARRAY + HUGE + b"\x85C\x01b\x87R.",
    "a huge shape": array_of(b"u1", HUGE + b"\x85", b"C\x01x"),
    "a shape that overflows": array_of(b"u1", HUGE * 3 + b"\x87", b"C\x01x"),
    "a shape with 100 axes": array_of(b"u1", b"(" + b"K\x01" * 100 + b"t", b"C\x01x"),
    "objects": array_of(b"O8", b"K\x01\x85", b"](K\x01e"),
    "bytes as objects": array_of(b"O8", b"K\x01\x85", b"C\x08" + b"x" * 8),
    "a record dtype": array_of(b"u1,O", b"K\x01\x85", b"C\x09" + b"x" * 9),
    "a call": b"cposix\nsystem\nX\x07\x00\x00\x00touch x\x85R.",
    "a call by another name": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x08import os\x85R.",
    "a call of record_call": b"\x80\x04\x8c\x07hostile\x8c\x0brecord_call\x93)R.",
    "an instance": b"(ihostile\nrecord_call\n.",
    "an object": b"(chostile\nrecord_call\no.",
    "a class": b"cnumpy\nndarray\nK\x01\x85\x81.",
    "an attribute": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    "a dictionary as state": b"cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.",
    "an extension": b"\x82\x01.",
    "a persistent ID": b"Pelsewhere\n.",
    "a canary": pickle.dumps(Canary(), 2),
    "canaries as labels": pickle.dumps(BATCH | {b"labels": [Canary(), Canary()]}, 4),
    "booleans as labels": pickle.dumps(BATCH | {b"labels": [True, False]}, 2),
    "an empty stack": b".",
    "no stop": b"K\x01",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickle_bomb_is_rejected(bomb, watch):
    assert watch(read_batch, BOMBS[bomb]) is None
    assert "data_batch_1" in watch.error


VALID = [official_batch(ROWS[:1], [3]), *(pickle.dumps(BATCH, protocol) for protocol in (2, 3, 4))]


@given(mutated(VALID))
@examples(0.25)
def test_damaged_batch_is_read_or_rejected(watch, content):
    check(watch(read_batch, content))


def numbered(code, size):
    return st.integers(0, 256**size - 1).map(lambda number: code + number.to_bytes(size, "little"))


def counted(code, size):
    """Bytes after their length, which is mostly right."""
    lengths = st.sampled_from([0, 0, 0, 0, 1, 2**31, 2**40])
    return st.tuples(st.sampled_from([b"u1", b"latin1", b"data", b"labels", b"x" * 30]), lengths).map(
        lambda drawn: code + ((len(drawn[0]) + drawn[1]) % 256**size).to_bytes(size, "little") + drawn[0]
    )


def named(code):
    names = ["posix\nsystem", "builtins\nexec", "hostile\nrecord_call", "_codecs\nencode", "numpy\ndtype"]
    names += [
        "numpy\nndarray",
        "numpy.core.multiarray\n_reconstruct",
        "numpy.core.multiarray\nscalar",
        "os\nsystem\n",
        "\n",
    ]
    return st.sampled_from([code + name.encode() + b"\n" for name in names])


PLAIN = [b"N", b"\x88", b"\x89", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R"]
PLAIN += [b"b", b"\x94", b"\x93", b"\x81", b"o", b"0", b"1", b"2", b"d", b"l", b"\x8f", b"\x90", b"\x91", b"Q", b"."]
FILLED = array_of(b"u1", b"K\x01M\x00\x0c\x86", b"B\x00\x0c\x00\x00" + bytes(3072))
SEQUENCES = [
    b"}X\x06\x00\x00\x00labels](K\x01es",
    b"c_codecs\nencode\nX\x04\x00\x00\x00dataX\x06\x00\x00\x00latin1\x86R",
    FILLED,
]
NUMBERED = [(b"K", 1), (b"M", 2), (b"J", 4), (b"q", 1), (b"r", 4), (b"h", 1), (b"j", 4)]
COUNTED = [(b"U", 1), (b"T", 4), (b"X", 4), (b"C", 1), (b"B", 4), (b"\x8a", 1), (b"\x8b", 4)]
COUNTED += [(b"\x8c", 1), (b"\x8d", 8), (b"\x8e", 8), (b"\x96", 8), (b"\x95", 8)]
INSTRUCTIONS = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(SEQUENCES),
    *(numbered(code, size) for code, size in NUMBERED),
    *(counted(code, size) for code, size in COUNTED),
    *(named(code) for code in (b"c", b"i")),
)


@given(st.lists(INSTRUCTIONS, max_size=40).map(b"".join))
@examples(0.25)
def test_arbitrary_pickle_is_read_or_rejected(watch, program):
    check(watch(read_batch, program + b"."))


def tar(members, ending=bytes(1024)):
    """A tar of members (name, type, claimed size, content)."""
    blocks = []
    for name, kind, size, content in members:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        blocks += [bytes(header[-tarfile.BLOCKSIZE :]), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
    return b"".join(blocks) + ending


def valid_members():
    """The seven files with small batches."""
    contents = {name: official_batch(ROWS, [3, 8]) for name in (*archive.TRAIN, archive.TEST)}
    contents[archive.META] = official_meta()
    return [(f"{archive.FOLDER}/{name}", tarfile.REGTYPE, len(text), text) for name, text in contents.items()]


@pytest.fixture(scope="module")
def read_tar(root):
    """A function that decodes a tar.gz, or a plain tar, with the given content."""

    def read(content):
        path = root / "cifar-10-python.tar.gz"
        path.write_bytes(content)
        source = archive._decode(path)
        assert os.listdir(root) == [path.name]  # noqa: PTH208
        return source

    return read


def check_source(source):
    if source is not None:
        assert isinstance(source, Source)
        check(source.train)
        check(source.test)
        assert len(source.class_names) == 10


TARS = [tar(valid_members()), tar([*valid_members(), (archive.FOLDER, tarfile.DIRTYPE, 0, b"")])]
FAST = {"compresslevel": 1, "mtime": 0}


@given(mutated(TARS))
@example(TARS[0])
@examples(0.15)
def test_damaged_tar_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, gzip.compress(content, **FAST)))


@given(mutated(TARS))
@example(TARS[0])
@examples(0.05)
def test_damaged_uncompressed_tar_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, content))


def test_uncompressed_tar_is_read(read_tar, capsys):
    check_source(read_tar(TARS[0]))
    assert "not the official content" in capsys.readouterr().err  # of the files; the archive is not compared


def test_archive_that_is_too_large_is_not_hashed(watch, tmp_path):
    with (tmp_path / "cifar.tar").open("wb") as sparse:
        sparse.truncate(2**40)
    assert watch(archive.load, tmp_path / "cifar.tar") is None
    assert f"not a regular file of at most {archive.MAX_TAR_BYTES} bytes" in watch.error


@given(mutated([gzip.compress(content, mtime=0) for content in TARS]))
@examples(0.1)
def test_damaged_gzip_is_read_or_rejected(watch, read_tar, content):
    check_source(watch(read_tar, content))


KINDS = [tarfile.REGTYPE] * 4 + [tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
KINDS += [tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"?"]
MEMBER_NAMES = st.sampled_from(
    [*archive.MD5, f"../../{archive.META}", f"/etc/{archive.META}", "x\x1b[2J", "a\nb", "", "é"]
)
SIZES = st.one_of(st.integers(0, 3000), st.sampled_from([-1, -512, 2**33, 2**62, 2**87, archive.MAX_FILE_BYTES + 1]))
RECORDS = st.sampled_from(
    [b"30 size=99999999999999999999\n", b"13 size=-512\n", b"9" * 900, b"22 GNU.sparse.major=1\n", b"x"]
)
MEMBERS = st.one_of(
    st.tuples(MEMBER_NAMES, st.sampled_from(KINDS), SIZES, RECORDS),
    st.tuples(MEMBER_NAMES, st.sampled_from(KINDS), st.just(900), st.just(b"9" * 900)),
)


@given(
    st.lists(MEMBERS, max_size=5),
    st.sampled_from([bytes(1024), b"", bytes(512), b"x" * 700, bytes(100_000)]),
    st.booleans(),
)
@examples(0.2)
def test_arbitrary_tar_is_read_or_rejected(watch, read_tar, members, ending, complete):
    check_source(watch(read_tar, gzip.compress(tar(members, b"") + tar(valid_members() * complete, ending), **FAST)))


def zeros(mib):
    """Gzipped zeros, `mib` MiB of them."""
    return gzip.compress(bytes(2**24), **FAST) * (mib // 16)


def gzipped(*members, ending=bytes(1024)):
    return gzip.compress(tar(members, ending), **FAST)


FILE = ("data_batch_1", tarfile.REGTYPE)
OTHER = ("x", tarfile.REGTYPE)
VALID_GZIP = gzipped(*valid_members())
TAR_BOMBS = {
    "a member of 256 MiB": (gzipped((*OTHER, 2**28 - 2048, b""), ending=b"") + zeros(512), "does not contain"),
    "a member of exabytes": (gzipped((*OTHER, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "a batch of exabytes": (gzipped((*FILE, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "a batch that is too large": (gzipped((*FILE, archive.MAX_FILE_BYTES + 1, b""), ending=b"") + zeros(128), "claims"),
    "a member of negative size": (gzipped((*OTHER, -1024, b"")), "claims -1024"),
    "only zeros": (zeros(1024), "does not contain"),
    "too many members": (gzipped(*[(*OTHER, 0, b"")] * 5_000), "more than"),
    "too many extended headers": (gzipped(*[("x", tarfile.XHDTYPE, 0, b"")] * 5_000), "more than"),
    "a name of exabytes": (gzipped(("x", tarfile.GNUTYPE_LONGNAME, 2**62, b""), ending=b"") + zeros(16), "claims"),
    "an extended header of digits": (gzipped(("x", tarfile.XHDTYPE, 10**7, b"9" * 10**7)), "does not contain"),
    "one file twice": (gzipped(*valid_members(), valid_members()[0]), "twice"),
    "a link": (gzipped((archive.META, tarfile.SYMTYPE, 0, b"")), "does not contain"),
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
    source = read_tar(gzipped(*moved))  # also asserts that no file was added to the folder
    assert source.class_names[0] == "airplane"
    assert not any((root.parent / name).exists() for name in (archive.FOLDER, archive.META))


def test_differences_from_the_official_archive_are_reported(read_tar, monkeypatch, capsys):
    content = gzipped(*valid_members())
    monkeypatch.setattr(
        archive, "MD5", {name.split("/")[1]: hashlib.md5(text).hexdigest() for name, _, _, text in valid_members()}
    )
    read_tar(content)
    assert capsys.readouterr().err.endswith(
        "cifar-10-python.tar.gz: not the official content (md5): the archive itself\n"
    )
    monkeypatch.setattr(archive, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
    read_tar(content)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b""],
        [b"a", b"a"],
        [b"a\nb"],
        [b"\x1b[2J"],
        [b"x" * 1000],
        [str(i).encode() for i in range(20_000)],
        [1],
        {},
    ],
)
def test_invalid_class_names_are_rejected(names, watch, read_tar):
    meta = pickle.dumps({b"label_names": names}, 3)
    members = [member for member in valid_members() if archive.META not in member[0]]
    assert watch(read_tar, gzipped(*members, (archive.META, tarfile.REGTYPE, len(meta), meta))) is None
    assert "batches.meta does not list the class names" in watch.error


def test_pipe_does_not_block(watch, tmp_path):
    os.mkfifo(tmp_path / "cifar.tar.gz")
    assert watch(archive.load, tmp_path / "cifar.tar.gz") is None
    assert "not a regular file of at most" in watch.error
    assert watch(read, str(tmp_path / "cifar.tar.gz"), None) is None
    assert "neither a file nor a folder" in watch.error
    folder = tmp_path / archive.FOLDER
    folder.mkdir()
    for name in archive.MD5:
        os.mkfifo(folder / name)
    assert watch(archive.load, folder) is None
    assert "not a regular file of at most" in watch.error
