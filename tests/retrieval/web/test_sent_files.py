"""Files are sent by the number of an entry: whole, in ranges, and never another one."""

import email
import os
import re
import socket
import subprocess
import sys

import httpx
import pytest

from data_loader.readers.container import SEARCHABLE_EXTENSIONS
from retrieval.index.layout import thumbnail_file
from retrieval.search.example import MAX_PICTURE_BYTES
from retrieval.search.hybrid import MAX_QUERY
from retrieval.web.access import HEADERS
from retrieval.web.api import MAX_HITS
from retrieval.web.files import MEDIA_TYPES
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


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=", "bytes=x-y", "bytes=0-1,x", "bytes"])
def test_a_malformed_range_is_refused(client, entry, asked):
    assert client.get(f"{entry}/video", headers={"Range": asked}).status_code == 400


@pytest.mark.parametrize("asked", ["lines=1-2", "seconds=0-5", "=0-5"])
def test_an_unknown_unit_of_ranges_is_ignored(client, entry, content, asked):
    answer = client.get(f"{entry}/video", headers={"Range": asked})
    assert answer.status_code == 200 and answer.content == content


def test_several_ranges(client, entry, content):
    def ask(ranges: str) -> httpx.Response:
        return client.get(f"{entry}/video", headers={"Range": f"bytes={ranges}"})

    answer = ask("30-39, 0-4,, 99999999- ,-3")
    assert answer.status_code == 206
    kind = answer.headers["content-type"]
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + answer.content)
    size = len(content)
    expected = [(0, 5), (30, 40), (size - 3, size)]
    parts = message.get_payload()
    assert [part["Content-Range"] for part in parts] == [
        f"bytes {first}-{end - 1}/{size}" for first, end in expected
    ]
    assert [part["Content-Type"] for part in parts] == ["video/mp4"] * 3
    found = [part.get_payload(decode=True) for part in parts]
    assert found == [content[first:end] for first, end in expected]
    for ranges in ("0-4,3-9", "5-9,0-4", "0-9,2-3"):  # one, as they overlap or touch
        answer = ask(ranges)
        assert answer.headers["content-range"] == f"bytes 0-9/{size}"
        assert answer.status_code == 206 and answer.content == content[:10]
    assert ask(",".join(f"{n}-{n}" for n in range(0, 400, 2))).status_code == 200  # too many
    assert ask("9999999-,-0").status_code == 416


def test_conditional_requests(client, entry, content):
    whole = client.get(f"{entry}/video")
    tag, date = whole.headers["etag"], whole.headers["last-modified"]
    old, later = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    part = {"Range": "bytes=2-5"}
    for headers, status in (
        ({"If-None-Match": tag}, 304), ({"If-None-Match": f'"other", W/{tag}'}, 304),
        ({"If-None-Match": "*"}, 304), ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": tag[1:-1]}, 200), ({"If-None-Match": tag} | part, 304),
        ({"If-Modified-Since": date}, 304), ({"If-Modified-Since": later}, 304),
        ({"If-Modified-Since": old}, 200), ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": later, "If-None-Match": '"other"'}, 200),
        ({"If-Match": tag}, 200), ({"If-Match": f'"a", {tag}'}, 200), ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412), ({"If-Match": f"W/{tag}"}, 412),
        ({"If-Match": '"other"', "If-None-Match": tag}, 412),
        ({"If-Unmodified-Since": old}, 412), ({"If-Unmodified-Since": date}, 200),
        ({"If-Unmodified-Since": old, "If-Match": tag}, 200),
        ({"If-Match": tag} | part, 206), ({"If-Match": '"other"'} | part, 412),
        ({"If-Range": tag} | part, 206), ({"If-Range": date} | part, 206),
        ({"If-Range": f"W/{tag}"} | part, 200), ({"If-Range": old} | part, 200),
        ({"If-Range": later} | part, 200), ({"If-Range": tag}, 200),
    ):  # fmt: skip
        for method in ("GET", "HEAD"):
            answer = client.request(method, f"{entry}/video", headers=headers)
            assert answer.status_code == status, (method, headers)
            if status == 304:
                assert answer.headers["etag"] == tag and answer.content == b""
                assert "content-length" not in answer.headers
            elif method == "GET":
                expected = {200: content, 206: content[2:6]}
                assert answer.content == expected.get(status, answer.content)
                assert status != 412 or answer.json()["detail"]
    thumbnail = client.get(f"{entry}/thumbnail")
    headers = {"If-None-Match": thumbnail.headers["etag"]}
    assert client.get(f"{entry}/thumbnail", headers=headers).status_code == 304
    page = client.get("/")
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304


