"""Files are sent by the number of an entry: whole, in ranges, and never another one."""

import os
import re
import socket

import httpx
import pytest

from data_loader.readers.container import SEARCHABLE_EXTENSIONS
from retrieval.search.example import MAX_PICTURE_BYTES
from retrieval.search.hybrid import MAX_QUERY
from retrieval.web.access import HEADERS
from retrieval.web.api import MAX_HITS, MEDIA_TYPES
from retrieval.web.server import STATIC
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import Sign, update, write_scene

NAME = 'holiday/beach/café "à la" <b>&.mp4'


def get_entry(client: httpx.Client, query: str) -> str:
    hits = client.get("/api/search", params={"q": query, "mode": "keyword"}).json()["hits"]
    return f"/api/entries/{hits[0]['id']}"


@pytest.fixture(scope="module")
def entry(client) -> str:
    """The entry of the video ``NAME``."""
    return get_entry(client, "onerror")


@pytest.fixture(scope="module")
def content(street) -> bytes:
    return (street / "videos" / NAME).read_bytes()


def test_a_whole_file(client, entry, content):
    answer = client.get(f"{entry}/video")
    assert answer.status_code == 200 and answer.content == content
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"
    shown = "inline; filename*=utf-8''caf%C3%A9%20%22%C3%A0%20la%22%20%3Cb%3E%26.mp4"
    assert answer.headers["content-disposition"] == shown


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        ("100-", 100, None),
        ("-7", -7, None),
        ("-99999999", 0, None),
        ("10-99999999", 10, None),
    ],
)
def test_ranges(client, entry, content, asked, first, end):
    expected = content[first:end]
    start = content.rindex(expected) if asked.startswith("-") else first
    for method in ("GET", "HEAD"):
        answer = client.request(method, f"{entry}/video", headers={"Range": f"bytes={asked}"})
        assert answer.status_code == 206
        last = start + len(expected) - 1
        assert answer.headers["content-range"] == f"bytes {start}-{last}/{len(content)}"
        assert answer.headers["content-length"] == str(len(expected))
        assert answer.content == (expected if method == "GET" else b"")


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0", "bytes=9999999999999999999-"])
def test_what_is_beyond_the_end_is_no_range(client, entry, content, asked):
    answer = client.get(f"{entry}/video", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=", "bytes=x-y", "lines=1-2", "bytes"])
def test_a_malformed_range_is_refused(client, entry, asked):
    assert client.get(f"{entry}/video", headers={"Range": asked}).status_code == 400


def test_a_range_of_what_has_changed_is_the_whole_file(client, entry, content):
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    answer = client.get(f"{entry}/video", headers=headers)
    assert answer.status_code == 200 and answer.content == content


def test_head_is_get_without_the_body(client, entry):
    for path in ("/", f"{entry}/video", f"{entry}/thumbnail"):
        head, full = client.head(path), client.get(path)
        assert head.status_code == 200 and head.content == b"" and full.content
        for name in ("content-length", "content-type", "etag"):
            assert head.headers[name] == full.headers[name]


def test_thumbnails(client, entry):
    answer = client.get(f"{entry}/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:3] == b"\xff\xd8\xff"


def test_every_container_has_its_type():
    endings = [ending for endings in MEDIA_TYPES.values() for ending in endings.split()]
    assert sorted(endings) == sorted(SEARCHABLE_EXTENSIONS)


def test_names_are_safe_in_headers(client):
    answer = client.get(get_entry(client, "RE16") + "/video")
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''two%0Alines.mp4"
    hits = client.get("/api/search", params={"q": "a", "folder": "street/caf\ufffd"}).json()["hits"]
    answer = client.get(f"/api/entries/{hits[0]['id']}/video")
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''no%20text.mp4"


def test_links_out_of_the_folder_and_missing_files_are_refused(own_street, caplog):
    secret = own_street / "secret.mp4"
    secret.write_bytes(b"secret")
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        entry = get_entry(client, "onerror")
        video = own_street / "videos" / NAME
        for change in (
            lambda: video.symlink_to(secret),
            lambda: None,
            lambda: os.mkfifo(video),
            lambda: video.mkdir(),
        ):
            video.unlink(missing_ok=True)
            change()
            answer = client.get(f"{entry}/video")
            assert answer.status_code == 404 and b"secret" not in answer.content
            assert "run index.py again" in answer.json()["detail"]
            assert str(own_street) not in answer.text
        beach = video.parent
        beach.rename(own_street / "elsewhere")
        beach.symlink_to(own_street / "elsewhere")
        assert client.get(f"{entry}/video").status_code == 404


def test_linked_videos_are_sent_and_nothing_else_outside(own_street, make_config):
    store, elsewhere = own_street / "store", own_street / "elsewhere"
    for folder, word in ((store, "linked"), (elsewhere, "secret")):
        write_scene(folder, "one.mp4", 2, [Sign(word)])
    link = own_street / "videos" / "more"
    link.symlink_to(store / "videos")
    (own_street / "ocr" / "more").symlink_to(store / "ocr")
    update(own_street, make_config())
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        entry = get_entry(client, "linked")
        content = (link / "one.mp4").read_bytes()
        assert client.get(f"{entry}/video").content == content

        link.unlink()
        link.symlink_to(elsewhere / "videos")  # the link leads elsewhere than when it was indexed
        assert client.get(f"{entry}/video").status_code == 404
        link.unlink()
        link.symlink_to(store / "videos")
        video = link / "one.mp4"
        video.unlink()
        for target in (elsewhere / "videos/one.mp4", own_street / "model.pth", own_street):
            video.symlink_to(target)
            assert client.get(f"{entry}/video").status_code == 404, target
            video.unlink()
        video.write_bytes(content)
        assert client.get(f"{entry}/video").content == content


def raw(address: str, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; returns the status and the answer."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


def get(address: str, target: bytes) -> tuple[int, bytes]:
    return raw(address, b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % target)


@pytest.mark.parametrize(
    "target",
    [
        b"/api/entries/1/../../../etc/passwd",
        b"/api/entries/%2e%2e%2fserver.py/video",
        b"/api/entries/1%00/video",
        b"/api/entries/1%2f..%2f2/video",
        b"/api/entries/1/video%00.jpg",
        b"/api/entries/1/video/../../../server.py",
        b"/api/entries/1/video%0d%0aX-Evil:%201",
        b"/api/entries/%0d%0aX-Evil:%201/video",
        b"/static/../server.py",
        b"/static/%2e%2e/server.py",
        b"/static/..%2fserver.py",
        b"/static/..%5cserver.py",
        b"/static/%252e%252e/server.py",
        b"/static/%252e%252e%252fserver.py",
        b"/static/app.js%00",
        b"/static/%00",
        b"/static//etc/passwd",
        b"/static/%2fetc/passwd",
        b"/static/",
        b"//etc/passwd",
        b"/..%2f..%2fetc/passwd",
        b"/static/" + b"a" * 5000,
        b"/\xff\xfe",
        b"http://evil.example/static/../server.py",
    ],
)
def test_encoded_tricks_lead_nowhere(address, target):
    status, answer = get(address, target)
    assert status in (400, 404, 422), answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-evil" not in head.lower()
    assert b"import" not in body and b"root:" not in body


def test_a_plain_request_of_that_kind_is_answered(address):
    assert get(address, b"/static/app.js")[0] == get(address, b"/")[0] == 200


@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_request_is_refused(address, request_line):
    assert raw(address, request_line)[0] in (400, 403)


def test_every_answer_has_the_headers(client, entry):
    for path, status in (
        ("/", 200), ("/static/app.js", 200), ("/nowhere", 404), ("/api/search", 422),
        (f"{entry}/video", 200), ("/api/entries/0", 404),
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == status
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    assert client.post("/api/folders").status_code == 405
    assert client.post("/api/search").status_code == 415  # a picture is sent so
    beyond = client.get(f"{entry}/video", headers={"Range": "bytes=-0"})
    assert beyond.headers["content-security-policy"].startswith("default-src 'none'; ")


def test_the_page_is_all_in_its_folder():
    texts = {file.name: file.read_text() for file in STATIC.iterdir()}
    assert {"index.html", "style.css", "app.js"} <= set(texts)
    for name, text in texts.items():
        checked = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in checked and "https:" not in checked and "//cdn" not in checked, name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, name
    assert f"const MAX_HITS = {MAX_HITS};" in texts["app.js"]
    assert f"const MAX_PICTURE_BYTES = {MAX_PICTURE_BYTES};" in texts["examples.js"]
    assert texts["index.html"].count(f'maxlength="{MAX_QUERY}"') == 2
    inline = re.findall(r"<[^>]*\s(?:on\w+|style)=|<script>|<style", texts["index.html"])
    assert inline == []
