"""What `config.dataset` names is found by content: what Keras and torchvision leave on disk, files, and bad paths."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_files import IMAGES, contents, write_folder, write_npz, write_tar

from cifar_flax import data
from cifar_flax.data import archive, tfds
from cifar_flax.errors import BadInput

KERAS_3 = f"{archive.FOLDER}-target"


@pytest.fixture(autouse=True)
def _without_tfds(tmp_path, monkeypatch):
    """Runs in a folder of its own, and fails if TFDS is imported, which takes seconds."""
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds, "_import_tfds", lambda *arguments: pytest.fail("TFDS was imported"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def assert_is_cifar(dataset, data_dir=None):
    source = data.read(dataset, data_dir)
    np.testing.assert_array_equal(source.train.images, IMAGES[:20])
    np.testing.assert_array_equal(source.test.images, IMAGES[20:])


def put(folder, write):
    Path(folder).mkdir(parents=True, exist_ok=True)
    return write(Path(folder), contents())


LAYOUTS = {
    "torchvision": ("root", lambda: put("root", write_folder)),
    "torchvision with the archive": ("./root", lambda: (put("root", write_folder), put("root", write_tar))),
    "archive alone": ("root", lambda: put("root", write_tar)),
    "keras 2": ("datasets/", lambda: put("datasets", write_folder)),
    "keras 2 archive": (
        "datasets",
        lambda: put("datasets", lambda root, files: write_tar(root, files, f"{archive.FOLDER}.tar.gz")),
    ),
    "keras 3": (KERAS_3, lambda: put(KERAS_3, write_folder)),
    "keras 3 archive": (
        f"{KERAS_3}_archive",
        lambda: put(".", lambda root, files: write_tar(root, files, f"{KERAS_3}_archive")),
    ),
    "keras 3 folder": ("datasets", lambda: put(f"datasets/{KERAS_3}", write_folder)),
    "uncompressed": ("cifar.tar", lambda: put(".", lambda root, files: write_tar(root, files, "cifar.tar", "w"))),
    "renamed folder": ("mine", lambda: put(".", write_folder).rename("mine")),
    "renamed archive": ("mine", lambda: put(".", write_tar).rename("mine")),
    "archive of another name": ("mine.npz", lambda: put(".", write_tar).rename("mine.npz")),
    "npz of another name": ("mine", lambda: write_npz(Path()).rename("mine")),
    "npz called tar.gz": ("mine.tar.gz", lambda: write_npz(Path()).rename("mine.tar.gz")),
    "link": ("mine", lambda: Path("mine").symlink_to(put("elsewhere", write_folder).absolute())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_on_disk_is_found_by_content(layout):
    name, write = LAYOUTS[layout]
    write()
    assert_is_cifar(name)
    assert_is_cifar(str(Path(name).absolute()))


def test_half_unpacked_folder_is_passed_over_for_the_archive():
    put("root", write_tar)
    folder = put("root", write_folder)
    (folder / "data_batch_4").unlink()
    assert_is_cifar("root")
    Path("root/cifar-10-python.tar.gz").unlink()
    with pytest.raises(BadInput, match="data_batch_4 cannot be read"):
        data.read("root", None)


def test_copies_share_an_entry_of_the_cache(tmp_path):
    """As in jobs that copy the data to the local disk of a node first."""
    path = put("job1", write_tar)
    shutil.copytree("job1", "job2")
    os.utime("job2/cifar-10-python.tar.gz", (1, 1))
    path.rename("job1/x.tgz")
    for dataset in ("job1/x.tgz", "job2"):
        assert_is_cifar(dataset)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_replaced_file_with_the_same_time_is_read_again():
    folder = put("root", write_folder)
    assert_is_cifar("root")
    meta = folder / archive.META
    stat = meta.stat()
    meta.write_bytes(meta.read_bytes().replace(b"class 0", b"class X"))
    os.utime(meta, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.read("root", None).class_names[0] == "class X"


PATHS = [
    "absent.npz",
    "x/absent.tar.gz",
    "./absent",
    "../absent",
    "/absent",
    "~/absent",
    "a/b/c",
    "absent/",
    "C:\\data\\absent",
    "x/cifar-10-batches-py",
    "cifar-10-batches-py",
    "cifar-10",
    "two words",
    "naïve",
    "file.npz/absent",
    "folder/absent",
]


@pytest.mark.parametrize("name", PATHS)
def test_path_that_does_not_exist_is_reported_at_once(name, tmp_path):
    Path("file.npz").touch()
    Path("folder").mkdir()
    path = Path(name).expanduser().absolute()
    with pytest.raises(BadInput) as raised:
        data.read(name, str(tmp_path))
    assert str(raised.value).startswith(f"config.dataset: {path} does not exist")


UNREADABLE = {
    "folder/": ["the folder", "holds a.png, b\\nb.png, and is not a dataset", "cifar-10-python.tar.gz"],
    "empty/": ["holds nothing"],
    "arrays/": ["holds d.npz", "name the file: ", "arrays/d.npz"],
    "empty.npz": ["empty.npz is not a readable .npz or tar.gz of CIFAR-10: it is empty"],
    "page.tar.gz": ["it is a web page"],
    "array.npy": ["it is a single .npy array; store all arrays in one .npz"],
    "model.pkl": ["it is a pickle"],
    "a.zip": ["it is a file of an unknown kind (it begins with b'[net')"],
    "pipe.npz": ["pipe.npz is neither a file nor a folder"],
    "/dev/null": ["/dev/null is neither a file nor a folder"],
    "loop.npz": ["loop.npz cannot be read (Too many levels of symbolic links)"],
    "x" * 300 + ".npz": ["cannot be read (File name too long)"],
    "new\nline.npz": ["new\\nline.npz does not exist"],
    "a\0b": ["'a\\x00b' cannot be used as a path", "null character"],
    "~no_such_user/d.npz": ["'~no_such_user/d.npz': there is no home folder for '~no_such_user'"],
    "https://host/cifar-10-python.tar.gz": ["is a URL; download it"],
    "gs://bucket/cifar10": ["is a URL; download it"],
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_path_without_a_dataset_is_described_in_one_line(name):
    for folder in ("folder", "empty", "arrays"):
        Path(folder).mkdir()
    for image in ("folder/b\nb.png", "folder/a.png", "arrays/d.npz", "empty.npz"):
        Path(image).touch()
    Path("page.tar.gz").write_text("<!DOCTYPE html>")
    np.save("array.npy", np.zeros(3))
    Path("model.pkl").write_bytes(b"\x80\x04K\x01.")
    Path("a.zip").write_text("[net")
    os.mkfifo("pipe.npz")
    Path("loop.npz").symlink_to("loop.npz")
    with pytest.raises(BadInput) as raised:
        data.read(name, None)
    assert str(raised.value).startswith("config.dataset: ")
    assert str(raised.value).isprintable()
    assert all(word in str(raised.value) for word in UNREADABLE[name]), raised.value


def test_relative_path_in_a_removed_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(
        BadInput, match=r"^config.dataset: 'd\.npz' is relative, and the current folder no longer exists"
    ):
        data.read("d.npz", None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped:3.0.0", "cifar10_corrupted/fog_1", "huggingface:mnist"])
@pytest.mark.parametrize("on_disk", ["nothing", "folder", "file"])
def test_name_is_that_of_a_tfds_dataset_unless_its_path_holds_data(name, on_disk, tmp_path, monkeypatch):
    """A folder of results may have the name of the dataset."""
    if on_disk == "folder":
        Path(name).mkdir(parents=True)
        Path(name, "results.txt").touch()
    elif on_disk == "file":
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("results")
    prepared = tmp_path / name.replace(":", "/") / "3.0.0"
    monkeypatch.setattr(tfds, "_prepared_folder", lambda root, name: prepared)
    monkeypatch.setattr(tfds, "_load", lambda name, folder: (name, folder))
    assert data.read(name, str(tmp_path)) == (name, prepared)


def test_missing_file_of_an_existing_folder_is_no_config_of_tfds():
    Path("photos").mkdir()
    with pytest.raises(BadInput, match=r"photos/train does not exist$"):
        data.read("photos/train", None)