def test_addresses_may_end_as_the_name_does(client, entry, content):
    number = client.get("/api/videos/lookup", params={"path": NAME}).json()["id"]
    for address in (f"{entry}/video", f"/api/videos/{number}/file"):
        for ending, status in (("", 200), (".mp4", 200), (".MP4", 200), (".mkv", 404), (".", 404)):
            answer = client.get(address + ending)
            assert answer.status_code == status, address + ending
            assert status == 404 or answer.content == content


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


def test_links_that_lead_nowhere(own_street):
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        entry = get_entry(client, "onerror")
        number = client.get("/api/videos/lookup", params={"path": NAME}).json()["id"]
        video = own_street / "videos" / NAME
        thumbnail = thumbnail_file(own_street / "my.index", int(entry[13:]))
        picture = thumbnail.read_bytes()
        for path in (video, thumbnail):
            path.unlink()
            path.symlink_to(path)
        paths = "file", "file.mp4", "segments/0.mp4", "clip?start=0&end=1", "frame?t=0"
        for path in (f"{entry}/video", *(f"/api/videos/{number}/{path}" for path in paths)):
            assert client.get(path).status_code == 404, path
        assert client.get(f"/api/videos/{number}").json()["playback"]["kind"] == "missing"
        assert client.get(f"{entry}/thumbnail").status_code == 404
        thumbnail.unlink()
        thumbnail.write_bytes(picture)
        beach = video.parent
        beach.rename(own_street / "elsewhere")
        beach.symlink_to(beach)
        assert client.get(f"{entry}/video").status_code == 404
        assert client.get(f"/api/videos/{number}/frame?t=0").content == picture


SWAP = """
import os, random, sys, threading, time
path, target = sys.argv[1:]
spare, kept = f"{path}-spare", f"{path}-kept"
os.symlink(target, spare)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
while not ended.is_set():
    for old, new in ((path, kept), (spare, path), (path, spare), (kept, path)):
        os.rename(old, new)
        time.sleep(random.random() * 1e-3)  # each state is met
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_is_swapped_for_a_link_is_never_left(own_street, monkeypatch, what):
    """A process swaps a video, or its folder, for a link to another outside."""
    video, outside = own_street / "videos/holiday/casino.mp4", own_street / "outside"
    write_scene(outside, "casino.mp4", 2, [Sign("secret")])
    path, target = video, outside / "videos/casino.mp4"
    foreign = target.read_bytes()
    if what == "folder":
        path, target = path.parent, target.parent
    monkeypatch.setenv("TEXTVR_CACHE", "off")
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        entry = get_entry(client, "casino royale")
        number = client.get("/api/videos/lookup?path=holiday/casino.mp4").json()["id"]
        base = f"/api/videos/{number}"
        addresses = {f"{entry}/video": 100, f"{base}/file": 100, f"{base}/segments/0.mp4": 4}
        addresses |= {f"{base}/frame?t=1.5": 4, f"{base}/clip?start=0&end=1": 4}
        right = {address: client.get(address).content for address in addresses}
        assert right[f"{base}/file"] == video.read_bytes() != foreign
        thumbnails = [client.get(f"/api/entries/{n}/thumbnail").content for n in range(1, 8)]
        command = [sys.executable, "-c", SWAP, str(path), str(target)]
        with subprocess.Popen(command, stdin=subprocess.PIPE):
            statuses = set()

            def ask(address: str) -> None:
                answer = client.get(address)
                statuses.add(answer.status_code)
                assert answer.status_code in (200, 404, 422), answer.text
                if answer.status_code == 200:
                    assert answer.content in (right[address], *thumbnails), address

            for address, times in addresses.items():
                for _ in range(times):
                    ask(address)
            for _ in range(5_000):  # on a busy machine the swaps may come late
                if statuses >= {200, 404}:
                    break
                ask(f"{base}/file")
        assert statuses >= {200, 404}


def test_a_file_that_grows_or_shrinks_while_it_is_sent(own_street):
    """As many bytes are sent as were promised, or the connection ends before them."""
    video = own_street / "videos" / NAME
    size = 1 << 24
    with video.open("ab") as file:
        file.truncate(size)
    with serving(own_street / "my.index") as address, httpx.Client(base_url=address) as client:
        entry = get_entry(client, "onerror")
        for change in (2 * size, size // 2):
            with client.stream("GET", f"{entry}/video") as answer:
                promised, parts = int(answer.headers["content-length"]), answer.iter_raw(65536)
                received = len(next(parts))
                os.truncate(video, change)
                if change > promised:
                    assert received + sum(map(len, parts)) == promised
                else:
                    with pytest.raises(httpx.RemoteProtocolError):
                        sum(map(len, parts))
        assert client.get(f"{entry}/thumbnail").status_code == 200


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
