"""A real server in a thread."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from retrieval import VideoIndex
from retrieval.web.access import Access
from retrieval.web.server import Server, build_app, open_socket
from tests.conftest import ROOT


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
def running_serve(folder: Path, files: int | None = None) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run serve.py as a process of its own; yields it and its address, without the last slash.

    Args:
        files: that it may have open.
    """
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({files}, {files}))\n"
    script = "import runpy; runpy.run_path('serve.py', run_name='__main__')"
    command = [sys.executable, "-c", (limit if files else "") + script, str(folder), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process, process.stdout.readline().split()[-1].rstrip("/")
        finally:
            process.terminate()


@contextmanager
def serving(folder: Path, access: Access | None = None, **options: Any) -> Iterator[str]:
    """Serve an index as ``serving_app`` does.

    Args:
        options: of ``build_app``.
    """
    with VideoIndex.open(folder) as index:
        with serving_app(build_app(index, access or Access(), **options)) as address:
            yield address
