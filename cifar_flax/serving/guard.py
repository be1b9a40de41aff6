"""Refuses requests that another web site could have made through the user's browser."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cifar_flax.errors import printable
from cifar_flax.serving.answers import refuse

READ_ONLY = ("GET", "HEAD")


class Guard:
    """Middleware that checks where a request comes from.

    - The Host header must be an IP address, localhost or the host that the server was started with. A site that lets
      its own name point to this machine (DNS rebinding) sends its name.
    - A request that is not read-only must come from the server's own page, or from a program that is no browser.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._names = app, ("localhost", host.lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if not self._is_own(host):
                app = refuse(
                    421, f"the server has no name {printable(host)!r}; use its IP address, or start it with --host"
                )
            elif scope["method"] not in READ_ONLY and not _is_same_origin(headers):
                app = refuse(403, "the request comes from another web site; send it from this page or from a program")
        await app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        name = _split(host, "//")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True


def _is_same_origin(headers: Headers) -> bool:
    """Whether a browser says that its request comes from the server's own page. Other programs send no such header."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    is_own = origin is None or _split(origin) == _split(headers["host"], "//")
    return is_own and site in ("same-origin", "none")


def _split(url: str, prefix: str = "") -> tuple[str, str]:
    """The host name and the complete authority of a URL; empty if it is not valid."""
    try:
        parts = urlsplit(prefix + url)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""
