"""Paths that the system does not even look at, because their names are too long or their folder may not be entered."""

import importlib
import io
import os

import pytest
from processes import SHORT, write_dataset

pytestmark = pytest.mark.medium

TRAINED = ("--config=mlp", *SHORT)
COMMANDS = {  # PATH stands for the path, RUN for the workdir of a finished run, SET for its images
    "dataset": ("main", *TRAINED, "--config.dataset=PATH"),
    "dataset.npz": ("main", *TRAINED, "--config.dataset=PATH.npz"),
    "config": ("main", "--config=PATH.py"),
    "init_from": ("main", *TRAINED, "--config.dataset=SET", "--config.init_from=PATH"),
    "init_from.npz": ("main", *TRAINED, "--config.dataset=SET", "--config.init_from=PATH.npz"),
    "init_from.keras": ("main", *TRAINED, "--config.dataset=SET", "--config.init_from=PATH.keras"),
    "workdir": ("main", *TRAINED, "--config.dataset=SET", "--workdir=PATH"),
    "workdir of a sweep": ("sweep", *TRAINED, "--config.dataset=SET", "--seeds=0", "--workdir=PATH"),
    "workdir of a search": ("tune", *TRAINED, "--config.dataset=SET", "--space=cnn_space", "--workdir=PATH"),
    "space": ("tune", *TRAINED, "--config.dataset=SET", "--space=PATH.py", "--workdir=search"),
    "run": ("evaluate", "--workdir=PATH"),
    "on": ("evaluate", "--workdir=RUN", "--on=PATH"),
    "on.npy": ("evaluate", "--workdir=RUN", "--on=PATH.npy"),
    "dataset of a run": ("evaluate", "--workdir=RUN", "--dataset=PATH"),
    "report": ("evaluate", "--workdir=RUN", "--report=PATH"),
    "folder of a report": ("evaluate", "--workdir=RUN", "--report=PATH/page.html"),
    "reported run": ("report", "PATH"),
    "out": ("report", "RUN", "--out=PATH"),
    "folder of an output": ("report", "RUN", "--out=PATH/page.html"),
    "output": ("export", "--workdir=RUN", "--output=PATH.npz"),
    "picture": ("predict", "--workdir=RUN", "PATH.png"),
    "imported file": ("import_keras", "PATH.keras", "--config=mlp", "--workdir=imported"),
}


def main(module, *arguments):
    return importlib.import_module(f"cifar_flax.{module}").main(arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    images = write_dataset(folder / "images.npz", count=150)  # a multiple of the number of devices
    assert main("main", *TRAINED, f"--config.dataset={images}", f"--workdir={folder / 'run'}") == 0
    return {"RUN": str(folder / "run"), "SET": str(images)}


def forbid(monkeypatch, folder):
    """Lets the system refuse everything below a folder, as it refuses users who may not enter it."""

    def refusing(function):
        def refuse(path, *arguments, **keywords):
            if not isinstance(path, int) and os.fsdecode(path).startswith(f"{folder}{os.sep}"):
                raise PermissionError(13, "Permission denied", os.fsdecode(path))
            return function(path, *arguments, **keywords)

        return refuse

    for name in ("stat", "lstat", "mkdir", "open", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(io, "open", refusing(io.open))


@pytest.mark.parametrize("kind", ["long", "forbidden"])
@pytest.mark.parametrize("command", COMMANDS)
def test_path_that_cannot_be_looked_at_is_named_in_one_line(command, kind, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("x" * 300) if kind == "long" else tmp_path / "locked" / "x"
    module, *arguments = COMMANDS[command]
    for word, value in {"PATH": str(path), **run}.items():
        arguments = [argument.replace(word, value) for argument in arguments]
    if kind == "forbidden":
        (tmp_path / "locked").mkdir()
        forbid(monkeypatch, tmp_path / "locked")
    capsys.readouterr()
    assert main(module, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert str(path) in captured.err
