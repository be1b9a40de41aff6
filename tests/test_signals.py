"""Signals that end a run: a lost connection, the warnings of batch systems, and several at once."""

import signal
import sys

import pytest
from processes import WITH_TENSORFLOW, start, train_command, write_dataset
from run_records import run_of

from cifar_flax.errors import Interrupted
from cifar_flax.interruption import Interruption, interrupt

ENDING = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGTERM")


# undoes what nohup does, in case the tests run under it
WITH_DEFAULT_HANGUP = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
WITH_DEFAULT_HANGUP += "os.execvp(sys.argv[1], sys.argv[1:])"


def start_run(folder, name, *arguments, prefix=()):
    command = [sys.executable, "-c", WITH_DEFAULT_HANGUP, *prefix]
    command += train_command("d.npz", name, "--config.num_epochs=400", *arguments)
    return start(command, folder, WITH_TENSORFLOW | {"PYTHONUNBUFFERED": "1"})


def read_until(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"ended without {words!r}: {process.stderr.read()}")


@pytest.mark.medium
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_run_that_receives_the_signal_is_saved(name, tmp_path):
    write_dataset(tmp_path / "d.npz")
    process = start_run(tmp_path, "w")
    read_until(process, "Epoch 2/")
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == 128 + getattr(signal, name)
    assert err.endswith(f"interrupted by {name}; the state is saved, the same command resumes from here\n")
    record = run_of(tmp_path / "w")
    assert record["status"] == "interrupted"
    assert record["checkpoint_step"] > 4


@pytest.mark.medium
def test_hangup_is_ignored_under_nohup(tmp_path):
    write_dataset(tmp_path / "d.npz")
    process = start_run(tmp_path, "w", prefix=["nohup"])
    read_until(process, "Epoch 2/")
    process.send_signal(signal.SIGHUP)
    read_until(process, "Epoch 5/")
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("name", ENDING)
def test_signal_is_recorded_and_the_handlers_are_restored(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Interruption() as interruption:
            assert not interruption.received
            signal.raise_signal(number)
            assert interruption.received
            with pytest.raises(Interrupted, match=name) as error:
                interruption.raise_if_received()
        assert error.value.signal_number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("names", [("SIGHUP", "SIGHUP"), ("SIGHUP", "SIGTERM"), ("SIGUSR1", "SIGTERM", "SIGHUP")])
def test_signals_that_come_together_count_once(names):
    """A terminal that closes sends SIGHUP twice, and a shutdown SIGTERM and SIGHUP: the state must still be saved."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with Interruption() as interruption:
            for name in names:
                signal.raise_signal(getattr(signal, name))
            with pytest.raises(Interrupted, match=names[0]):
                interruption.raise_if_received()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_signal_within_two_contexts_counts_for_both():
    """As in a sweep: a signal in the last phase of a seed, which that seed does not poll for any more."""
    with Interruption() as outer:
        with Interruption():
            signal.raise_signal(signal.SIGTERM)
        with Interruption() as next_inner, pytest.raises(Interrupted, match="SIGTERM"):
            next_inner.raise_if_received()
        with pytest.raises(Interrupted, match="SIGTERM"):
            outer.raise_if_received()
    assert not interrupt(signal.SIGPIPE)


def test_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGUSR1)
            assert not interruption.received
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_second_interrupt_ends_at_once():
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_interrupt_acts_as_a_signal_only_within_a_run():
    assert not interrupt(signal.SIGPIPE)
    with Interruption() as interruption:
        assert interrupt(signal.SIGPIPE)
        with pytest.raises(Interrupted, match="SIGPIPE"):
            interruption.raise_if_received()
