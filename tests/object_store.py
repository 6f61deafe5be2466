"""An S3 server of this machine's (moto's), and stores that refuse."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SECRET = "open-sesame-17"


class Store:
    """A running server.

    Attributes:
        requests: so far, as ``GET /bucket/key``, where keys are escaped.
    """

    def __init__(self, server: Any, client: Any) -> None:
        self._server, self.client = server, client
        self.requests: list[str] = []

    def make_bucket(self, name: str) -> None:
        self.client.create_bucket(Bucket=name)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put all files below a folder."""
        for path in filter(Path.is_file, folder.rglob("*")):
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            self.put(bucket, key, path.read_bytes())

    def count_reads(self, ending: str) -> int:
        """How many requests have asked for content of such objects."""
        return sum(text.startswith("GET") and text.endswith(ending) for text in self.requests)

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def running_store() -> Iterator[Store]:
    """Run a server, to which the environment leads meanwhile."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with leading_to(f"http://{host}:{port}"), pytest.MonkeyPatch.context() as patch:
        found = Store(server, boto3.client("s3"))
        handler = pytest.importorskip("moto.moto_server.werkzeug_app").MotoRequestHandler

        def log_request(self: Any, *_: object) -> None:
            found.requests.append(f"{self.command} {self.path.partition('?')[0]}")

        patch.setattr(handler, "log_request", log_request)
        try:
            yield found
        finally:
            server.stop()


@contextmanager
def leading_to(url: str) -> Iterator[None]:
    """Let the environment lead to a server of S3."""
    fsspec = pytest.importorskip("fsspec")
    systems = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        systems.clear_instance_cache()  # of another server
        try:
            yield
        finally:
            systems.clear_instance_cache()


@contextmanager
def refusing_store() -> Iterator[str]:
    """Run a server that denies access as S3 does; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = answer  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
