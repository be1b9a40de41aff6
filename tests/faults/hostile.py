"""Helpers of the hostile-input tests: the number of examples, their limits on time, memory and calls, and the report.

`make torture` sets CIFAR_FLAX_EXAMPLES, the number of examples per reader, and CIFAR_FLAX_HOSTILE_REPORT, a file to
which a line of JSON per reader is added.
"""

import builtins
import contextlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, configuration, settings
from hypothesis import strategies as st

from cifar_flax.data import child
from cifar_flax.errors import BadInput

EXAMPLES = int(os.environ.get("CIFAR_FLAX_EXAMPLES", "80"))
MAX_SECONDS, MAX_MIB = 2.0, 1024.0  # CPU time and memory of one example
KIBS_PER_RSS = 1 / 1024 if sys.platform == "darwin" else 1

configuration.set_hypothesis_home_dir(tempfile.gettempdir())


def examples(fraction):
    """The settings of a test that runs this fraction of a reader's examples. The examples are always the same."""
    return settings(
        max_examples=max(1, round(fraction * EXAMPLES)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))}  # newlines and other control characters
calls = []


def record_call(*arguments):
    """The function that hostile files try to call."""
    calls.append(arguments)


class Canary:
    """Its pickle asks for `record_call` to be called."""

    def __reduce__(self):
        return record_call, ("by a pickle",)


@contextlib.contextmanager
def forbid_execution():
    """Makes all functions that could run a file's content fail, and checks at the end that none was called."""

    def guarded(original):
        def guard(*arguments, **keywords):
            # imported modules and experiment files are run as compiled code, which is allowed
            if original in (builtins_exec, builtins_eval) and not isinstance(arguments[0], str | bytes):
                return original(*arguments, **keywords)
            if original is popen and arguments[0][: len(child.COMMAND)] == child.COMMAND:  # isolated readers
                return original(*arguments, **keywords)
            record_call(original, arguments)
            raise AssertionError(f"{original} was called")

        return guard

    calls.clear()
    builtins_exec, builtins_eval, popen = builtins.exec, builtins.eval, subprocess.Popen
    targets = [(builtins, ("exec", "eval")), (os, ("system", "popen", "execv", "execve", "posix_spawn", "fork"))]
    targets += [(subprocess, ("Popen",)), (pickle, ("load", "loads", "Unpickler"))]
    originals = [(module, name, getattr(module, name)) for module, names in targets for name in names]
    try:
        for module, name, original in originals:
            setattr(module, name, guarded(original))
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
        assert not calls, calls


def _peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBS_PER_RSS / 1024


def _reset_peak():
    with contextlib.suppress(OSError):  # without this file, only an increase of the overall peak is measured
        Path("/proc/self/clear_refs").write_text("5")


class Watch:
    """Calls a reader on examples and asserts that each call succeeds or raises BadInput, within the limits."""

    def __init__(self, target):
        self.target, self.examples, self.failures = target, 0, 0
        self.slowest, self.peak, self.error = 0.0, 0.0, ""

    def __call__(self, read, *arguments):
        """The reader's result, or None if it raised BadInput, whose message is then in `error`.

        A call that took too long is repeated, because CPU time also depends on other processes.
        """
        self.examples, self.failures = self.examples + 1, self.failures + 1  # a failure until the checks pass
        for _ in range(3):
            result, seconds, mib = self._try(read, *arguments)
            if seconds < MAX_SECONDS:
                break
        self.slowest, self.peak = max(self.slowest, seconds), max(self.peak, mib)
        assert seconds < MAX_SECONDS
        assert mib < MAX_MIB
        self.failures -= 1
        return result

    def _try(self, read, *arguments):
        """(result, seconds of CPU time, MiB by which the peak memory grew)."""
        _reset_peak()
        mib_before, start, self.error = _peak_mib(), time.process_time(), ""
        result = None
        try:
            with forbid_execution():
                result = read(*arguments)
        except BadInput as error:
            self.error = str(error)
            assert not set(self.error) & CONTROLS, ascii(self.error)
        return result, time.process_time() - start, _peak_mib() - mib_before


@contextlib.contextmanager
def watching(target):
    """Yields a Watch and adds a line to the report at the end."""
    watch = Watch(target)
    yield watch
    report(target, watch.examples, watch.failures, slowest_seconds=round(watch.slowest, 3), peak_mib=round(watch.peak))


def report(target, examples, failures, **measured):
    """Adds a line to the report, if the tests are run by `make torture`."""
    if path := os.environ.get("CIFAR_FLAX_HOSTILE_REPORT"):
        with Path(path).open("a") as lines:
            lines.write(json.dumps({"target": target, "examples": examples, "failures": failures, **measured}) + "\n")


EXTREMES = [b"\x00" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", b"\n"]
MUTATIONS = {
    "flip": lambda draw, head, chunk, tail, other: (
        head + bytes(b ^ draw(st.integers(1, 255)) for b in chunk[:1]) + tail
    ),
    "set": lambda draw, head, chunk, tail, other: head + draw(st.binary(max_size=40)) + tail,
    "extreme": lambda draw, head, chunk, tail, other: head + draw(st.sampled_from(EXTREMES)) + tail[3:],
    "cut": lambda draw, head, chunk, tail, other: head + tail,
    "truncate": lambda draw, head, chunk, tail, other: head,
    "repeat": lambda draw, head, chunk, tail, other: head + chunk * draw(st.integers(2, 50)) + tail,
    "splice": lambda draw, head, chunk, tail, other: head + other[len(head) :],
}


@st.composite
def mutated(draw, originals):
    """One of the files with some bytes changed, removed, repeated, or replaced by bytes of another file."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, 300) | st.integers(-60, -1) | st.integers(0, 10**6))  # headers are at both ends
        kind = draw(st.sampled_from(["flip", *MUTATIONS]))
        start = position % max(len(content), 1)
        stop = start + (1 if kind in ("flip", "extreme") else draw(st.integers(1, 40)))
        other = draw(st.sampled_from(originals))
        content = MUTATIONS[kind](draw, content[:start], content[start:stop], content[stop:], other)
    return content
