"""What `config.dataset` names is found by content: what Keras and torchvision leave on disk, files, and bad paths."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import IMAGES, OFFICIAL, cifar_10_python, read, write_folder, write_npz, write_tar

from cifar_flax.data import cifar_versions, folder, is_path, parquet, tfds
from cifar_flax.errors import BadInput

FOLDER_10, FOLDER_100 = "cifar-10-batches-py", "cifar-100-python"


@pytest.fixture(autouse=True)
def _without_tfds(tmp_path, monkeypatch):
    """Runs in a folder of its own, and fails if TFDS is imported, which takes seconds."""
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar_versions, "OFFICIAL_MD5", OFFICIAL)
    monkeypatch.setattr(tfds, "_import_tfds", lambda *arguments: pytest.fail("TFDS was imported"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def assert_is_cifar(dataset):
    source = read(dataset)
    np.testing.assert_array_equal(source.train.images, IMAGES[:20])
    np.testing.assert_array_equal(source.test.images, IMAGES[20:])


def put_keras_2(name):
    """The archive and the folder that Keras 2 leaves in ~/.keras/datasets."""
    write_tar("datasets", name, name=f"{name}.tar.gz")
    write_folder("datasets", name)


def put_keras_3(name):
    write_tar("datasets", name, name=f"{name}-target_archive")
    write_folder(f"datasets/{name}-target", name)


LAYOUTS = {
    "torchvision": ("root", lambda: write_folder("root")),
    "torchvision with the archive": ("./root", lambda: (write_folder("root"), write_tar("root"))),
    "torchvision, CIFAR-100": ("root", lambda: (write_folder("root", FOLDER_100), write_tar("root", FOLDER_100))),
    "archive alone": ("root", lambda: write_tar("root")),
    "binary version": ("root", lambda: write_folder("root", "cifar-10-batches-bin")),
    "binary archive": ("root", lambda: write_tar("root", "cifar-100-binary")),
    "keras 2": ("datasets/", lambda: put_keras_2(FOLDER_10)),
    "keras 2, CIFAR-100": ("datasets", lambda: put_keras_2(FOLDER_100)),
    "keras 2 archive": ("datasets", lambda: write_tar("datasets", name=f"{FOLDER_10}.tar.gz")),
    "keras 3": ("datasets", lambda: put_keras_3(FOLDER_10)),
    "keras 3, CIFAR-100": ("datasets", lambda: put_keras_3(FOLDER_100)),
    "keras 3 target": (f"datasets/{FOLDER_10}-target", lambda: put_keras_3(FOLDER_10)),
    "keras 3 archive": (f"datasets/{FOLDER_100}-target_archive", lambda: put_keras_3(FOLDER_100)),
    "keras 3 folder": ("datasets", lambda: write_folder(f"datasets/{FOLDER_10}-target")),
    "uncompressed": ("cifar.tar", lambda: write_tar(".", name="cifar.tar", mode="w")),
    "uncompressed in a folder": ("root", lambda: write_tar("root", name="mine", mode="w")),
    "renamed folder": ("mine", lambda: write_folder(".").rename("mine")),
    "renamed archive": ("mine", lambda: write_tar(".").rename("mine")),
    "archive of another name": ("mine.npz", lambda: write_tar(".").rename("mine.npz")),
    "npz of another name": ("mine", lambda: write_npz(Path()).rename("mine")),
    "npz called tar.gz": ("mine.tar.gz", lambda: write_npz(Path()).rename("mine.tar.gz")),
    "link": ("mine", lambda: Path("mine").symlink_to(write_folder("elsewhere").absolute())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_on_disk_is_found_by_content(layout):
    name, write = LAYOUTS[layout]
    write()
    assert_is_cifar(name)
    assert_is_cifar(str(Path(name).absolute()))


def test_other_entries_of_a_folder_do_not_matter():
    write_folder("root")
    Path("root/lost+found").mkdir(mode=0)
    Path("root/figures").mkdir()
    for name in ("notes.txt", "figures/loss.png", "model.tar.gz", "set.zip"):
        Path("root", name).write_bytes(b"\x1f\x8b")
    os.mkfifo("root/pipe")
    Path("root/link").symlink_to("nowhere")
    assert_is_cifar("root")


def test_half_unpacked_folder_is_passed_over_for_the_archive():
    write_tar("root")
    folder = write_folder("root")
    (folder / "data_batch_4").unlink()
    assert_is_cifar("root")
    Path("root/cifar-10-python.tar.gz").unlink()
    for dataset in ("root", "root/cifar-10-batches-py"):
        with pytest.raises(
            BadInput, match=r"root/cifar-10-batches-py is CIFAR-10 without data_batch_4; download it again$"
        ):
            read(dataset)


def test_several_datasets_in_a_folder_are_listed():
    write_folder("root", FOLDER_10)
    write_tar("root", FOLDER_10)
    write_tar("root", FOLDER_100)
    write_folder("root", "cifar-10-batches-bin")
    with pytest.raises(BadInput) as raised:
        read("root")
    names = "cifar-10-batches-bin, cifar-10-batches-py, cifar-100-python.tar.gz"
    root = Path("root").absolute()
    assert str(raised.value) == f"config.dataset: {root} holds 3 datasets; name one of them: {names}"


def test_prepared_folder_of_tfds_is_found_one_level_down(monkeypatch):
    monkeypatch.setattr(tfds, "_load", lambda name, folder, options: (folder, options.label))
    prepared = Path("root/cifar100/3.0.2").absolute()
    prepared.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (prepared / name).touch()
    for dataset in ("root", "root/cifar100", "root/cifar100/3.0.2"):
        assert read(dataset, label="coarse") == (prepared, "coarse")


def test_other_readers_are_asked_after_those_of_cifar(monkeypatch):
    for module in (parquet, folder):
        monkeypatch.setattr(module, "find", lambda path: path if path.name == "mine" else None)
    monkeypatch.setattr(parquet, "load", lambda path, options: ("parquet", path.name))
    monkeypatch.setattr(folder, "load", lambda path, options: ("pictures", path.name))
    Path("root/mine/train").mkdir(parents=True)
    assert read("root/mine") == read("root") == ("parquet", "mine")
    monkeypatch.setattr(parquet, "find", lambda path: None)
    assert read("root/mine") == read("root") == ("pictures", "mine")
    write_folder("root/mine")
    assert read("root/mine") == ("pictures", "mine")
    write_folder(".", files=cifar_10_python()).rename("root/mine/x")
    Path("shard").write_bytes(b"PAR1")
    assert read("shard") == ("parquet", "shard")


def test_copies_share_an_entry_of_the_cache(tmp_path):
    """As in jobs that copy the data to the local disk of a node first."""
    path = write_tar("job1")
    shutil.copytree("job1", "job2")
    os.utime("job2/cifar-10-python.tar.gz", (1, 1))
    path.rename("job1/x.tgz")
    for dataset in ("job1/x.tgz", "job2"):
        assert_is_cifar(dataset)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_replaced_file_with_the_same_time_is_read_again():
    names = write_folder("root", "cifar-10-batches-bin") / "batches.meta.txt"
    assert_is_cifar("root")
    stat = names.stat()
    names.write_bytes(names.read_bytes().replace(b"class 0", b"class X"))
    os.utime(names, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read("root").class_names[0] == "class X"


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
        read(name, data_dir=str(tmp_path))
    assert str(raised.value).startswith(f"config.dataset: {path} does not exist")


UNREADABLE = {
    "folder/": ["the folder", "holds b\\nb.txt, notes.md, and is not a dataset", "config.dataset can be a folder of"],
    "empty/": ["holds nothing", "cifar-10-python.tar.gz"],
    "arrays/": ["holds d.npz", "name the file: ", "arrays/d.npz"],
    "empty.npz": ["empty.npz is not a dataset: it is empty"],
    "page.tar.gz": ["it is a web page"],
    "array.npy": ["it is a single .npy array; store all arrays in one .npz"],
    "model.pkl": ["it is a pickle, which could run code; name the folder if it is CIFAR-10 or CIFAR-100, otherwise"],
    "a.zip": ["it is a file of an unknown kind (it begins with b'[net')"],
    "b.zip": ["it is a zip without arrays; unpack it, and name the folder"],
    "a.h5": ["it is an HDF5 file; store its arrays in a .npz with numpy.savez"],
    "a.arrow": ["it is an Arrow file; store it as .parquet"],
    "a.png": ["it is a single picture; name the folder that holds train/CLASS"],
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
    for folder_name in ("folder", "empty", "arrays"):
        Path(folder_name).mkdir()
    for file in ("folder/b\nb.txt", "folder/notes.md", "arrays/d.npz", "empty.npz"):
        Path(file).touch()
    Path("page.tar.gz").write_text("<!DOCTYPE html>")
    np.save("array.npy", np.zeros(3))
    Path("model.pkl").write_bytes(pickle.dumps(1))
    Path("a.zip").write_text("[net")
    with zipfile.ZipFile("b.zip", "w") as stored:
        stored.writestr("notes.md", "")
    for file, start in (("a.h5", b"\x89HDF\r\n"), ("a.arrow", b"ARROW1"), ("a.png", b"\x89PNG\r\n")):
        Path(file).write_bytes(start)
    os.mkfifo("pipe.npz")
    Path("loop.npz").symlink_to("loop.npz")
    with pytest.raises(BadInput) as raised:
        read(name)
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
        read("d.npz")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["cifar10", "svhn_cropped:3.0.0", "cifar10:*.*.*", "cifar10_corrupted/fog_1", "huggingface:mnist"]
)
def test_name_is_that_of_a_tfds_dataset_if_it_is_no_path(name, tmp_path, monkeypatch):
    prepared = tmp_path / name.replace(":", "/") / "3.0.0"
    monkeypatch.setattr(tfds, "_prepared_folder", lambda root, name: prepared)
    monkeypatch.setattr(tfds, "_load", lambda name, folder, options: (name, folder))
    assert read(name, data_dir=str(tmp_path)) == (name, prepared)
    assert not is_path(name)


@pytest.mark.parametrize("on_disk", ["folder", "file", "dangling link"])
def test_path_that_exists_is_never_a_name_of_tfds(on_disk, tmp_path, monkeypatch):
    """A folder of results may have the name of the dataset."""
    prepared = tmp_path / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    monkeypatch.setattr(tfds, "_load", lambda name, folder, options: (name, folder))
    if on_disk == "folder":
        Path("cifar10").mkdir()
        Path("cifar10/results.txt").touch()
    elif on_disk == "file":
        Path("cifar10").write_text("results")
    else:
        Path("cifar10").symlink_to("nowhere")
    assert is_path("cifar10")
    with pytest.raises(BadInput) as raised:
        read("cifar10", data_dir=str(tmp_path))
    described = {"folder": "holds results.txt, and is not", "file": "not a dataset", "dangling link": "does not exist"}
    assert str(Path("cifar10").absolute()) in str(raised.value)
    assert described[on_disk] in str(raised.value)
    assert str(raised.value).endswith("; for the TFDS dataset of this name, use cifar10:*.*.*")
    assert read("cifar10:*.*.*", data_dir=str(tmp_path)) == ("cifar10:*.*.*", prepared)


def test_folder_of_a_run_may_have_the_name_of_its_tfds_dataset():
    """`--workdir=cifar10` creates it before the dataset is read."""
    Path("cifar10").mkdir()
    Path("cifar10/.lock").touch()
    assert not is_path("cifar10")


def test_missing_file_of_an_existing_folder_is_no_config_of_tfds():
    Path("photos").mkdir()
    with pytest.raises(BadInput, match=r"photos/train does not exist$"):
        read("photos/train")
