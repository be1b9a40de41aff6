"""Messages between processes: JSON objects, one a line."""

import asyncio
import json
from typing import Any

MAX_SIZE = 2**20  # bytes of a line; class names and error messages are the longest parts


class Lost(Exception):
    """The other side closed the connection, was silent for too long, or sent something else."""


async def receive(reader: asyncio.StreamReader, timeout: float | None = None) -> dict[str, Any]:
    """The next message.

    Raises:
        Lost: there is none within `timeout` seconds. The text says why.
    """
    try:
        line = await asyncio.wait_for(reader.readline(), timeout)
        message = json.loads(line) if line else None
    except TimeoutError as error:
        raise Lost(f"it did not answer for {timeout:g} s") from error
    except (OSError, ValueError, RecursionError) as error:  # the connection broke, or the line is no JSON or too long
        raise Lost(f"its connection failed ({error})") from error
    if message is None:
        raise Lost("its connection was closed")
    if not isinstance(message, dict):
        raise Lost("it sent something else than a message")
    return message


def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Sends a message in the background. A connection that is gone is noticed by `receive`."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")
