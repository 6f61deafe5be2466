"""Clients that are slow, or many, and what is said in the log of those that send nonsense."""

import http.client
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from retrieval.web import connections
from tests.retrieval.web.serving import running_serve, serving_app
from utils.processes import raise_file_limit

HEAD = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def opened(address: str, *, send: bytes = b"") -> Iterator[socket.socket]:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as found:
        found.sendall(send)
        yield found


def read_all(connection: socket.socket) -> bytes:
    """What comes until the end; an end by force is one, too."""
    content = b""
    try:
        while part := connection.recv(1 << 16):
            content += part
    except ConnectionResetError:
        pass
    return content


@pytest.fixture
def hello() -> Iterator[str]:
    """A server that greets, and sends more than a client takes that doesn't read."""
    app = FastAPI()

    @app.get("/hello")
    def greet() -> str:
        return "hello"

    @app.get("/much")
    def send_much() -> StreamingResponse:
        return StreamingResponse(bytes(1 << 16) for _ in range(1000))

    with serving_app(app) as address:
        yield address


@pytest.mark.parametrize("send", [b"", b"GET /hello HT", HEAD, HEAD + b"X: 1\r\n", HEAD + b"X: 1"])
def test_a_head_that_does_not_come(hello, monkeypatch, send):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with opened(hello, send=send) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") if send else answer == b""
    assert not send or json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


def test_a_head_that_drips_after_an_answer(hello, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with opened(hello, send=HEAD + b"\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        answer = b""
        for byte in HEAD + b"X: " + b"x" * 10_000:  # the time does not begin anew with each byte
            time.sleep(0.02)
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            connection.setblocking(False)
            try:
                answer += connection.recv(65536)
            except (BlockingIOError, ConnectionResetError):
                pass
            connection.setblocking(True)
        else:
            raise AssertionError("it was never closed")


def test_a_body_that_nobody_reads_does_not_keep_the_connection(hello, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    request = HEAD + b"Content-Length: 1000\r\n\r\nbegun"
    with opened(hello, send=request) as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read(hello, monkeypatch):
    monkeypatch.setattr(connections, "STALL_S", 0.5)
    with opened(hello, send=b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        time.sleep(1.5)
        assert len(read_all(connection)) < 1000 << 16


def test_those_that_have_waited_longest_make_room(hello, monkeypatch):
    monkeypatch.setattr(connections, "MAX_OF_CLIENT", 20)
    with ExitStack() as stack:
        with httpx.Client(base_url=hello, trust_env=False) as client:
            assert client.get("/hello").json() == "hello"
            for _ in range(3):
                slow = [
                    stack.enter_context(opened(hello, send=HEAD[:number])) for number in range(15)
                ]
                assert client.get("/hello").json() == "hello"
            slow[-1].sendall(HEAD[14:] + b"\r\n")  # the last one has been taken
            assert slow[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
            assert httpx.get(f"{hello}/hello", trust_env=False).json() == "hello"


def test_many_idle_connections_and_few_files(street):
    """A server that may have 256 files open answers beside 300 connections that say nothing."""
    with running_serve(street / "my.index", files=256) as (process, address):
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(opened(address, send=HEAD))
            for query in ("sale", "casino"):
                answer = httpx.get(f"{address}/api/search?q={query}&mode=keyword", timeout=60)
                assert answer.status_code == 200 and answer.json()["hits"]
                path = f"/api/entries/{answer.json()['hits'][0]['id']}/video"
                assert httpx.get(address + path, timeout=60).status_code == 200
        process.terminate()
        assert "Traceback" not in process.stderr.read()


def test_the_file_limit_is_raised():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raise_file_limit() == hard or hard == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_no_request_is_answered_in_json_and_logged_once(hello, caplog, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with caplog.at_level(logging.WARNING):
        for content in (b"nonsense\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n",
                        HEAD + b"A" * 70_000, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
                        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzzz\r\n"):  # fmt: skip
            with opened(hello, send=content) as connection:
                head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 200 ")), (content[:80], head)
            assert json.loads(body)
    # Another server of this process may have said it within the same minute.
    assert len([one for one in caplog.records if "Invalid HTTP" in one.getMessage()]) <= 1
    assert not any(one.exc_info for one in caplog.records)


def test_the_log_has_each_message_once():
    quiet = connections.QuietFilter()

    def log(name: str, text: str, error: Exception | None = None) -> logging.LogRecord | None:
        info = None if error is None else (type(error), error, None)
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, text, (), info)
        return record if quiet.filter(record) else None

    told = log("asyncio", "accept failed\nsocket: <...>", OSError(24, os.strerror(24)))
    assert told.getMessage() == "accept failed ([Errno 24] Too many open files)"
    assert told.exc_info is None
    assert log("asyncio", "accept failed\nsocket: <...>", OSError(24, os.strerror(24))) is None
    fault = log("uvicorn.error", "Exception in ASGI application", KeyError("a"))
    assert fault.exc_info is not None
    assert log("uvicorn.error", "Exception in ASGI application", KeyError("b")) is None
    assert log("uvicorn.error", "Exception in ASGI application", ValueError("b")) is not None
    assert (
        sum(log("retrieval.web.server", f"{n} is missing") is not None for n in range(1000)) < 100
    )


def test_keep_alive_goes_on(hello):
    connection = http.client.HTTPConnection(hello.removeprefix("http://"), timeout=20)
    for _ in range(50):
        connection.request("GET", "/hello")
        assert connection.getresponse().read() == b'"hello"'
    connection.close()
