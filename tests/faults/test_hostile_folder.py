"""Folders of pictures with damaged files, odd names, links, pipes, and folders that may not be listed."""

import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile import examples, mutated
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cifar_flax.data import Options, folder

pytestmark = pytest.mark.medium

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def encoded(mode, format, size=(8, 8)):
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).resize(size).save(content, format)
    return content.getvalue()


VALID = [encoded("RGB", "png"), encoded("L", "png"), encoded("RGB", "jpeg"), encoded("RGB", "tiff")]
VALID += [encoded("P", "gif"), encoded("RGBA", "png", (9, 5)), encoded("RGB", "webp", (40, 8))]
FOLDERS = [
    "train",
    "test",
    "val",
    "Validation",
    "a",
    "b",
    "c.png",
    " ",
    "-",
    "\n",
    "é",
    "e\u0301",
    "\udcff",
    "%s{}",
    "~",
]
FOLDERS += ["x" * 101, ".hidden", "__MACOSX", "\u202e", "..a"]
FILES = [
    "0.png",
    "1.JPEG",
    "2.tif",
    "\n.png",
    "\udcff.gif",
    "x" * 250 + ".png",
    ".png",
    "._0.png",
    "Thumbs.db",
    "notes.txt",
]
FILES += ["no suffix", "a.heic", "b.ppm", " .webp", "-o.png", "$(touch x).png"]
TARGETS = [".", "..", "../..", "/", "itself", "/dev/zero", "/dev/stdin", "../b", "missing", "/proc/self/fd", "\udcff"]
KINDS = st.one_of(
    st.tuples(st.just("file"), mutated(VALID)),
    st.tuples(st.just("file"), st.sampled_from([*VALID, b"", b"text"])),
    st.tuples(st.just("link"), st.sampled_from(TARGETS)),
    st.tuples(st.sampled_from(["folder", "pipe"]), st.none()),
)
PATHS = st.builds(
    lambda folders, name: "/".join([*folders, name]),
    st.lists(st.sampled_from(FOLDERS), max_size=3),
    st.sampled_from(FOLDERS + FILES),
)
LAYOUTS = [
    (),
    ("a/0.png", "b/0.png"),
    ("train/a/0.png", "train/b/0.png"),
    ("train/a/0.png", "train/b/0.png", "test/a/0.png", "val/b/0.png"),
]


def make(path, kind, content):
    """Makes a file, link, folder or pipe, unless the path exists or is not possible."""
    with contextlib.suppress(OSError):
        if path.exists():
            return
        if kind == "file":
            path.write_bytes(content)
        elif kind == "link":
            path.symlink_to(content)
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)


def make_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path, "file", VALID[0])


def read(root, image_size):
    path = folder.find(root)
    return path and folder.load(path, Options(image_size=image_size))


def check(source, image_size):
    splits = [split for split in (source.train, source.test, source.validation) if split is not None]
    shape = source.train.images.shape[1:]
    assert shape[:2] == (image_size, image_size) or image_size is None
    assert shape[2] in (1, 3)
    for split in splits:
        assert split.images.shape == (len(split.labels), *shape)
        assert split.images.dtype == np.uint8
        assert set(split.labels) <= set(range(len(source.class_names)))
    assert set(source.train.labels) == set(range(len(source.class_names)))


@given(
    st.sampled_from(LAYOUTS),
    st.lists(st.tuples(PATHS, KINDS), min_size=1, max_size=4),
    st.sampled_from([None, None, 1, 8, 20]),
)
@examples(1)
def test_folder_is_read_or_rejected_in_one_line(watch, tmp_path_factory, capfd, layout, entries, image_size):
    root = tmp_path_factory.mktemp("folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_FLAX_CACHE", str(root / "cache"))
        (root / "pets").mkdir()
        for path in layout:
            make_picture(root / "pets" / path)
        for path, _ in entries:  # before the links, through which files elsewhere would be written
            with contextlib.suppress(OSError):
                (root / "pets" / path).parent.mkdir(parents=True, exist_ok=True)
        for path, (kind, content) in sorted(entries, key=lambda entry: entry[1][0] == "link"):
            make(root / "pets" / path, kind, content)
        source = watch(read, root / "pets", image_size)
    shutil.rmtree(root)
    if source is not None:
        check(source, image_size)
    assert all(line.startswith("config.dataset: ") for line in capfd.readouterr().err.splitlines())


@pytest.mark.parametrize("forbidden", ["pets", "train", "a", "below"])
def test_folder_that_may_not_be_listed_is_rejected(forbidden, watch, tmp_path, monkeypatch):
    for path in ("train/a/0.png", "train/a/below/1.png", "train/b/0.png"):
        make_picture(tmp_path / "pets" / path)

    def refusing(function):
        def refuse(path="."):
            if Path(path).name == forbidden:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path)

        return refuse

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert watch(folder.load, tmp_path / "pets", Options()) is None
    assert forbidden in watch.error


def test_a_file_that_is_named_like_a_class_is_not_one(watch, tmp_path):
    make_picture(tmp_path / "train" / "a" / "0.png")
    make_picture(tmp_path / "train" / "b")
    assert watch(read, tmp_path, None).class_names == ("a",)


@pytest.mark.parametrize("target", ["/", ".", "..", "/proc/self/root"])
def test_class_folder_that_leads_upward_is_ignored(target, watch, tmp_path):
    make_picture(tmp_path / "train" / "a" / "0.png")
    make(tmp_path / "train" / "b", "link", target)
    assert watch(read, tmp_path, None).class_names == ("a",)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "missing", "itself.png"])
def test_link_to_what_is_no_file_is_rejected(target, watch, tmp_path):
    make_picture(tmp_path / "a" / "0.png")
    make(tmp_path / "a" / "itself.png", "link", target)
    assert watch(read, tmp_path, None) is None
    assert "itself.png: not a readable image" in watch.error
