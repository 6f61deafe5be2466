"""A real server in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from retrieval import VideoIndex
from retrieval.web.access import Access
from retrieval.web.server import Server, build_app, open_socket


@contextmanager
def serving_app(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port; yields the address, without the last slash."""
    with open_socket("127.0.0.1", 0) as listener:
        server = Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def serving(folder: Path, access: Access | None = None, **options: Any) -> Iterator[str]:
    """Serve an index as ``serving_app`` does.

    Args:
        options: of ``build_app``.
    """
    with VideoIndex.open(folder) as index:
        with serving_app(build_app(index, access or Access(), **options)) as address:
            yield address
