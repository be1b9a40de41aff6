"""The headers of all answers, and the form of errors."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def answer(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, status, HEADERS | dict(headers or {}))


def refuse(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return answer({"error": sentence}, status, headers)
