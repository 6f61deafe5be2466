"""Videos in a bucket, as a browser gets them: by ranges through the server, or by signed links."""

import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import av
import httpx
import numpy as np
import pytest
from headless_browser import find_browser
from PIL import Image

import serve as serve_script
from retrieval import VideoIndex, media_player
from retrieval.index.ocr_text import OcrSource
from retrieval.index.roots import Roots, parse_folder
from retrieval.index.update import IndexOptions, update_index
from retrieval.web import sending
from retrieval.web.playback.cache import DiskCache
from retrieval.web.playback.media import probe_media
from retrieval.web.sending import VideoSender
from tests.object_store import SECRET, Store, running_store
from tests.range_server import serve_folder
from tests.retrieval.web.films import FILM_NAMED, FPS, index_films, read_number, write_film
from tests.retrieval.web.page_steps import CARDS, CLOSED, PLAYS, SETTLED, VIDEO
from tests.retrieval.web.serving import serving
from utils import remote_files
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import FileStamp

PLAIN, OLD = "a/plain ä.mp4", "broadcast.mpg"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote_files, "PAUSES_S", (0.01, 0.01))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "a").mkdir()
    write_film(folder, FILM_NAMED["plain.mp4"]).rename(folder / PLAIN)
    write_film(folder, FILM_NAMED[OLD])
    return folder


@pytest.fixture(scope="module")
def made(store, films, tmp_path_factory) -> Path:
    """An index of the films in the bucket ``films``, where there is more than those."""
    store.make_bucket("films")
    store.upload(films, "films", "v")
    out = tmp_path_factory.mktemp("served") / "my.index"
    roots = Roots.of(parse_folder("s3://films/v"))
    assert update_index(roots, out, None, OcrSource(), IndexOptions()).failed == {}
    for key in ("v/later.mp4", "elsewhere/private.mp4", "private.mp4"):
        store.put("films", key, b"private")
    return out


@pytest.fixture(scope="module")
def client(made) -> Iterator[httpx.Client]:
    with serving(made, cache=DiskCache(None)) as address:
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as opened:
            yield opened


@pytest.fixture(scope="module")
def numbers(made) -> dict[str, int]:
    with VideoIndex.open(made) as index:
        return {name: index.find_video(name).id for name in (PLAIN, OLD)}


