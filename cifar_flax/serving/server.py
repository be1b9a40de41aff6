"""Runs the application on a socket until a signal arrives."""

import errno
import ipaddress
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from cifar_flax.errors import BadInput, warn

SHUTDOWN_TIMEOUT = 3  # seconds for requests in progress


class Server(uvicorn.Server):
    """A server that calls `on_start` as soon as it answers.

    Attributes:
        signal_number: the signal that ended it; None while it runs.
    """

    def __init__(self, app: Starlette, on_start: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # the application reports its own errors
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
            )
        )
        self._on_start = on_start
        self.signal_number: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """Shuts down. The base class would also raise the signal again, which ends the process without flushing."""
        self.force_exit = self.should_exit
        self.should_exit, self.signal_number = True, sig


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. A line on stderr warns if other machines can reach it.

    Raises:
        BadInput: the host or the port cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"--host: {host!r} cannot be resolved ({reason}); use 127.0.0.1, or an address of this machine"
        ) from error
    try:
        opened = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise BadInput(_describe(error, host, port)) from error
    if not ipaddress.ip_address(address[0]).is_loopback:
        warn(f"--host: everybody in the network can reach {host}; without --host only this machine can")
    return opened


def _describe(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is not an address of this machine; use 127.0.0.1, or one that is"
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} is already in use; choose another one, or 0 for any free one"
    return f"--port: {port} on {host} cannot be opened ({error.strerror}); choose another one, or 0 for any free one"


def url_of(opened: socket.socket, host: str) -> str:
    """The address of the page on this machine."""
    ip, port = opened.getsockname()[:2]
    name = "localhost" if ipaddress.ip_address(ip).is_unspecified else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"
