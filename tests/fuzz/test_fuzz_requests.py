"""Requests of any content: each is answered well or refused with a reason, and leaves nothing."""

import asyncio
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.types import ASGIApp

from retrieval import VideoIndex
from retrieval.web import connections
from retrieval.web.access import Access
from retrieval.web.playback.cache import DiskCache
from retrieval.web.server import build_app
from tests.fuzz.fuzzing import check_message, fuzz
from tests.retrieval.web.serving import serving_app
from tests.retrieval.web.street import write_street

pytestmark = pytest.mark.slow
NUM_SENT = 1000  # by sockets
LONGEST_S = 10.0


def _make_picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(content, kind)
    return content.getvalue()


def often(*values):
    """Mostly one of some values, sometimes anything."""
    return st.one_of(st.sampled_from(values), st.sampled_from(values), anything)


anything = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers().map(lambda number: str(number).encode()),
    st.floats().map(lambda number: str(number).encode()),
    st.sampled_from([b"", b"\0", b"..", b"%", b"%00", b"\xed\xa0\xbd", b"9" * 5000, b"a" * 5000,
                     b"1e999", b"-1", b"null", b"[]", b"{}", b"'", b'"', b"a AND b OR", b"*"]),
)  # fmt: skip
numbers = often(
    b"1", b"2", b"7", b"0", b"-0", b"99", b"9" * 30, b"1.0", b"1e3", b"0x1", b"\xc2\xb2"
)
seconds = often(b"0", b"0.5", b"1", b"2", b"1e7", b"1e8", b"nan", b"inf", b"-1", b"1e-320")
endings = often(b"mp4", b"MP4", b"jpg", b"", b"mp4/..")
paths = st.one_of(
    st.sampled_from([b"/", b"/api/folders", b"/api/library", b"/api/openapi.json",
                     b"/static/app.js", b"/static/../server.py", b"//", b"/api", b"/api/search",
                     b"/api/videos/search", b"/api/videos/lookup", b"*", b"http://localhost/api/folders"]),
    st.builds(b"/api/entries/%b%b".__mod__, st.tuples(
        numbers, st.sampled_from([b"", b"/thumbnail", b"/video", b"/video.mp4", b"/x"]))),
    st.builds(b"/api/videos/%b/%b".__mod__, st.tuples(
        numbers, st.sampled_from([b"", b"file", b"frame", b"clip", b"segments/0.mp4"]))),
    st.builds(b"/api/videos/%b/file.%b".__mod__, st.tuples(numbers, endings)),
    st.builds(b"/api/videos/%b/segments/%b.mp4".__mod__, st.tuples(numbers, numbers)),
    st.builds(b"/static/%b".__mod__, anything),
    st.builds(b"/%b".__mod__, anything),
)  # fmt: skip
values = {
    b"q": often(b"casino", b'"open 24 hours"', b"a car", b"60%", b'"', b"casino " * 200),
    b"k": numbers, b"mode": often(b"hybrid", b"keyword", b"semantic", b"words"),
    b"folder": often(b"holiday", b"street/caf\xef\xbf\xbd", b"/", b".."),
    b"minus": anything, b"like": often(b"1", b"top.mp4@0.5", b"top.mp4@nan", b"@", b"99"),
    b"minus_like": often(b"2", b"x@1"), b"group": often(b"true", b"0", b"2"),
    b"near_duplicate": often(b"0.9", b"0", b"2", b"nan"), b"minus_image": often(b"true", b"no"),
    b"after": often(b"2020-01-01", b"9999-12-31", b"0001-01-01", b"2020-13-01"),
    b"before": often(b"2020-01-01", b"9999-12-31", b"0001-01-01"),
    b"min_length": seconds, b"max_length": seconds, b"has_text": often(b"true", b"x"),
    b"sort": often(b"relevance", b"newest", b"longest"), b"offset": numbers,
    b"path": often(b"top.mp4", b"../my.index/index.db", b"/etc/passwd"),
    b"t": seconds, b"width": often(b"16", b"480", b"1281"), b"start": seconds, b"end": seconds,
    b"token": anything,
}  # fmt: skip
pairs = st.one_of(
    *(st.tuples(st.just(key), value) for key, value in values.items()),
    st.tuples(anything, anything),
)
queries = st.lists(pairs, max_size=5).map(
    lambda found: b"&".join(b"=".join(quote_from_bytes(one).encode() for one in pair)
                            for pair in found)
)  # fmt: skip
ranges = st.lists(
    st.builds(b"%b-%b".__mod__, st.tuples(often(b"0", b"5", b"", b"999999999"),
                                          often(b"9", b"", b"4", b"9" * 30))), max_size=8,
).map(b",".join)  # fmt: skip
dates = often(b"Thu, 01 Jan 1970 00:00:00 GMT", b"Fri, 01 Jan 2100 00:00:00 GMT",
              b"Fri, 01 Jan 99999 00:00:00 GMT", b"Mon, 01 Jan 0001 00:00:00 -2359")  # fmt: skip
