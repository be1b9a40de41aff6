"""CIFAR-10 and CIFAR-100 as published, in both versions, as folders and archives; and what is no official pickle."""

import pickle
import struct

import numpy as np
import pytest
from data_files import (
    COARSE,
    COARSE_NAMES,
    IMAGES,
    LABELS,
    NAMES,
    OFFICIAL,
    PUBLISHED,
    ROWS,
    cifar_10_binary,
    cifar_10_python,
    cifar_100_binary,
    md5s,
    read,
    write_folder,
    write_npz,
    write_tar,
)

from cifar_flax.data import cifar_versions, tar
from cifar_flax.errors import BadInput

OFFICIAL_MD5 = cifar_versions.OFFICIAL_MD5
CLASS_NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(autouse=True)
def _own_cache_and_official_files(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar_versions, "OFFICIAL_MD5", OFFICIAL)


def assert_is(source, labels=LABELS, names=NAMES):
    for split, rows in ((source.train, slice(20)), (source.test, slice(20, 24))):
        np.testing.assert_array_equal(split.images, IMAGES[rows])
        np.testing.assert_array_equal(split.labels, labels[rows])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert split.images.flags.c_contiguous
    assert source.class_names == tuple(names)


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("folder", PUBLISHED)
def test_published_version_is_read(folder, write, tmp_path, capsys):
    path = write(tmp_path, folder)
    for _ in range(2):  # the second time from the cache
        assert_is(read(path))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("folder", ["cifar-100-python", "cifar-100-binary"])
def test_label_chooses_between_the_labels_of_cifar_100(folder, write, tmp_path):
    path = write(tmp_path, folder)
    for _ in range(2):
        assert_is(read(path, label="coarse"), COARSE, COARSE_NAMES)
        assert_is(read(path, label="fine"))
    with pytest.raises(BadInput, match=r"^config.label: 'super' is not valid; use fine or coarse$"):
        read(path, label="super")


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-10-batches-bin"])
def test_label_of_cifar_10_is_refused(folder, tmp_path):
    with pytest.raises(BadInput, match=r"^config.label: 'coarse' is not valid; leave it unset"):
        read(write_folder(tmp_path, folder), label="coarse")


def test_image_size_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"^config.image_size: 16 is not valid; leave it unset"):
        read(write_tar(tmp_path), image_size=16)


def test_archive_that_was_decompressed_or_packed_again_is_read(tmp_path):
    assert_is(read(write_tar(tmp_path, name="cifar.tar", mode="w")))
    files = dict(sorted(cifar_10_python().items()))
    assert_is(read(write_tar(tmp_path, folder=".", files=files, name="mine.tgz")))


def short(text):
    """A string as pickled by Python 2."""
    return b"U" + bytes([len(text)]) + text


def python_2_meta():
    """batches.meta as its authors wrote it."""
    names = b"".join(short(name) + b"q" + bytes([5 + i]) for i, name in enumerate(CLASS_NAMES))
    return (
        b"\x80\x02}q\x01(" + short(b"num_cases_per_batch") + b"q\x02M\x10'" + short(b"label_names") + b"q\x03]q\x04("
        + names + b"e" + short(b"num_vis") + b"q\x0fM\x00\x0cu."
    )  # fmt: skip


def python_2_batch(rows, labels):
    """A batch as pickled by Python 2's cPickle."""
    content = rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01"
        + b"M" + struct.pack("<H", len(rows)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(content)) + content
    )  # fmt: skip
    items = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}q\x01(" + short(b"labels") + b"q\x02]q\x03(" + items + b"e" + short(b"data") + array + b"tbu."


@pytest.mark.filterwarnings("error")
def test_pickles_of_python_2_are_read(tmp_path, monkeypatch):
    assert md5s({"batches.meta": python_2_meta()}).items() <= OFFICIAL_MD5.items()
    files = {"batches.meta": python_2_meta(), "test_batch": python_2_batch(ROWS[20:], LABELS[20:])}
    files |= {
        f"data_batch_{i + 1}": python_2_batch(ROWS[j : j + 4], LABELS[j : j + 4]) for i, j in enumerate(range(0, 20, 4))
    }
    monkeypatch.setattr(cifar_versions, "OFFICIAL_MD5", md5s(files))
    assert_is(read(write_folder(tmp_path, files=files)), names=[name.decode() for name in CLASS_NAMES])


class Malicious:
    """Its pickle asks for a function to be called."""

    def __reduce__(self):
        return print, ("this must not be run",)


OTHER_PICKLES = {
    "malicious": pickle.dumps(Malicious(), protocol=2),
    "own": pickle.dumps({b"data": ROWS[:4], b"labels": [3, 1, 2, 0]}, protocol=2),
    "truncated": cifar_10_python()["data_batch_2"][:-90],
    "empty": b"",
}


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("content", OTHER_PICKLES)
def test_pickle_that_is_not_official_is_refused_with_the_way_out(content, write, tmp_path, capsys):
    path = write(tmp_path, files=cifar_10_python(data_batch_2=OTHER_PICKLES[content]))
    with pytest.raises(BadInput) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"config.dataset: {path}: not the official CIFAR-10 (by the MD5 of data_batch_2), and")
    assert message.endswith("store your own arrays in a .npz with numpy.savez")
    assert "this must not be run" not in capsys.readouterr().out


