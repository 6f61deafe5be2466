"""A hub of models on this machine: folders over HTTP, as the Hugging Face hub answers."""

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        self.server.calls.append(f"{self.command} {path}")
        name, _, file = path.lstrip("/").removeprefix("api/models/").partition("/resolve/main/")
        folder = self.server.models.get(name)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            files = [
                {"rfilename": one.relative_to(folder).as_posix(), "size": one.stat().st_size}
                for one in sorted(folder.rglob("*"))
                if one.is_file()
            ]
            return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": files}))
        if not (folder / file).is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = (folder / file).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: int, body: str | bytes, headers: dict[str, str] | None = None) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class SmallHub:
    """A hub that is asked over HTTP; ``calls`` are the requests that came."""

    def __init__(self, address: str, calls: list[str]) -> None:
        self.address, self.calls = address, calls

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Return the variables of a process that knows no other hub."""
        names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
        own = {name: value for name, value in os.environ.items() if name not in names}
        own |= {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
        return own | {"HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"} | more


@contextmanager
def serving_hub(models: dict[str, Path]) -> Iterator[SmallHub]:
    """Serve folders as models by their names."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.models, server.calls = models, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield SmallHub(f"http://127.0.0.1:{server.server_port}", server.calls)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_hub() -> Iterator[SmallHub]:
    """A hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SmallHub(f"http://127.0.0.1:{listener.getsockname()[1]}", [])


def refusing_hub() -> SmallHub:
    """A hub whose port nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return SmallHub(f"http://127.0.0.1:{listener.getsockname()[1]}", [])
