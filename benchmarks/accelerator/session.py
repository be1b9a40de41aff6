"""Runs the parts of a record, one process after the other, within a limit of time."""

import json
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.accelerator.parts import Part
from benchmarks.machine import describe
from cifar_flax.cli.commandline import silence_libraries
from cifar_flax.config import base_config
from cifar_flax.data import load
from cifar_flax.errors import BadInput, Failed, Interrupted
from cifar_flax.ops.xla_options import choose_options
from cifar_flax.workdir.atomic import write_text
from cifar_flax.workdir.environment import find_devices, software
from cifar_flax.workdir.identity import describe_data

KILL_SECONDS = 10  # that a process has to end
START_SECONDS = 300  # at most, to find the device and to read the images


def begin(dataset: str) -> dict[str, Any]:
    """`describe_start` in a process of its own."""
    try:
        return call(describe_start, {"dataset": dataset}, START_SECONDS)
    except TimeoutError:
        raise Failed(f"finding the device and reading the images took more than {START_SECONDS} s") from None


def describe_start(dataset: str) -> dict[str, Any]:
    """What all parts of a record have in common: the machine and the images."""
    config = base_config()
    config.update(dataset=dataset, num_validation=0)
    find_devices()
    return {"machine": describe(), "data": describe_data(load(config))}


def open_record(path: Path, start: dict[str, Any]) -> dict[str, Any]:
    """The record in a file, or a new one.

    Args:
        path: the JSON file.
        start: the machine and the data of this process.

    Raises:
        BadInput: the file is of another device, other versions or other images, or it is not a record.
    """
    if not path.exists():
        return {**start, "parts": {}}
    try:
        record = json.loads(path.read_text())
        machine, data, _ = record["machine"], record["data"], record["parts"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"--output: {path} is not a record of this command; name another file") from error
    fields = ("device_kind", "versions")
    differing = [name for name in fields if machine.get(name) != start["machine"][name]]
    differing += ["images"] if data != start["data"] else []
    if differing:
        raise BadInput(f"--output: {path} was measured with other {', '.join(differing)}; name another file")
    return record


def run_parts(parts: Sequence[Part], record: dict[str, Any], path: Path, dataset: str, minutes: float) -> None:
    """Runs the parts that the record lacks, or has with other arguments, and writes the record after each.

    Raises:
        Failed: a part failed. The others are done, or left for the next call, all the same.
    """
    end, left, failed = time.monotonic() + 60 * minutes, [], []
    for part in parts:
        stored = record["parts"].get(part.name)
        if stored and stored["arguments"] == part.arguments:
            _say(f"{part.name}: in the file")
            continue
        seconds = end - time.monotonic()
        if part.seconds > seconds:
            left.append(part)
            continue
        _say(f"{part.name}: about {part.seconds} s")
        start = time.monotonic()
        try:
            result = call(part.function, {"dataset": dataset, **part.arguments}, seconds)
        except TimeoutError:
            left.append(part)
        except (BadInput, Failed) as error:
            failed.append(f"{part.name} ({error})")
        else:
            done = {"date": date.today().isoformat(), "git_commit": software()["git_commit"]}
            done |= {"seconds": round(time.monotonic() - start, 1), "arguments": part.arguments, "result": result}
            record["parts"][part.name] = done
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(record, indent=2) + "\n")
    _report(path, left, failed)


def _report(path: Path, left: list[Part], failed: list[str]) -> None:
    if left:
        seconds = sum(part.seconds for part in left)
        _say(f"left for the next call, about {seconds / 60:.0f} min: {', '.join(part.name for part in left)}")
    if failed:
        raise Failed("; ".join(failed))
    if not left:
        _say(f"all parts are in {path}; `make results` updates the tables in docs/")


def _say(text: str) -> None:
    print(text, flush=True)


def call(function: Callable[..., dict[str, Any]], arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Calls a function in a process of its own, which frees the device and its memory.

    Raises:
        TimeoutError: it took longer than `seconds` and was ended.
        BadInput: raised by the function.
        Failed: another error, of which the process printed the traceback, or its death.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise TimeoutError
        result = receiver.recv()
        process.join(KILL_SECONDS)
    except EOFError:
        process.join(KILL_SECONDS)
        raise Failed(f"exit code {process.exitcode}") from None
    finally:
        process.terminate()
        process.join(KILL_SECONDS)
        process.kill()
    if isinstance(result, Exception):
        raise result
    answer: dict[str, Any] = result
    return answer


def _send(sender: Connection, function: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> None:
    """The process: sends what the function returns, or the error that it raises."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with cleanup: the function may have processes of its own
    silence_libraries()
    try:
        choose_options()
        sender.send(function(**arguments))
    except BadInput as error:
        sender.send(error)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        sender.send(Failed(f"{type(error).__name__}; its traceback is above"))
