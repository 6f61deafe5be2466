"""A server process: its socket, its address, and how it ends."""

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from utils.errors import UserError

GRACE_S = 1.0  # for answers that are being sent


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: name or address.
        port: 0: any that is free.

    Raises:
        UserError: the port is taken or needs more rights, or the host is not of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "give a name or an address of this machine with --host"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason, remedy = "the port is in use", "give another one with --port"
        elif getattr(error, "errno", None) == errno.EACCES:
            remedy = "give a port above 1023 with --port"
        raise UserError(f"{host}:{port}: can't be listened at ({reason}); {remedy}") from error


def is_local(listener: socket.socket) -> bool:
    """Whether only programs on this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def name_of(listener: socket.socket, host: str) -> str:
    """Return what stands for a host in addresses; for all of this machine's, the machine's name."""
    if ipaddress.ip_address(listener.getsockname()[0]).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]" if ":" in host else host.lower()


class Server(uvicorn.Server):
    """A server that ends although a browser holds a video half sent, as it does with a paused one.

    ``run(sockets=[...])`` answers until ``should_exit`` is set. Addresses hold what is searched
    for, so that no request is logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is being sent, but not for long."""
        asyncio.get_running_loop().call_later(GRACE_S, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM."""
    server = Server(app)
    with _ending(server):
        server.run(sockets=[listener])


@contextmanager
def _ending(server: uvicorn.Server) -> Iterator[None]:
    """Let signals end a server, those before its start and those that it hands on, too."""
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, server.handle_exit) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
