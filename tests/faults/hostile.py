"""What the tests against hostile input share: how many examples, what each may take and touch, and the report.

`make torture` sets CIFAR_FLAX_EXAMPLES, the examples of each reader, and CIFAR_FLAX_HOSTILE_REPORT, a file that gets a
line of JSON for each reader.
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

from cifar_flax.errors import BadInput

EXAMPLES = int(os.environ.get("CIFAR_FLAX_EXAMPLES", "80"))
SECONDS, MIB = 2.0, 1024.0  # of computing and of memory, that one example may take
KIBS_PER_RSS = 1 / 1024 if sys.platform == "darwin" else 1

configuration.set_hypothesis_home_dir(tempfile.gettempdir())


def examples(share):
    """The settings of a property that gets this share of a reader's examples: always the same ones."""
    return settings(
        max_examples=max(1, round(share * EXAMPLES)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))}  # a newline, and what a terminal obeys
touched = []


def touch(*arguments):
    """What a hostile file would have run."""
    touched.append(arguments)


class Canary:
    """Pickled, it asks for `touch` to be called."""

    def __reduce__(self):
        return touch, ("by a pickle",)


@contextlib.contextmanager
def tripwires():
    """Lets every way of running what a file says fail, and checks afterwards that none was tried and caught."""

    def guarded(original):
        def tripped(*arguments, **keywords):
            # modules that are imported meanwhile, and experiment files, are compiled code
            if original in (builtins_exec, builtins_eval) and not isinstance(arguments[0], str | bytes):
                return original(*arguments, **keywords)
            touch(original, arguments)
            raise AssertionError(f"{original} is called")

        return tripped

    builtins_exec, builtins_eval = builtins.exec, builtins.eval
    places = [(builtins, ("exec", "eval")), (os, ("system", "popen", "execv", "execve", "posix_spawn", "fork"))]
    places += [(subprocess, ("Popen",)), (pickle, ("load", "loads", "Unpickler"))]
    before = [(module, name, getattr(module, name)) for module, names in places for name in names]
    try:
        for module, name, original in before:
            setattr(module, name, guarded(original))
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)
        assert not touched, touched


def _peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBS_PER_RSS / 1024


def _forget_peak():
    with contextlib.suppress(OSError):  # where there is no such file, only what exceeds all before is seen
        Path("/proc/self/clear_refs").write_text("5")


class Watch:
    """Calls one reader with example after example and sees that each ends as promised."""

    def __init__(self, target):
        self.target, self.examples, self.failures = target, 0, 0
        self.slowest, self.peak, self.refusal = 0.0, 0.0, ""

    def __call__(self, read, *arguments):
        """What the reader returns; None where it refuses, with the line that it gave in `refusal`.

        One that took too long gets another try: a processor that is shared with others computes more slowly.
        """
        self.examples, self.failures = self.examples + 1, self.failures + 1  # until it ended well
        for _ in range(3):
            result, seconds, mib = self._try(read, *arguments)
            if seconds < SECONDS:
                break
        self.slowest, self.peak = max(self.slowest, seconds), max(self.peak, mib)
        assert seconds < SECONDS
        assert mib < MIB
        self.failures -= 1
        return result

    def _try(self, read, *arguments):
        """(result, seconds of computing, MiB at the most beyond those before)."""
        _forget_peak()
        before, began, self.refusal = _peak_mib(), time.process_time(), ""
        result = None
        try:
            with tripwires():
                result = read(*arguments)
        except BadInput as error:
            self.refusal = str(error)
            assert not set(self.refusal) & CONTROLS, ascii(self.refusal)
        return result, time.process_time() - began, _peak_mib() - before


@contextlib.contextmanager
def watching(target):
    """A Watch, of which the report gets a line in the end."""
    watch = Watch(target)
    yield watch
    report(target, watch.examples, watch.failures, slowest_seconds=round(watch.slowest, 3), peak_mib=round(watch.peak))


def report(target, examples, failures, **found):
    """Adds a line to the report of `make torture`, if it is that which runs the tests."""
    if place := os.environ.get("CIFAR_FLAX_HOSTILE_REPORT"):
        with Path(place).open("a") as lines:
            lines.write(json.dumps({"target": target, "examples": examples, "failures": failures, **found}) + "\n")


EXTREMES = [b"\x00" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", b"\n"]
DAMAGES = {
    "flip": lambda draw, head, piece, tail, other: (
        head + bytes(b ^ draw(st.integers(1, 255)) for b in piece[:1]) + tail
    ),
    "set": lambda draw, head, piece, tail, other: head + draw(st.binary(max_size=40)) + tail,
    "extreme": lambda draw, head, piece, tail, other: head + draw(st.sampled_from(EXTREMES)) + tail[3:],
    "cut": lambda draw, head, piece, tail, other: head + tail,
    "truncate": lambda draw, head, piece, tail, other: head,
    "repeat": lambda draw, head, piece, tail, other: head + piece * draw(st.integers(2, 50)) + tail,
    "splice": lambda draw, head, piece, tail, other: head + other[len(head) :],
}


@st.composite
def mutated(draw, originals):
    """One of the files with some of its bytes changed, removed, repeated, or replaced by those of another."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, 300) | st.integers(-60, -1) | st.integers(0, 10**6))  # headers are at either end
        kind = draw(st.sampled_from(["flip", *DAMAGES]))
        start = place % max(len(content), 1)
        stop = start + (1 if kind in ("flip", "extreme") else draw(st.integers(1, 40)))
        other = draw(st.sampled_from(originals))
        content = DAMAGES[kind](draw, content[:start], content[start:stop], content[stop:], other)
    return content
