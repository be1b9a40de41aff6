"""Seeds in processes of their own: `sweep --jobs`."""

import io
import os
import signal
import sys
import threading
import time

import pytest
from processes import ROOT, SHORT, command, run, start, write_dataset
from run_records import metrics_of, run_of

from cifar_flax import sweep
from cifar_flax.config import base_config
from cifar_flax.data.decoding import num_cpus
from cifar_flax.errors import BadInput, Failed, Interrupted, Locked
from cifar_flax.interruption import Interruption
from cifar_flax.reporting import console
from cifar_flax.sweeping import places, processes
from cifar_flax.sweeping.at_once import at_once
from cifar_flax.sweeping.display import Display
from cifar_flax.sweeping.places import Place, find_places


def sweep_command(folder, *arguments):
    config = [f"--config={ROOT / 'experiments' / 'mlp.py'}", f"--config.dataset={folder / 'd.npz'}", *SHORT]
    return command("sweep", *config, f"--workdir={folder / 'runs'}", "--seeds=0-2", *arguments)


needs_two_cpus = pytest.mark.skipif(num_cpus() < 2, reason="two jobs need two CPUs")


@pytest.mark.medium
@needs_two_cpus
def test_seeds_are_trained_in_two_processes_and_one_that_is_refused_does_not_stop_the_others(tmp_path):
    write_dataset(tmp_path / "d.npz")
    (tmp_path / "runs" / "seed1").mkdir(parents=True)
    (tmp_path / "runs" / "seed1" / "config.json").write_text("{")
    code, out, err = run(sweep_command(tmp_path, "--jobs=2"))
    assert code == 2
    refused, summary = err.splitlines()
    assert refused.startswith(f"error: --workdir: {tmp_path / 'runs' / 'seed1' / 'config.json'} cannot be read")
    assert summary == "error: seed 1 of mlp could not be trained, see above"
    assert "mlp, seeds 0, 2: " in out.splitlines()[-1]
    assert [run_of(tmp_path / "runs" / f"seed{seed}")["seed"] for seed in (0, 2)] == [0, 2]
    assert all(f"\nseed {seed}: Epoch 1/1 - " in out for seed in (0, 2))


def start_until(text, folder, *arguments):
    process = start(sweep_command(folder, "--jobs=2", *arguments))
    for line in process.stdout:
        if text in line:
            return process
    raise AssertionError(process.stderr.read())


def wait_for_interrupted(workdir):
    end = time.monotonic() + 60
    while time.monotonic() < end and run_of(workdir)["status"] != "interrupted":
        time.sleep(0.1)
    assert run_of(workdir)["status"] == "interrupted"


@pytest.mark.slow
@needs_two_cpus
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_of_a_sweep_that_is_ended_are_saved_and_the_same_command_goes_on(number, tmp_path):
    write_dataset(tmp_path / "d.npz")
    process = start_until("seed 1: Epoch 3/", tmp_path, "--config.num_epochs=25")
    process.send_signal(number)
    _, err = process.communicate()
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert err.count("saving at the next safe point") == 1
        assert err.endswith("interrupted by SIGTERM; the state is saved, the same command resumes from here\n")
    wait_for_interrupted(tmp_path / "runs" / "seed1")
    assert run_of(tmp_path / "runs" / "seed1")["checkpoint_step"] >= 9  # an epoch has 3 steps
    code, out, err = run(sweep_command(tmp_path, "--jobs=2", "--config.num_epochs=25"))
    assert (code, err) == (0, "")
    assert "mlp, seeds 0 to 2: " in out.splitlines()[-1]
    assert [len(metrics_of(tmp_path / "runs" / f"seed{seed}")) for seed in range(3)] == [25] * 3


CHILD = """
import json, os, signal, sys
request = json.loads(sys.stdin.readline())
def send(*event): print("\\x1e" + json.dumps(event), flush=True)
send("begin", "Epoch 1/2")
{}
"""


@pytest.fixture
def train_with(monkeypatch, tmp_path):
    """Trains in a process that runs these lines. Returns what the listener heard."""
    heard = []

    class Listener:
        def begin(self, *arguments):
            heard.append(("begin", *arguments))

        def progress(self, *arguments):
            heard.append(("progress", *arguments))

    def train(lines, workers=None):
        monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-c", CHILD.format(lines)])
        (workers or processes.Processes([Place((), {})])).train(base_config(), tmp_path / "seed0", Listener())
        return heard

    return train


def test_events_reach_the_listener_and_other_lines_the_screen(train_with, capsys):
    heard = train_with("print('W external/xla', end=''); send('progress', 10, 2.5); print('careful', file=sys.stderr)")
    assert heard == [("begin", "Epoch 1/2"), ("progress", 10, 2.5)]
    assert sorted(capsys.readouterr().err.splitlines()) == ["seed 0: W external/xla", "seed 0: careful"]


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        ("send('ended', 'BadInput', 'config.x: bad')", BadInput, "config.x: bad"),
        ("send('ended', 'Interrupted', 15)", Interrupted, "SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Failed, "was killed by SIGKILL"),
        ("sys.exit(3)", Failed, "ended with exit code 3"),
    ],
)
def test_end_of_a_process_is_raised(lines, error, words, train_with):
    with pytest.raises(error, match=words):
        train_with(lines)


def test_process_is_asked_to_end_through_its_stdin(train_with):
    workers = processes.Processes([Place((), {})])
    timer = threading.Timer(0.3, workers.stop)
    timer.start()
    with pytest.raises(Interrupted):
        train_with("sys.stdin.read(); send('ended', 'Interrupted', 15)", workers)
    with pytest.raises(Interrupted):
        train_with("", workers)


