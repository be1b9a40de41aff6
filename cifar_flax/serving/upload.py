"""Reads the picture that a request carries. Size and time are bounded, and nothing is written to a disk."""

import asyncio
import logging
from typing import Any

from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MAX_BYTES = 32 * 2**20  # of the body
MAX_PARTS = 20  # of a form; the parts of one of 32 MiB could take 12 seconds
UPLOAD_TIMEOUT = 30.0  # seconds

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # warnings of damaged forms


async def read_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: it is empty, too large, too slow or incomplete.
    """
    body = bytearray()
    _check_size(_declared_size(request))
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                _check_size(len(body))
    except TimeoutError as error:
        raise HTTPException(408, f"the picture did not arrive within {UPLOAD_TIMEOUT:g} seconds; try again") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection ended before the picture was complete; try again") from error
    if not body:
        raise HTTPException(400, "the body is empty; send the content of a picture's file")
    return bytes(body)


def _declared_size(request: Request) -> int:
    try:
        return int(request.headers.get("content-length", 0))
    except ValueError as error:
        raise HTTPException(
            400, "the header Content-Length is not a number; send the body's number of bytes"
        ) from error


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise HTTPException(413, f"the picture is larger than {MAX_BYTES // 2**20} MiB; send a smaller one")


def picture_in(body: bytes, content_type: str) -> bytes:
    """The picture in a body: all of it or, in a form (`multipart/form-data`), its only file.

    Raises:
        HTTPException: the form is damaged, has no file or several, or has too many parts.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        return body
    parts: list[Any] = []

    def keep(part: Any) -> None:
        parts.append(part)
        if len(parts) > MAX_PARTS:
            raise HTTPException(400, f"the form has more than {MAX_PARTS} parts; send one picture")

    try:
        headers = {"Content-Type": content_type.encode("latin-1")}
        in_memory = {"MAX_MEMORY_FILE_SIZE": MAX_BYTES}
        parser = create_form_parser(headers, keep, keep, config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, "the form is damaged; send the picture's file as the body") from error
    files = [part for part in parts if isinstance(part, File)]
    if len(files) != 1:
        raise HTTPException(400, f"the form has {len(files)} files; send one picture")
    files[0].file_object.seek(0)
    return files[0].file_object.read()