tags = often(b"*", b'"a"', b'W/"a", "b"', b'"', b"W/")
headers = st.lists(
    st.one_of(
        st.tuples(st.just(b"range"), ranges.map(lambda text: b"bytes=" + text)),
        st.tuples(st.just(b"range"), often(b"bytes", b"lines=1-2", b"bytes=-", b"BYTES = 0-1")),
        st.tuples(st.sampled_from([b"if-none-match", b"if-match", b"if-range"]), tags),
        st.tuples(st.sampled_from([b"if-modified-since", b"if-unmodified-since", b"if-range"]),
                  dates),
        st.tuples(st.just(b"content-type"), often(b"image/jpeg", b"image/", b"text/plain", b"")),
        st.tuples(st.just(b"content-length"), often(b"0", b"5", b"99999999999999999999", b"-1")),
        st.tuples(st.sampled_from([b"cookie", b"authorization", b"x-forwarded-host", b"expect",
                                   b"connection", b"accept", b"origin"]),
                  often(b"textvr=a", b"Bearer a", b"100-continue", b"upgrade", b"close")),
        st.tuples(st.just(b"host"), often(b"localhost", b"evil.example", b"")),
    ),
    max_size=5,
)  # fmt: skip
pictures = [_make_picture(kind) for kind in ("JPEG", "PNG", "GIF")]
bodies = st.one_of(
    st.just(b""), st.sampled_from(pictures), st.binary(max_size=200),
    st.sampled_from(pictures).flatmap(
        lambda whole: st.builds(lambda n, more: whole[:n] + more, st.integers(0, len(whole)),
                                st.binary(max_size=20))),
)  # fmt: skip
methods = st.sampled_from(
    ["GET"] * 8 + ["HEAD", "POST", "POST", "PUT", "OPTIONS", "DELETE", "BREW"]
)


class Request(dict):
    """What is sent, readable in a report."""

    def encode(self) -> bytes:
        """As a client sends it."""
        target = quote_from_bytes(self["path"], b"/%*:") + "?" * bool(self["query"])
        lines = [f"{self['method']} {target}".encode() + self["query"] + b" HTTP/1.1"]
        lines += [b"%b: %b" % header for header in self["headers"]]
        return b"\r\n".join([*lines, b"", self["body"]])


@st.composite
def requests(draw) -> Request:
    given_headers = draw(headers)
    if draw(st.integers(0, 9)) and all(name != b"host" for name, _ in given_headers):
        given_headers = [(b"host", b"localhost"), *given_headers]
    body = draw(bodies)
    if body and draw(st.integers(0, 3)):
        given_headers = [*given_headers, (b"content-type", b"image/png")]
    return Request(
        method=draw(methods),
        path=draw(paths),
        query=draw(queries),
        headers=given_headers,
        body=body,
    )


@pytest.fixture(scope="module")
def index(make_config, tmp_path_factory) -> Iterator[VideoIndex]:
    folder = tmp_path_factory.mktemp("street")
    write_street(folder, make_config())
    with VideoIndex.open(folder / "my.index") as opened:
        yield opened


@pytest.fixture(scope="module")
def app(index, tmp_path_factory) -> ASGIApp:
    return build_app(index, Access(), DiskCache(tmp_path_factory.mktemp("cache")))