def test_only_the_official_files_are_official_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_versions, "OFFICIAL_MD5", OFFICIAL_MD5)
    for folder in ("cifar-10-batches-py", "cifar-100-python"):
        with pytest.raises(BadInput, match=r"not the official CIFAR-100? \(by the MD5 of .*\), and no other pickles"):
            read(write_folder(tmp_path, folder))


def test_file_that_was_replaced_is_not_read_from_the_cache(tmp_path):
    path = write_folder(tmp_path)
    read(path)
    (path / "test_batch").write_bytes(OTHER_PICKLES["malicious"])
    with pytest.raises(BadInput, match="not the official CIFAR-10"):
        read(path)


def test_truncated_or_incomplete_archive_is_rejected(tmp_path):
    path = write_tar(tmp_path)
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) - 4, 300, 12):
        path.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"is not a readable tar.gz or tar, or is truncated"):
            read(path)
    path = write_tar(tmp_path, "cifar-10-batches-bin", name="cifar.tar", mode="w")
    path.write_bytes(path.read_bytes()[: 512 * 3 + 3073])  # cut after the first image, which is a complete record
    with pytest.raises(BadInput, match=r"data_batch_1.bin is cut short"):
        read(path)
    files = cifar_10_python()
    del files["data_batch_5"]
    with pytest.raises(BadInput, match=r"tar.gz: it does not contain data_batch_5 of CIFAR-10$"):
        read(write_tar(tmp_path, files=files))
    with pytest.raises(BadInput, match=r"cifar-10-batches-py is CIFAR-10 without data_batch_5; download it again$"):
        read(write_folder(tmp_path, files=files))
    with pytest.raises(BadInput, match=r"contains neither CIFAR-10 nor CIFAR-100; unpack it, and name the folder$"):
        read(write_tar(tmp_path, files={"cats/1.png": b"\x89PNG"}))


RECORD = cifar_10_binary()["test_batch.bin"][:3073]
BROKEN = {
    "size": (cifar_10_binary(data_batch_3=RECORD + b"x"), "data_batch_3.bin has 3074 bytes, not a multiple of"),
    "empty": (cifar_10_binary(test_batch=b""), "test_batch.bin has 0 bytes, not a multiple of the 3073 of an image"),
    "label": (cifar_10_binary(data_batch_4=b"\x0a" + RECORD[1:]), "data_batch_4.bin has the label 10, but"),
    "names": (cifar_10_binary() | {"batches.meta.txt": b"a\na\n"}, "batches.meta.txt does not list the class names"),
    "no names": (cifar_10_binary() | {"batches.meta.txt": b"\n"}, "batches.meta.txt does not list the class names"),
    "control": (cifar_10_binary() | {"batches.meta.txt": b"a\x1b[2J\n"}, "batches.meta.txt does not list"),
    "coarse": (
        cifar_100_binary() | {"fine_label_names.txt": b"a\nb\n"},
        "train.bin has the label 9, but fine_label_names.txt names only 2 classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_binary_version_is_rejected_with_its_file(fault, write, tmp_path):
    files, words = BROKEN[fault]
    path = write(tmp_path, "cifar-100-binary" if "train.bin" in files else "cifar-10-batches-bin", files)
    with pytest.raises(BadInput) as raised:
        read(path)
    assert str(raised.value).startswith(f"config.dataset: {path}: {words}"), raised.value
    assert str(raised.value).isprintable()


def test_files_that_are_too_large_are_rejected(tmp_path, monkeypatch):
    folder, archive = write_folder(tmp_path), write_tar(tmp_path)
    monkeypatch.setattr(tar, "MAX_BYTES", 50_000)
    for path in (folder, archive):
        with pytest.raises(BadInput, match=r"too large to be CIFAR-10 or CIFAR-100 \(50000 bytes in all\)"):
            read(path)


def test_own_arrays_can_be_stored_as_the_message_says(tmp_path):
    """The way out for pickles that are not read, as the documentation shows it."""
    path = write_folder(tmp_path, files=cifar_10_python(data_batch_2=OTHER_PICKLES["own"]))
    with pytest.raises(BadInput, match=r"store your own arrays in a .npz with numpy.savez"):
        read(path)
    assert_is(read(write_npz(tmp_path, class_names=np.array(NAMES))))
