"""Decoding many pictures in several processes, and what happens when a process or a terminal goes away."""

import contextlib
import errno
import io
import json
import os
import select
import signal
import sys
import threading

import numpy as np
import processes
import pytest
from PIL import Image

from cifar_flax.data import decoding, pixels, worker
from cifar_flax.data.decoding import SizesDiffer, decode
from cifar_flax.data.pictures import read_image
from cifar_flax.errors import BadInput

RNG = np.random.default_rng(0)
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK")


def encoded(image, format="png", **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def random_pngs(count, height=8, width=8):
    images = RNG.integers(0, 256, (count, height, width, 3), np.uint8)
    return images, [encoded(Image.fromarray(image)) for image in images]


def numbered(count):
    return [f"picture {index}" for index in range(count)]


def message_of(pictures, image_size=None):
    with pytest.raises(BadInput) as error:
        decode(pictures, numbered(len(pictures)), image_size)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def three_processes(monkeypatch):
    """Makes even 12 pictures pay off for two more processes, in chunks of four. For one call of `decode`.

    Each of the two takes a chunk before one decodes, and this process decodes after both. Returns the two.
    """
    monkeypatch.setattr(decoding, "_plan", lambda pictures, size: (4, 3))
    decode_here, decode_there = pixels.decode, worker.Worker.decode
    workers, everyone_started, everyone_worked = set(), threading.Barrier(2), threading.Event()

    def there(self, *request):
        if self not in workers:
            everyone_started.wait()
        try:
            return decode_there(self, *request)
        finally:
            workers.add(self)
            if len(workers) == 2:
                everyone_worked.set()

    def here(*request, **keywords):
        if threading.current_thread() is threading.main_thread() and not keywords:  # not for the first size
            everyone_worked.wait()
        return decode_here(*request, **keywords)

    monkeypatch.setattr(worker.Worker, "decode", there)
    monkeypatch.setattr(pixels, "decode", here)
    return workers


@pytest.mark.parametrize("as_paths", [True, False])
def test_several_processes_decode_the_images_that_the_files_were_made_of(three_processes, tmp_path, as_paths):
    images, pictures = random_pngs(61)
    if as_paths:
        paths = [tmp_path / f"{index} \udcff\n.png" for index in range(len(pictures))]  # no valid characters
        for path, content in zip(paths, pictures, strict=True):
            path.write_bytes(content)
        pictures = paths
    np.testing.assert_array_equal(decode(pictures, numbered(61), None), images)
    assert len(three_processes) == 2


def test_several_processes_decode_what_predict_reads(three_processes, tmp_path):
    pictures = []
    for number, mode in enumerate(MODES * 3):
        image = Image.fromarray(RNG.integers(0, 256, (9 + number, 30 - number, 3), np.uint8)).convert(mode)
        pictures.append(encoded(image, "tiff" if mode == "CMYK" else "png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures.append(encoded(Image.fromarray(RNG.integers(0, 256, (20, 10, 3), np.uint8)), "jpeg", exif=exif))
    pictures.append(encoded(Image.fromarray(RNG.integers(0, 65_536, (12, 12)).astype(np.uint16))))
    decoded = decode(pictures, numbered(len(pictures)), 8)
    for picture, image in zip(pictures, decoded, strict=True):
        np.testing.assert_array_equal(image, read_image(picture, (8, 8, 3)))


def test_only_gray_pictures_give_gray_images():
    gray = RNG.integers(0, 256, (3, 6, 7), np.uint8)
    pictures = [encoded(Image.fromarray(image)) for image in gray]
    np.testing.assert_array_equal(decode(pictures, numbered(3), None), gray[..., None])
    mixed = decode([*pictures, encoded(Image.fromarray(gray[0]).convert("RGB"))], numbered(4), None)
    np.testing.assert_array_equal(mixed, np.repeat(gray[[0, 1, 2, 0], ..., None], 3, axis=-1))


def test_the_first_of_all_unreadable_pictures_is_named_and_the_others_are_counted(three_processes):
    pictures = random_pngs(40)[1]
    pictures[30], pictures[7], pictures[22] = b"text", pictures[7][:60], b""
    message = message_of(pictures)
    assert message.startswith("config.dataset: picture 7: not a readable image (")
    assert message.endswith("; remove or replace it (2 more pictures cannot be read)")


def test_a_single_unreadable_picture_is_named():
    message = message_of([b""])
    assert message.startswith("config.dataset: picture 0: not a readable image (")
    assert message.endswith("; remove or replace it")


def test_the_first_picture_of_another_size_is_named(three_processes):
    pictures = random_pngs(60)[1]
    for index in (50, 9, 33):
        pictures[index] = random_pngs(1, height=5, width=index)[1][0]
    with pytest.raises(SizesDiffer) as error:
        decode(pictures, numbered(60), None)
    assert str(error.value) == (
        "config.image_size: it is unset, but picture 0 has 8 x 8 pixels and picture 9 has 9 x 5 pixels; set it to "
        "resize all pictures, such as --config.image_size=32"
    )


def test_images_that_take_too_much_memory_are_rejected_before_they_are_decoded():
    picture = random_pngs(1)[1][0]
    assert message_of([picture] * 3, 40_000) == (
        "config.image_size: 3 images of 40000 x 40000 pixels take 13.4 GiB of memory, more than 8; set it to a smaller "
        "size"
    )


def test_remarks_on_many_pictures_are_one_line(three_processes, capsys):
    dark = encoded(Image.fromarray(np.full((8, 8), 4_000, np.uint16)))
    decode([*random_pngs(20)[1], *[dark] * 9], numbered(29), None)
    assert capsys.readouterr().err == (
        "config.dataset: picture 20: no value exceeds 4000, so they are read as 12 bits, with white at 4095 "
        "(8 more pictures look like this)\n"
    )


def test_a_process_that_is_killed_is_reported_with_the_first_picture_that_it_decoded(three_processes, monkeypatch):
    deadly = "pixels.decode = lambda *request: os.kill(os.getpid(), 9); pixels.serve()"
    monkeypatch.setattr(worker, "START", worker.START.replace("pixels.serve()", f"import os; {deadly}"))
    message = message_of(random_pngs(40)[1])
    assert message.startswith("config.dataset: picture ")
    assert message.endswith(
        ": the process that decoded it and the next 3 pictures was killed by SIGKILL; free memory, or remove damaged "
        "pictures"
    )


@pytest.mark.parametrize("problem", ["no such program", "ends at once"])
def test_processes_that_cannot_start_leave_the_work_to_this_one(problem, monkeypatch):
    monkeypatch.setattr(decoding, "_plan", lambda pictures, size: (4, 3))
    if problem == "ends at once":
        monkeypatch.setattr(worker, "START", "raise SystemExit(1)")
    else:
        monkeypatch.setattr(sys, "executable", "/no/such/program")
    images, pictures = random_pngs(20)
    np.testing.assert_array_equal(decode(pictures, numbered(20), None), images)


class Terminal(io.StringIO):
    """A stderr that claims to be a terminal."""

    def isatty(self):
        return True


def test_a_bar_is_shown_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(decoding, "BAR_DELAY", 0)
    pictures = random_pngs(100)[1]
    outputs = {}
    for stderr in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stderr)
        decode(pictures, numbered(100), None)
        outputs[type(stderr)] = stderr.getvalue()
    assert "0/100 [" in outputs[Terminal]
    assert outputs[io.StringIO] == ""


@pytest.mark.parametrize("stderr", ["missing", "closed", "gone"])
def test_a_stderr_that_cannot_be_written_is_no_error(stderr, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "the terminal is gone")

    stream = Terminal() if stderr == "gone" else io.StringIO()
    stream.write = fail
    if stderr == "closed":
        stream.close()
    monkeypatch.setattr(decoding, "BAR_DELAY", 0)
    monkeypatch.setattr(sys, "stderr", None if stderr == "missing" else stream)
    images, pictures = random_pngs(100)
    np.testing.assert_array_equal(decode(pictures, numbered(100), None), images)


# Two processes besides this one have each decoded a chunk when their ids are printed; then this one waits for a line.
SCRIPT = """
import sys, threading
from cifar_flax.data import decoding, pixels, worker

print("started", flush=True)
decoding._plan = lambda pictures, size: (1, 3)
workers, both_started, ready, decode_there = {}, threading.Barrier(2), threading.Event(), worker.Worker.decode

def there(self, *request):
    if self not in workers:
        both_started.wait()
    chunk = decode_there(self, *request)
    workers[self] = self._process.pid
    if len(workers) == 2:
        ready.set()
    return chunk

def here(*request):
    ready.wait()
    print(*workers.values(), flush=True)
    sys.stdin.readline()
    return decode_here(*request)

worker.Worker.decode, decode_here, pixels.decode = there, pixels.decode, here
pictures = [open(path, "rb").read() for path in sys.argv[1:]] * 100
print(decoding.decode(pictures, pictures, 8).shape, flush=True)
"""


@pytest.fixture
def decoding_script(tmp_path):
    """Starts a script without a `__main__` guard that decodes, and returns it with the ids of its two processes."""
    (tmp_path / "picture.png").write_bytes(random_pngs(1)[1][0])
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("struct", "zlib", "marshal", "PIL", "pixels"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')")
    command = [sys.executable, "-P", "script.py", "picture.png"]
    with processes.start(command, cwd=tmp_path, stdin=-1) as process:
        assert process.stdout.readline() == "started\n"
        yield process, [int(pid) for pid in process.stdout.readline().split()]
        process.kill()


def wait_until_ended(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], 60)[0], f"{pid} is still running"
            os.close(descriptor)


def test_a_script_without_a_guard_runs_once_and_files_of_the_current_folder_are_not_imported(decoding_script):
    process, pids = decoding_script
    assert len(set(pids)) == 2
    out, err = process.communicate("\n" * 100)
    assert out.splitlines()[-1] == "(100, 8, 8, 3)"
    assert (err, process.returncode) == ("", 0)
    wait_until_ended(pids)


def test_processes_decode_while_stdin_stdout_and_stderr_are_closed(tmp_path):
    (tmp_path / "picture.png").write_bytes(random_pngs(1)[1][0])
    code = """
import sys
from cifar_flax.data import decoding, pixels
decoding._plan = lambda pictures, size: (1, 3)
pictures = [open("picture.png", "rb").read()] * 100
open("shape", "w").write(str(decoding.decode(pictures, pictures, 8).shape))
"""
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert processes.run(command, cwd=tmp_path) == (0, "", "")
    assert (tmp_path / "shape").read_text() == "(100, 8, 8, 3)"


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes of others as only Linux can")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_survives_an_interrupted_one(name, decoding_script):
    process, pids = decoding_script
    process.send_signal(getattr(signal, name))
    process.communicate()
    assert process.returncode == -getattr(signal, name)
    wait_until_ended(pids)


@pytest.mark.medium
def test_the_benchmark_records_both_contestants(tmp_path):
    command = [sys.executable, "-m", "benchmarks.decoding", "--pictures=50", "--rounds=2", f"--output={tmp_path / 'a'}"]
    code, out, err = processes.run(command)
    assert (code, err) == (0, "")
    assert "times as fast as Pillow alone (median of 2 rounds)" in out
    contestants = json.loads((tmp_path / "a").read_text())["contestants"]
    assert [len(rounds["seconds"]) for rounds in contestants.values()] == [2, 2]
