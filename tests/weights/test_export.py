"""The command export on a finished run, in all formats."""

import errno
import json
import os
import sys
from pathlib import Path
from textwrap import indent

import jax.export
import numpy as np
import processes
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.special import softmax

from cifar_flax import export, inference, train
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run
from cifar_flax.workdir import checksums, output

pytestmark = pytest.mark.medium

FILES = ["README.md", "network.jax_export", "network.json"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(autouse=True)
def run(workdir, tiny_config, tiny_dataset, monkeypatch):
    """The content of run.json of a finished run in `workdir`."""
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    tiny_config.normalize = True
    return train.train_and_evaluate(tiny_config, workdir, jax.devices()[:1])


def exported(workdir, *arguments):
    assert export.main(["--workdir", str(workdir), *map(str, arguments)]) == 0


def refused(capsys, workdir, *arguments):
    """The line that the command prints."""
    capsys.readouterr()
    assert export.main(["--workdir", str(workdir), *map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_safetensors_holds_the_arrays_of_the_npz_and_what_is_known_of_the_run(workdir, run, capsys):
    exported(workdir)
    exported(workdir, "--format=safetensors")
    assert f"{workdir / 'parameters.safetensors'}: 10 arrays, " in capsys.readouterr().out
    arrays = load_file(workdir / "parameters.safetensors")
    with np.load(workdir / "parameters.npz") as stored:
        assert sorted(arrays) == sorted(stored)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, stored[name], strict=True)
    with safe_open(workdir / "parameters.safetensors", "numpy") as stored:
        metadata = stored.metadata()
    assert json.loads(metadata["class_names"]) == ["dark", "middle", "light"]
    assert json.loads(metadata["image_shape"]) == [8, 8, 3]
    assert "uint8 / 255" in metadata["input"]
    assert "the network standardizes them itself (batch_stats/normalize)" in metadata["input"]
    assert float(metadata["validation_accuracy"]) == run["best_validation_accuracy"]
    assert float(metadata["test_accuracy"]) == run["test_accuracy"]
    assert f"jax {jax.__version__}" in metadata["framework"]
    assert (metadata["model"], metadata["experiment"], metadata["license"]) == ("tiny", "tiny", "")


def test_unfinished_run_is_exported_without_a_test_accuracy(workdir, run):
    stored = (workdir / "run.json").read_text()
    (workdir / "run.json").write_text(json.dumps(checksums.add_checksum({**run, "status": "interrupted"})))
    metadata = export.network_of(load_run(workdir)).weights.metadata
    assert "test_accuracy" not in metadata
    assert metadata["validation_accuracy"] == run["best_validation_accuracy"]
    (workdir / "run.json").write_text(stored)


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("flax", "cifar_flax"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy
everything = numpy.load("images.npy")
for count in (1, 7):
    images = everything[:count]
{code}
    numpy.save(f"{{count}}.npy", logits)
"""


def test_program_is_called_by_the_lines_of_its_readme_in_a_process_with_jax_alone(
    workdir, tiny_dataset, tmp_path, capsys
):
    folder = tmp_path / "program"
    exported(workdir, "--format=stablehlo", f"--output={folder}")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    readme = (folder / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    assert code.count("\n") == 3
    images = tiny_dataset.test.images[:7]
    np.save(folder / "images.npy", images)
    script = ALONE.format(code=indent(code, "    "))
    result = processes.run([sys.executable, "-I", "-W", "error", "-c", script], cwd=folder)
    assert result == (0, "", "")
    probabilities = load_run(workdir)(images)
    for count in (1, 7):
        np.testing.assert_allclose(softmax(np.load(folder / f"{count}.npy"), 1), probabilities[:count], atol=1e-5)
    assert "1. middle" in readme
    assert json.loads((folder / "network.json").read_text())["class_names"] == ["dark", "middle", "light"]


def test_program_computes_convolutions_with_the_library_that_all_devices_have(workdir):
    assert load_run(workdir).config.lowering == "patches"  # on CPUs
    exported(workdir, "--format=stablehlo")
    program = jax.export.deserialize(bytearray((workdir / "stablehlo" / "network.jax_export").read_bytes()))
    assert "stablehlo.convolution" in program.mlir_module()


def test_program_of_an_earlier_export_is_replaced(workdir, tmp_path):
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "README.md").write_text("earlier")
    exported(workdir, "--format=stablehlo", f"--output={folder}")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "README.md").read_text() != "earlier"
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_with_other_files_is_refused_and_kept(workdir, capsys):
    before = sorted(workdir.rglob("*"))
    line = refused(capsys, workdir, "--format=stablehlo", f"--output={workdir}")
    assert line.startswith(f"error: --output: {workdir} has other files (.lock, checkpoints, ")
    assert line.endswith("); name a new folder\n")
    assert sorted(workdir.rglob("*")) == before


def test_file_in_place_of_the_folder_is_refused_and_kept(workdir, tmp_path, capsys):
    (tmp_path / "program").write_text("mine")
    line = refused(capsys, workdir, "--format=stablehlo", f"--output={tmp_path / 'program'}")
    assert line == f"error: --output: {tmp_path / 'program'} is not a folder; name a folder\n"
    assert (tmp_path / "program").read_text() == "mine"


@pytest.mark.parametrize("form", ["safetensors", "stablehlo"])
def test_failed_export_loses_nothing(form, workdir, tmp_path, monkeypatch, capsys):
    path = tmp_path / "output"
    exported(workdir, f"--format={form}", f"--output={path}")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def write_bytes(self, content):
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    line = refused(capsys, workdir, f"--format={form}", f"--output={path}")
    assert line.startswith(f"error: --output: {path} cannot be written (No space left on device)")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_restored_if_its_replacement_fails_or_was_killed(tmp_path, monkeypatch):
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "a").write_text("earlier")
    rename = Path.rename

    def fails(self, target):
        if self.name.endswith(".writing.tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(BadInput, match="cannot be written"), output.output_folder(folder, "--output", "a"):
        pass
    monkeypatch.undo()
    assert (folder / "a").read_text() == "earlier"
    folder.rename(tmp_path / ".program.previous.tmp")  # as a process leaves it that is killed between two renames
    with pytest.raises(ZeroDivisionError), output.output_folder(folder, "--output", "a"):
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [folder]


def test_unknown_format_is_reported_with_those_that_exist(workdir, capsys):
    line = refused(capsys, workdir, "--format=onnx")
    assert all(word in line for word in ("--format", "onnx", "npz", "safetensors", "keras", "stablehlo"))
