"""Server of the web page and its API: the ASGI application, the socket, start and end."""

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from retrieval import VideoIndex
from retrieval.errors import (
    IndexFolderError,
    MissingFileError,
    ModelUnavailableError,
    UnknownEntryError,
    UnreachableFileError,
)
from retrieval.web.access import Access, AccessControl
from retrieval.web.api import build_api, replace_surrogates
from retrieval.web.connections import (
    MAX_HEAD,
    Connection,
    QuietFilter,
    choose_max_connections,
)
from retrieval.web.files import FileAnswer, send_file
from retrieval.web.playback.cache import DiskCache
from retrieval.web.playback.routes import Playback, build_playback_api
from retrieval.web.sending import VideoSender
from retrieval.web.videos import GetWork, build_videos_api
from utils.errors import UserError
from utils.files import get_cache_folder

STATIC = Path(__file__).resolve().parent / "static"
GRACE_S = 1.0  # for answers that are being sent
_LOGGERS = (
    "uvicorn.error", "asyncio", __name__, "retrieval.web.playback.routes", "retrieval.web.sending",
    "utils.remote_store",
)  # fmt: skip
logger = logging.getLogger(__name__)


def build_app(
    index: VideoIndex,
    access: Access,
    cache: DiskCache | None = None,
    get_work: GetWork | None = None,
    sender: VideoSender | None = None,
) -> AccessControl:
    """Return the application for an open index, which may be updated while it is served.

    Args:
        cache: of what is made for players; None: the folder ``playback`` of the cache folder, if
            there is one.
        get_work: says what the work on the library is at (``work`` of ``/api/library``).
        sender: answers with videos; None: through this server, wherever they are.
    """
    sender = sender or VideoSender()
    if cache is None:
        folder = get_cache_folder(None)
        cache = DiskCache(None if folder is None else folder / "playback")
    app = FastAPI(
        title="TextVR",
        description="Search your own videos.",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(build_api(index, sender))
    app.include_router(build_videos_api(index, get_work))
    app.include_router(build_playback_api(Playback(index, cache, sender)))
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def page() -> FileAnswer:
        return send_file(STATIC / "index.html", "text/html", "index.html")

    _handle_errors(app)
    return AccessControl(app, access, sender.link_origins)


def _handle_errors(app: FastAPI) -> None:
    """Answer what the user can mend with one message; everything else is our error (500)."""

    def answer(status: int, text: str) -> JSONResponse:
        return JSONResponse({"detail": replace_surrogates(text)}, status)

    @app.exception_handler(RequestValidationError)
    def answer_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = (f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return answer(422, str(UserError("; ".join(problems))))  # names are those that were sent

    @app.exception_handler(UserError)
    def answer_user_error(request: Request, error: UserError) -> JSONResponse:
        return answer(404 if isinstance(error, UnknownEntryError) else 422, str(error))

    # Where files lie on this machine is for its user, not for those who ask.
    @app.exception_handler(MissingFileError)
    def answer_missing_file(request: Request, error: MissingFileError) -> JSONResponse:
        logger.warning("%s", error)
        return answer(404, "the file of this entry is not there any more; run index.py again")

    @app.exception_handler(UnreachableFileError)
    def answer_unreachable_file(request: Request, error: UnreachableFileError) -> JSONResponse:
        logger.warning("%s", error)
        return answer(502, "the store of this video gives nothing; see what the server says")

    @app.exception_handler(ModelUnavailableError)
    def answer_without_model(request: Request, error: ModelUnavailableError) -> JSONResponse:
        logger.error("%s", error)
        return answer(
            503,
            "pictures can't be searched with: the model of this index is not there any more; see "
            "what the server says",
        )

    @app.exception_handler(Exception)
    def answer_fault(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "something is wrong in this program; see what the server says")

    @app.exception_handler(IndexFolderError)
    def answer_unreadable_index(request: Request, error: IndexFolderError) -> JSONResponse:
        logger.error("%s", error)
        return answer(503, "the index can't be read; see what the server says")


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a name or address; port 0: any that is free.

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


def get_public_name(listener: socket.socket, host: str) -> str:
    """Return what stands for a host in addresses; for all of this machine's, the machine's name."""
    if ipaddress.ip_address(listener.getsockname()[0]).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]" if ":" in host else host.lower()


class Server(uvicorn.Server):
    """A server that ends although a browser holds a video half sent, as it does with a paused one.

    ``run(sockets=[...])`` answers until ``should_exit`` is set.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=partial(Connection, max_connections=choose_max_connections()),
            h11_max_incomplete_event_size=MAX_HEAD,
            log_config=None,
            access_log=False,  # addresses hold what is searched for
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
        )
        super().__init__(config)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, and write no log that others can fill."""
        quiet = QuietFilter()
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(quiet)
        try:
            await super().serve(sockets)
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(quiet)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is being sent, but not for long."""

        def abort_connections() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()

        asyncio.get_running_loop().call_later(GRACE_S, abort_connections)
        await super().shutdown(sockets)


def serve(app: ASGIApp, listener: socket.socket, prepare: Callable[[], None] | None = None) -> None:
    """Answer until SIGINT or SIGTERM, also one that comes before the start.

    Args:
        prepare: is called in a thread of its own meanwhile. Where it fails, the server ends with
            its exception.
    """
    server, failures = Server(app), []

    def run_preparation() -> None:
        try:
            prepare()
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, server.handle_exit) for number in caught}
    try:
        if prepare is not None:
            # A daemon: a model that is being loaded keeps nobody from ending the server.
            threading.Thread(target=run_preparation, daemon=True).start()
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise failures[0]