class Threads:
    """Workers for tests of `at_once`: two threads."""

    def __init__(self):
        self.count, self.description, self.stopped = 2, "", threading.Event()

    def stop(self):
        self.stopped.set()

    def kill(self):
        self.stopped.set()


def test_error_of_one_thread_interrupts_the_others_and_is_raised():
    workers, ended = Threads(), []

    def train(seed):
        if seed == 0:
            raise BadInput("config.x: bad")
        workers.stopped.wait(30)
        ended.append(seed)
        raise Interrupted(signal.SIGTERM)

    with Interruption() as interruption, pytest.raises(BadInput, match=r"config\.x"):
        at_once(train, [0, 1, 2], workers, interruption)
    assert sorted(ended) == [1, 2]


def test_second_signal_leaves_the_threads_time_to_save(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    def train(seed):
        assert workers.stopped.wait(30)
        time.sleep(0.1)
        saved.append(seed)

    workers, saved = Threads(), []
    monkeypatch.setattr("cifar_flax.sweeping.at_once.wait", interrupted)
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        at_once(train, [0, 1], workers, interruption)
    assert sorted(saved) == [0, 1]


def test_seeds_of_other_processes_are_returned_and_a_signal_interrupts():
    def train(seed):
        if seed == 1:
            raise Locked("other")

    with Interruption() as interruption:
        assert list(at_once(train, [0, 1, 2], Threads(), interruption)) == [1]

    def train_until_stopped(seed):
        os.kill(os.getpid(), signal.SIGTERM)
        workers.stopped.wait(30)
        raise Interrupted(signal.SIGTERM)

    workers = Threads()
    with Interruption() as interruption, pytest.raises(Interrupted, match="SIGTERM"):
        at_once(train_until_stopped, [0], workers, interruption)


@pytest.fixture
def machine(monkeypatch):
    """Sets the platform, the number of its devices and the CPUs."""

    def set_machine(platform, num_devices, cpus=()):
        monkeypatch.setattr(places, "_devices", lambda: (platform, num_devices))
        monkeypatch.setattr(places, "num_cpus", lambda: len(cpus))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus))
        monkeypatch.setattr(places, "_core", lambda cpu: (0, cpu % 4, cpu))  # as Linux numbers two threads of a core

    return set_machine


@pytest.mark.parametrize(
    ("jobs", "seeds", "cpus"),
    [
        (None, 2, [(0, 4, 1, 5), (2, 6, 3, 7)]),
        (None, 20, [(0,), (4,), (1,), (5,), (2,), (6,), (3,), (7,)]),
        (3, 20, [(0, 4), (1, 5), (2, 6)]),
        (1, 20, [()]),
        (None, 1, [()]),
    ],
)
def test_cpus_are_divided_by_core(jobs, seeds, cpus, machine):
    machine("cpu", 1, range(8))
    assert [tuple(place.cpus) for place in find_places(jobs, seeds)] == cpus


@pytest.mark.parametrize(("visible", "chosen"), [(None, ["0", "1"]), ("3,5", ["3", "5"])])
def test_each_run_has_a_gpu_of_its_own(visible, chosen, machine, monkeypatch):
    machine("gpu", 2)
    if visible:
        monkeypatch.setenv("JAX_CUDA_VISIBLE_DEVICES", visible)
    assert [place.environment["JAX_CUDA_VISIBLE_DEVICES"] for place in find_places(None, 5)] == chosen


@pytest.mark.parametrize(
    ("arguments", "platform", "words"),
    [
        (["--jobs=0"], "cpu", "use a number from 1 on"),
        (["--jobs=2", "--together"], "cpu", "not valid with --together"),
        (["--jobs=3"], "cpu", "use at most 2, the number of CPUs"),
        (["--jobs=3"], "gpu", "use at most 2, the number of GPUs; --together"),
        (["--jobs=2"], "tpu", "use 1, because a process takes all devices of the platform tpu; --together"),
    ],
)
def test_invalid_number_of_jobs_is_one_line(arguments, platform, words, machine, tmp_path, capsys):
    machine(platform, 2, range(2))
    assert sweep.main(["--config=cnn:smoke", f"--workdir={tmp_path / 'new'}", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --jobs: ")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    def isatty(self):
        return True


def report_two_seeds(display):
    with display, display.row(0) as first, display.row(1) as second:
        first.begin("Epoch 1/20")
        second.begin("Epoch 2/20")
        second.progress(7_000, 100.0)
        second.epoch("Epoch 2/20 - 4.1s", 0.625)
        second.result({"test_accuracy": 0.5})


def test_log_has_a_line_for_each_event_with_its_seed(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_EVERY", 0)
    report_two_seeds(Display())
    assert capsys.readouterr().out.splitlines() == [
        "seed 1: Epoch 2/20, 100 images/s, 1:10 left",
        "seed 1: Epoch 2/20 - 4.1s",
        "seed 1: test accuracy 50.00%",
    ]


def test_terminal_has_a_line_for_each_seed_in_progress(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    report_two_seeds(Display())
    lines = [line.rstrip() for line in terminal.getvalue().split("\x1b[1A")]
    assert any("seed 0  Epoch 1/20" in line for line in lines)
    assert any("seed 1  Epoch 2/20  100 images/s  1:10 left  validation accuracy 62.50%" in line for line in lines)
    assert "seed 1: test accuracy 50.00%" in terminal.getvalue()


def test_terminal_that_cannot_move_its_cursor_has_a_line_for_each_event(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    report_two_seeds(Display())
    assert terminal.getvalue() == "seed 1: Epoch 2/20 - 4.1s\nseed 1: test accuracy 50.00%\n"