def test_ranges_through_the_server(client, films, numbers, monkeypatch):
    monkeypatch.setattr(sending, "CHUNK", 1000)
    content, path = (films / PLAIN).read_bytes(), f"/api/videos/{numbers[PLAIN]}/file.mp4"
    whole = client.get(path)
    assert whole.status_code == 200 and whole.content == content
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-length"] == str(len(content))
    last = len(content) - 1
    spans = {"0-0": (0, 1), "5-4104": (5, 4105), f"{last}-": (last, last + 1), "-7": (-7, None)}
    for asked, (start, end) in spans.items():
        part = client.get(path, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == content[start:end]
        assert part.headers["content-range"].endswith(f"/{len(content)}")
    several = client.get(path, headers={"Range": "bytes=0-9,20-29"})
    assert several.status_code == 206 and content[20:30] in several.content
    beyond = client.get(path, headers={"Range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{last + 1}"
    head = client.head(path)
    assert head.status_code == 200 and head.content == b"" and head.headers["etag"]
    known = client.get(path, headers={"If-None-Match": head.headers["etag"]})
    assert known.status_code == 304 and known.content == b""
    entry = client.get("/api/search?q=plain").json()["hits"][0]["id"]
    assert client.get(f"/api/entries/{entry}/video.mp4").content == content


def test_only_what_is_in_the_index(client, numbers):
    """Whatever lies beside it in the bucket is never named."""
    for path in ("later.mp4", "../private.mp4", "../elsewhere/private.mp4", "/private.mp4"):
        assert client.get("/api/videos/lookup", params={"path": path}).status_code == 404
    number = max(numbers.values()) + 1
    for path in (f"/api/videos/{number}/file", f"/api/videos/{number}/clip?start=0&end=1"):
        assert client.get(path).status_code == 404
    assert client.get(f"/api/videos/{numbers[PLAIN]}/file.mpg").status_code == 404


def test_just_the_range_is_read(films, tmp_path):
    """A web server tells which bytes it was asked for."""
    out = tmp_path / "my.index"
    with serve_folder(films, ".mp4") as server:
        roots = Roots.of(parse_folder(server.url))
        update_index(roots, out, None, OcrSource(), IndexOptions())
        with VideoIndex.open(out) as index:
            number = index.find_video(PLAIN).id
        with serving(out, cache=DiskCache(None)) as address:
            server.requests.clear()
            url = f"{address}/api/entries/1/video.mp4"
            found = httpx.get(url, headers={"Range": "bytes=100-2099"}, trust_env=False)
            assert found.content == (films / PLAIN).read_bytes()[100:2100]
            assert [span[1:] for span in server.requests] == [(100, 2099)]
            answer = httpx.get(f"{address}/api/videos/{number}", trust_env=False).json()
            assert answer["playback"]["kind"] == "file"


def test_what_no_browser_plays_is_made_of_ranges(client, films, numbers, tmp_path):
    """The same as of a file here: streams, pictures and clips."""
    plain, old = (client.get(f"/api/videos/{numbers[name]}").json() for name in (PLAIN, OLD))
    assert plain["playback"]["kind"] == "file" and old["playback"]["kind"] == "stream"
    local = index_films(tmp_path / "local", films, {PLAIN: 13.0, OLD: 13.0})
    with serving(local, cache=DiskCache(None)) as address:
        for name, number in (("plain", 1), ("old", 2)):
            remote = numbers[PLAIN if name == "plain" else OLD]
            for path in ("segments/1.mp4", "frame?t=7.5&width=160"):
                here = httpx.get(f"{address}/api/videos/{number}/{path}", trust_env=False)
                there = client.get(f"/api/videos/{remote}/{path}")
                assert here.status_code == there.status_code == 200
                assert here.headers["content-type"] == there.headers["content-type"]
                if "frame" in path:
                    assert here.content == there.content
                    picture = np.asarray(Image.open(BytesIO(there.content)))
                    assert read_number(picture) == int(7.5 * FPS)
                else:
                    assert len(here.content) == len(there.content)
    clip = client.get(f"/api/videos/{numbers[PLAIN]}/clip?start=3&end=5")
    assert clip.status_code == 200
    with av.open(BytesIO(clip.content)) as container:
        assert 45 <= sum(1 for _ in container.decode(video=0)) <= 65


def test_a_video_that_is_replaced_or_gone(store, films, tmp_path):
    store.make_bucket("changing")
    first, second = ((films / name).read_bytes() for name in (PLAIN, OLD))
    store.put("changing", "v/film.mp4", first)
    store.put("changing", "v/other.txt", b"so that the folder stays")
    out = tmp_path / "my.index"
    roots = Roots.of(parse_folder("s3://changing/v"))
    update_index(roots, out, None, OcrSource(), IndexOptions())
    with serving(out, cache=DiskCache(None)) as address:
        with httpx.Client(base_url=address, trust_env=False) as client:
            path = "/api/videos/1/file.mp4"
            tag = client.get(path).headers["etag"]
            store.put("changing", "v/film.mp4", second)
            _forget()
            asked = {"Range": "bytes=0-9", "If-Range": tag}
            whole = client.get(path, headers=asked)
            assert whole.status_code == 200 and whole.content == second
            assert whole.headers["etag"] != tag
            store.put("changing", "v/film.mp4", first[: len(first) // 2])
            _forget()
            playback = client.get("/api/videos/1").json()["playback"]
            assert playback["kind"] == "pictures" and "cut short" in playback["reason"]
            store.put("changing", "v/film.mp4", b"")
            _forget()
            playback = client.get("/api/videos/1").json()["playback"]
            assert playback["kind"] == "pictures" and "is empty" in playback["reason"]
            store.delete("changing", "v/film.mp4")
            _forget()
            assert client.get(path).status_code == 404
            assert client.get("/api/videos/1").json()["playback"]["kind"] == "missing"
            frame = client.get("/api/videos/1/frame?t=1")
            assert frame.status_code == 200 and frame.content[:2] == b"\xff\xd8"  # the index's own


def _forget() -> None:
    """Let what was asked about files be too old."""
    from utils import remote_store

    for key, (_, status) in list(remote_store._STATUSES.items()):
        remote_store._STATUSES[key] = time.monotonic() - 2 * remote_store.STATUS_S, status


def test_of_several_films_in_a_file_the_same_one_is_shown(store, tmp_path):
    """Which one is known only when all of the file is read."""
    file = tmp_path / "v/two.mkv"
    file.parent.mkdir()
    with av.open(str(file), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = 0
        for stream, count in zip(streams, (2, 30), strict=True):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode(None))
    store.make_bucket("several")
    store.upload(file.parent, "several", "v")
    roots = Roots.of(parse_folder("s3://several/v"))
    found = []
    for number, place in enumerate((roots.locate("two.mkv"), file)):
        stamp = roots.look_at("two.mkv") if number == 0 else FileStamp.of(file)
        media = probe_media(place, stamp, 0.0)
        found.append((media.video, media.codec, media.kind))
    assert found[0] == found[1] and found[0][0] == 1


def test_a_version_is_never_mixed_with_another(store, films, monkeypatch, tmp_path):
    """Replaced while it is sent: the connection ends before its length."""
    store.make_bucket("mixed")
    content = (films / PLAIN).read_bytes()
    store.put("mixed", "v/film.mp4", content)
    out = tmp_path / "my.index"
    roots = Roots.of(parse_folder("s3://mixed/v"))
    update_index(roots, out, None, OcrSource(), IndexOptions())
    monkeypatch.setattr(sending, "CHUNK", 10_000)
    read = sending.RemoteContent.read

    def replace_after(self, size: int) -> bytes:
        part = read(self, size)
        if content.startswith(part):
            store.put("mixed", "v/film.mp4", content[::-1])
        return part

    monkeypatch.setattr(sending.RemoteContent, "read", replace_after)
    with serving(out, cache=DiskCache(None)) as address:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{address}/api/videos/1/file.mp4", trust_env=False)


def test_a_store_that_does_not_answer(films, tmp_path, caplog):
    out = tmp_path / "my.index"
    with serve_folder(films, ".mp4") as server:
        url = server.url
        update_index(Roots.of(parse_folder(url)), out, None, OcrSource(), IndexOptions())
    _forget()
    with serving(out, cache=DiskCache(None)) as address:
        with httpx.Client(base_url=address, trust_env=False) as client:
            for path in ("/api/entries/1/video", "/api/videos/1/file"):
                answer = client.get(path)
                assert answer.status_code == 502 and url not in answer.text
            playback = client.get("/api/videos/1").json()["playback"]
            assert playback["kind"] == "missing" and "store gives nothing" in playback["reason"]
            assert client.get("/api/search?q=plain").json()["hits"]  # that goes on
            assert client.get("/api/entries/1/thumbnail").status_code == 200
    assert url in caplog.text


def test_signed_links(store, made, films, numbers):
    with VideoIndex.open(made) as index:
        sender = VideoSender.with_links(index, 600)
    with serving(made, cache=DiskCache(None), sender=sender) as address:
        with httpx.Client(base_url=address, trust_env=False) as client:
            content, path = (films / PLAIN).read_bytes(), f"/api/videos/{numbers[PLAIN]}/file.mp4"
            page = client.get("/")
            answer = client.get(path, headers={"Range": "bytes=0-9"})
            head = client.head(path)
            unknown = client.get(f"/api/videos/{max(numbers.values()) + 1}/file")
            by_entry = client.get("/api/entries/1/video")
    assert answer.status_code == by_entry.status_code == 307 and answer.content == b""
    link = urlsplit(answer.headers["location"])
    origin = f"{link.scheme}://{link.netloc}"
    assert origin == store.client.meta.endpoint_url
    policy = page.headers["content-security-policy"]
    assert f"media-src 'self' {origin} blob:" in policy and policy.count(origin) == 1
    asked = parse_qs(link.query)
    expires = asked.get("Expires") or asked["X-Amz-Expires"]
    assert int(expires[0]) - (time.time() if "Expires" in asked else 0) <= 601
    assert SECRET not in answer.headers["location"]
    found = httpx.get(answer.headers["location"], headers={"Range": "bytes=5-9"}, trust_env=False)
    assert found.status_code == 206 and found.content == content[5:10]
    assert head.status_code == 200 and head.headers["content-length"] == str(len(content))
    assert unknown.status_code == 404 and "location" not in unknown.headers


@pytest.mark.skipif(find_browser() is None, reason="no chromium or chrome on PATH")
@pytest.mark.parametrize("by_link", [False, True])
def test_a_browser_plays_it(by_link, browser, store, made):
    """Also past the page's security policy, which names the store then."""
    with VideoIndex.open(made) as index:
        sender = VideoSender.with_links(index, 600) if by_link else None
    with serving(made, cache=DiskCache(None), sender=sender) as address:
        browser.open(f"{address}/?q=plain&mode=keyword", 1280)
        browser.wait_for(f"{CARDS}.length && {SETTLED}")
        before, endpoint = len(browser.requests()), store.client.meta.endpoint_url
        browser.click("#results .play")
        browser.wait_for(f"{PLAYS} && {VIDEO}.currentTime > 0.5")
        browser.value(f"{VIDEO}.currentTime = 9")
        browser.wait_for(f"!{VIDEO}.seeking && {VIDEO}.currentTime >= 9")
        assert browser.value(f"[{VIDEO}.videoWidth, {VIDEO}.videoHeight]") == [160, 96]
        asked = browser.requests()[before:]
        assert any(url.startswith(f"{endpoint}/films/v/a/") for url in asked) == by_link
        assert not any("segments" in url for url in asked)
        browser.press("Escape")
        browser.wait_for(CLOSED)
        assert browser.complaints() == []
        browser.open("about:blank", 1280)


def test_links_where_there_are_none(films, tmp_path, monkeypatch, capsys):
    local = index_films(tmp_path / "local", films, {PLAIN: 13.0})
    command = ["serve.py", str(local), "--port", "0", "--signed-links"]
    for added, said in (([], "files of this machine"), (["3"], "expected seconds, 60 to")):
        monkeypatch.setattr(sys, "argv", [*command, *added])
        with pytest.raises(SystemExit) as caught:
            run_cli(serve_script.main)
        assert caught.value.code == 2 and said in capsys.readouterr().err
    with serve_folder(films) as server:
        out = tmp_path / "my.index"
        roots = Roots.of(parse_folder(server.url))
        update_index(roots, out, None, OcrSource(), IndexOptions())
        with VideoIndex.open(out) as index:
            with pytest.raises(UserError, match=f"{server.url}: this kind of store signs no links"):
                VideoSender.with_links(index, 60)


def test_a_player_is_given_a_link(store, made, films, tmp_path, monkeypatch):
    player = tmp_path / "mpv"
    player.write_text('#!/bin/sh\necho "$@" > "$0.said"\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with VideoIndex.open(made) as index:
        place = index.locate_video(index.find_video(PLAIN))
        assert media_player.open_player(place, 3.5) == "mpv"
        gone = index.roots.locate("a/gone.mp4")
    said = tmp_path / "mpv.said"
    deadline = time.monotonic() + 20
    while not (said.exists() and said.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    start, _, link = said.read_text().split()
    assert start == "--start=3.50"
    assert httpx.get(link, trust_env=False).content == (films / PLAIN).read_bytes()
    with pytest.raises(UserError, match="s3://films/v/a/gone.mp4: is not there any more"):
        media_player.open_player(gone, 0.0)


def test_the_date_of_a_remote_video_is_that_of_its_object(made, client, numbers):
    changed = client.get(f"/api/videos/{numbers[PLAIN]}").json()["modified"]
    with VideoIndex.open(made) as index:
        stamp: FileStamp = index.roots.look_at(PLAIN)
    assert abs(stamp.mtime_ns / 1e9 - time.time()) < 3600 and changed.startswith("20")