async def ask(app: ASGIApp, request: Request) -> tuple[int, dict[bytes, bytes], bytes]:
    """Give an application a request; returns status, headers and body."""
    path = request["path"].decode("utf-8", "replace")
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": request["method"], "scheme": "http", "path": path, "root_path": "",
        "raw_path": request["path"], "query_string": request["query"],
        "headers": request["headers"], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    sent, begun, ended = [request["body"]], [], False
    content = bytearray()

    async def receive() -> dict:
        if sent:
            return {"type": "http.request", "body": sent.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict) -> None:
        nonlocal ended
        assert not ended
        if message["type"] == "http.response.start":
            assert not begun
            begun.append(message)
        else:
            assert begun
            content.extend(message.get("body", b""))
            ended = not message.get("more_body", False)

    await asyncio.wait_for(app(scope, receive, send), LONGEST_S)
    assert ended
    return begun[0]["status"], dict(begun[0]["headers"]), bytes(content)


def check_answer(request: Request, status: int, given: dict[bytes, bytes], content: bytes) -> None:
    """Check that an answer is whole, and says what is wrong if anything is."""
    assert 200 <= status < 500, status
    is_empty = request["method"] == "HEAD" or status in (204, 304)
    length = given.get(b"content-length")
    assert length is None or is_empty or int(length) == len(content)
    assert all(b"\r" not in value and b"\n" not in value for value in given.values())
    if status >= 400 and not is_empty and status != 499:
        if given.get(b"content-type") == b"application/json":
            check_message(json.loads(content)["detail"])
        else:
            assert not request["path"].startswith(b"/api/"), content
            check_message(content.decode())
    if status == 206:
        assert b"content-range" in given or b"multipart" in given[b"content-type"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


def test_requests_to_the_application(app, loop):
    @fuzz()
    @given(requests())
    def run(request: Request) -> None:
        check_answer(request, *loop.run_until_complete(ask(app, request)))

    run()


@st.composite
def sent_bytes(draw) -> bytes:
    """A request as it is sent, or damaged: cut, bytes changed, two at once, chunks of any kind."""
    request = draw(requests())
    if request["body"] and draw(st.booleans()):
        length = len(request["body"]) + draw(st.sampled_from([0, 0, 0, -1, 7]))
        request["headers"] = [*request["headers"], (b"content-length", str(length).encode())]
    elif request["body"] and draw(st.booleans()):
        request["headers"] = [*request["headers"], (b"transfer-encoding", b"chunked")]
        size = draw(often(b"%x" % len(request["body"]), b"0", b"ffffffffffffffffffff"))
        request["body"] = size + b"\r\n" + request["body"] + b"\r\n0\r\n\r\n"
    content = bytearray(request.encode())
    change = draw(st.integers(0, 5))
    if change == 0:
        content = content[: draw(st.integers(0, len(content)))]
    elif change == 1:
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    elif change == 2:
        content += Request(draw(requests())).encode()
    return bytes(content)


def send_bytes(address: str, content: bytes, is_left: bool) -> bytes:
    """Send bytes, and return what comes within the time; or leave at once."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=LONGEST_S) as connection:
        answer, begin = b"", time.monotonic()
        try:
            connection.sendall(content)
            while not is_left and (part := connection.recv(1 << 16)):
                answer += part
                assert time.monotonic() - begin < LONGEST_S, "it does not end"
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


def count_resources() -> tuple[int, int]:
    """How many files this process has open, and how many threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_bytes_to_a_server(app, monkeypatch, caplog):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with serving_app(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        for _ in range(3):  # the model is loaded, threads are there
            assert client.get("/api/search?q=casino").json()["hits"]
        files, threads = count_resources()

        @fuzz(NUM_SENT)
        @given(sent_bytes(), st.integers(0, 9))
        def run(content: bytes, leaves: int) -> None:
            answer = send_bytes(address, content, leaves == 0)
            statuses = re.findall(rb"^HTTP/1\.1 (\d+) ", answer[:20])
            assert all(status[:1] in b"124" for status in statuses), answer[:300]

        run()
        assert client.get("/api/search?q=casino").json()["hits"]
        deadline = time.monotonic() + 60
        while (found := count_resources())[0] > files + 8 or found[1] > threads + 8:
            assert time.monotonic() < deadline, (found, files, threads)
            time.sleep(0.1)
    assert not any(record.exc_info for record in caplog.records)
