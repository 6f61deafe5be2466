"""A real server in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval import VideoIndex
from retrieval.web.access import Access
from retrieval.web.server import Server, build_app, open_socket


@contextmanager
def serving(folder: Path, access: Access | None = None, **options: Any) -> Iterator[str]:
    """Serve an index on a free port; yields the address, without the last slash.

    Args:
        options: of ``build_app``.
    """
    with VideoIndex.open(folder) as index, open_socket("127.0.0.1", 0) as listener:
        server = Server(build_app(index, access or Access(), **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
