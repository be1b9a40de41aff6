"""Commands whose stdout or stderr is closed, full, cut off, of another encoding, or a terminal that is gone."""

import os
import pty
import shutil

import numpy as np
import pytest
from PIL import Image
from processes import assert_one_line, command, run, start, train_command, write_dataset
from run_records import run_of

pytestmark = pytest.mark.medium

FULL = "stdout cannot be written (No space left on device)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, `run`, on `d.npz` with class names outside of ASCII, and a picture."""
    folder = tmp_path_factory.mktemp("streams")
    write_dataset(folder / "d.npz", class_names=np.array(["café", "犬", "fox"]))
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    assert run(train_command("d.npz", "run"), cwd=folder)[0] == 0
    return folder


COMMANDS = {
    "evaluate": ["evaluate", "--workdir=run"],
    "predict": ["predict", "--workdir=run", "a.png"],
    "export": ["export", "--workdir=run"],
    "report": ["report", "run"],
}


def in_shell(arguments, redirection, folder, variables=None):
    """The exit code of a command with a shell's redirection, and what is left of stdout and stderr."""
    line = " ".join(map(str, arguments))
    return run(["bash", "-c", f"{line} {redirection}"], folder, variables)


def test_run_ends_although_its_log_is_on_a_full_disk(folder, tmp_path):
    code, _, err = in_shell(train_command("d.npz", tmp_path / "w"), "> /dev/full", folder)
    assert code == 0
    assert (
        err == "stdout cannot be written (OSError: [Errno 28] No space left on device); the run continues without it\n"
    )
    assert run_of(tmp_path / "w")["status"] == "done"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_whose_answer_cannot_be_written_names_the_stream(name, folder):
    code, _, err = in_shell(command(*COMMANDS[name]), "> /dev/full", folder)
    assert (code, err) == (1, f"failed: {FULL}; what was saved before is still there\n")


def test_run_whose_reader_goes_away_is_saved_and_resumes(folder, tmp_path):
    arguments = train_command("d.npz", tmp_path / "w", "--config.num_epochs=3")
    code, out, err = in_shell(arguments, "| head -1; exit ${PIPESTATUS[0]}", folder)
    assert code == 141
    assert out.startswith("experiment  mlp")
    assert err == "interrupted by SIGPIPE; the state is saved, the same command resumes from here\n"
    assert run_of(tmp_path / "w")["status"] == "interrupted"
    assert run_of(tmp_path / "w")["checkpoint_step"] > 0
    assert run(arguments, folder)[0] == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_command_works_with_closed_streams(closed, folder, tmp_path):
    assert in_shell(train_command("d.npz", tmp_path / "w"), closed, folder)[0] == 0
    assert run_of(tmp_path / "w")["status"] == "done"
    assert in_shell(command("predict", f"--workdir={tmp_path / 'w'}", "a.png"), closed, folder)[0] == 0


def test_run_continues_when_its_terminal_goes_away(folder, tmp_path):
    ours, theirs = pty.openpty()
    arguments = train_command("d.npz", tmp_path / "w", "--config.num_epochs=30")
    process = start(arguments, folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = b""
    while b"Epoch 2/" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    assert process.wait() == 0
    assert run_of(tmp_path / "w")["status"] == "done"


def test_names_that_the_encoding_lacks_are_escaped(folder, tmp_path):
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    for name in ("evaluate", "predict", "report"):
        code, out, err = run(command(*COMMANDS[name]), folder, ascii_only)
        assert (code, err) == (0, "")
        assert name == "report" or "caf\\xe9" in out
    shutil.copy(folder / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    predict = command("predict", f"--workdir={folder / 'run'}")
    code, out, err = in_shell(predict, "caf*.png", tmp_path, {"PYTHONIOENCODING": "utf-8"})
    assert (code, err) == (0, "")
    assert out.startswith("caf\\udce9.png: ")


def test_dataset_name_that_is_not_utf8_is_accepted_and_such_a_workdir_refused(folder, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copy(folder / "d.npz", name + ".npz")
    code, out, err = run(train_command(name + ".npz", tmp_path / "w"), folder)
    assert (code, err) == (0, "")
    assert "caf\\udce9.npz" in out
    assert_one_line(run(train_command("d.npz", name), folder), "--workdir: ", "caf\\udce9", "is not valid UTF-8")
