"""Playback without a browser: segments that join, exact pictures, clips, and what goes wrong."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import ceil
from pathlib import Path

import av
import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request

from retrieval import VideoIndex
from retrieval.web.access import Access
from retrieval.web.playback.cache import DiskCache
from retrieval.web.playback.clip import NEAR_S, cut_clip
from retrieval.web.playback.decoding import Job, JobCancelledError, NoPictureError, decode_picture
from retrieval.web.playback.encoding import MAX_SIDES, SAMPLE_RATE
from retrieval.web.playback.media import SEGMENT_S, Media, UnplayableError, probe_media
from retrieval.web.playback.routes import JobRunner, Playback, build_playback_api
from retrieval.web.playback.segments import find_boundary, make_segment
from retrieval.web.server import build_app
from tests.retrieval.web.films import (
    COLOURS,
    FILM_NAMED,
    FPS,
    HEIGHT,
    HERTZ,
    LOUDNESS,
    WIDTH,
    X264,
    Film,
    draw_frame,
    index_films,
    read_number,
    write_film,
)
from tests.retrieval.web.serving import serving_app
from utils.files import FileStamp

STREAMED = ["hevc.mp4", "b-frames.avi", "remux.ts", "remux.mkv", "broadcast.mpg", "pyramid.avi"]
SLOW = [name for name in FILM_NAMED if name not in STREAMED]
FRAMES = round(FILM_NAMED["plain.mp4"].seconds * FPS)
WriteFilm = Callable[..., Path]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> WriteFilm:
    """Writes each film once: by its name, or as a film is described."""
    folder = tmp_path_factory.mktemp("films")

    @cache
    def write(name: str) -> Path:
        return write_film(folder, FILM_NAMED[name])

    return lambda film: write(film) if isinstance(film, str) else write_film(folder, film)


def probe(file: Path, seconds: float = 0.0) -> Media:
    return probe_media(file, FileStamp.of(file), seconds)


def make_all(media: Media) -> list[bytes]:
    return [make_segment(media, number, Job()) for number in range(media.num_segments)]


def decode_video(content: bytes) -> list[tuple[float, np.ndarray]]:
    """The frames with their times from the first one, which a demuxer may move."""
    with av.open(io.BytesIO(content)) as container:
        frames = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return [(time_s - frames[0][0], image) for time_s, image in frames]


def decode_sound(content: bytes) -> tuple[float, np.ndarray]:
    """When the sound of some segments begins, and its samples."""
    with av.open(io.BytesIO(content)) as container:
        (stream,) = container.streams.audio
        parts = [(f.pts, f.to_ndarray()[0]) for f in container.decode(stream)]
    for (first, part), (second, _) in pairwise(parts):
        assert second - first == len(part)
    return parts[0][0] / SAMPLE_RATE, np.concatenate([part for _, part in parts])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("plain.mp4", "file"), ("vp9.webm", "file")] + [(name, "stream") for name in STREAMED],
)
def test_what_browsers_play_is_left_as_it_is(films, name, kind):
    media = probe(films(name))
    assert media.kind == kind and (media.reason is None) == (kind == "file")
    assert media.duration_s == pytest.approx(13, abs=0.5) and media.num_segments == 3
    assert media.can_copy == (name in ("plain.mp4", "remux.ts", "remux.mkv"))


def test_what_changes_the_kind(films):
    film = FILM_NAMED["plain.mp4"]
    for change in (
        {"sound": "ac3"},
        {"late_s": 1.0, "options": X264 | {"bf": "0"}},
        {"pix_fmt": "yuv444p", "options": {"preset": "ultrafast"}},
    ):
        media = probe(films(replace(film, name="other.mp4", seconds=2.0, **change)))
        assert media.kind == "stream" and media.reason, change


@pytest.mark.parametrize(
    "name", STREAMED + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
)
def test_segments_join(films, name):
    media = probe(films(name), 13.0)
    segments = make_all(media)
    starts = [find_boundary(media, number, Job()) for number in range(4)]
    if media.can_copy:  # from key frame to key frame
        assert [float(start) for start in starts] == [0, 4.8, 11.2, 13]
    else:
        assert starts == [0, 6, 12, 13]
    for number, (start, end) in enumerate(pairwise(starts)):
        frames = decode_video(segments[number])
        numbers = [read_number(image) for _, image in frames]
        assert numbers == list(range(round(start * FPS), round(end * FPS)))
        assert [t for t, _ in frames] == pytest.approx(
            [(n - numbers[0]) / FPS for n in numbers], abs=0.002
        )
    whole = b"".join(segments)  # each has a header of its own, which a demuxer skips
    times = [time_s for time_s, _ in decode_video(whole)]
    assert times == pytest.approx([n / FPS for n in range(FRAMES)], abs=0.002)
    if media.audio is None:
        return
    first_s, samples = decode_sound(whole)
    assert first_s == 0 and len(samples) / SAMPLE_RATE == pytest.approx(13, abs=0.05)
    # Neither a gap nor a click: everywhere the one sine.
    angles = 2 * np.pi * HERTZ * np.arange(len(samples)) / SAMPLE_RATE
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    inner = slice(SAMPLE_RATE // 4, round(12.7 * SAMPLE_RATE))
    weights = np.linalg.lstsq(waves[inner], samples[inner], rcond=None)[0]
    assert np.hypot(*weights) == pytest.approx(LOUDNESS, rel=0.1)
    assert abs(np.arctan2(weights[1], weights[0])) / (2 * np.pi * HERTZ) < 0.0015  # seconds
    assert np.abs(samples - waves @ weights)[inner].max() < 0.05


@pytest.mark.parametrize("name", STREAMED)
def test_a_picture_is_the_frame_that_is_shown_then(films, name):
    media = probe(films(name), 13.0)
    for time_s, number in ((0, 0), (1.599, 39), (1.6, 40), (6.03, 150), (12.96, 324), (99, 324)):
        content = np.frombuffer(decode_picture(media, time_s, 480, Job()), np.uint8)
        picture = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert picture.shape == (HEIGHT, WIDTH, 3) and read_number(picture) == number
        colour = picture[HEIGHT * 3 // 4, WIDTH // 2]
        assert np.abs(colour.astype(int) - COLOURS[number // FPS % len(COLOURS)]).max() < 16


def test_turned_pictures_and_oblong_pixels_are_set_right(films):
    film = replace(FILM_NAMED["hevc.mp4"], name="turned.mp4", seconds=1.0, sound=None)
    media = probe(films(replace(film, rotation=90)))
    (_, image), *_ = decode_video(make_segment(media, 0, Job()))
    assert image.shape == (WIDTH, HEIGHT, 3)
    with av.open(str(media.path)) as container:
        stored = next(container.decode(video=0))
    expected = np.rot90(draw_frame(0), round(stored.rotation / 90))
    assert np.abs(image.astype(int) - expected).mean() < 8
    picture = cv2.imdecode(np.frombuffer(decode_picture(media, 0, 480, Job()), np.uint8), 1)
    assert np.abs(picture[..., ::-1].astype(int) - expected).mean() < 8

    media = probe(films(replace(film, name="oblong.mp4", ratio=Fraction(3, 2))))
    (_, image), *_ = decode_video(make_segment(media, 0, Job()))
    assert image.shape == (HEIGHT, 240, 3) and read_number(image) == 0


def test_large_pictures_are_made_smaller(films, tmp_path):
    with av.open(str(tmp_path / "large.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1440, 2880, "yuv444p"
        image = np.full((2880, 1440, 3), COLOURS[0], np.uint8)
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(image)), *stream.encode()):
            container.mux(packet)
    (_, image), *_ = decode_video(make_segment(probe(tmp_path / "large.mp4"), 0, Job()))
    assert image.shape == (MAX_SIDES[0], MAX_SIDES[0] // 2, 3)


def test_frames_that_stay_and_sound_that_comes_and_goes(films):
    shown = [0, 1, 2, 70, 71, 140, 310]
    film = Film("slides.mkv", "mpeg4", "aac", frames=shown, sound_span=(3.0, 8.0))
    media = probe(films(film), 13.0)
    for number, segment in enumerate(make_all(media)):
        start = SEGMENT_S * number
        due = [n for n in shown if start < n / FPS < start + SEGMENT_S]
        first = max(n for n in shown if n / FPS <= start)  # still shown when the segment begins
        frames = decode_video(segment)
        assert [read_number(image) for _, image in frames] == [first, *due]
        assert [t for t, _ in frames] == pytest.approx(
            [0, *(n / FPS - start for n in due)], abs=0.002
        )
    _, samples = decode_sound(b"".join(make_all(media)))
    loud = [np.abs(samples[s * SAMPLE_RATE // 2 :][: SAMPLE_RATE // 4]).max() for s in range(26)]
    assert [bool(one > 0.1) for one in loud] == [6 <= s < 16 for s in range(26)]


def test_pictures_that_begin_later_than_the_sound(films):
    film = FILM_NAMED["remux.mkv"]
    media = probe(films(replace(film, name="late.mkv", sound="aac", late_s=1.0)), 13.0)
    assert media.start == 1
    whole = b"".join(make_all(media))
    assert [read_number(image) for _, image in decode_video(whole)] == list(range(FRAMES))
    first_s, samples = decode_sound(whole)
    assert first_s == 0 and len(samples) / SAMPLE_RATE == pytest.approx(13, abs=0.05)


def test_key_frames_far_apart(films):
    options = X264 | {"g": "1000", "bf": "0"}
    media = probe(films(Film("one-key.mkv", "libx264", options=options)), 13.0)
    segments = make_all(media)  # nothing can be cut before the end, where all of it is copied
    assert segments[:2] == [b"", b""] and len(decode_video(segments[2])) == FRAMES


def test_key_frames_that_are_too_far_apart_are_no_boundaries(films, monkeypatch):
    monkeypatch.setattr("retrieval.web.playback.decoding.MAX_GOP_S", 3)
    options = X264 | {"g": "1000", "bf": "0"}
    media = probe(films(Film("no-keys.mkv", "libx264", options=options)), 13.0)
    whole = [read_number(image) for one in make_all(media) for _, image in decode_video(one)]
    assert whole == list(range(FRAMES))


def test_key_frames_that_refer_to_what_was_before_are_encoded(films):
    options = X264 | {"x264-params": "open-gop=1:keyint=40:bframes=2:scenecut=0"}
    media = probe(films(Film("open.ts", "libx264", "aac", options=options)), 13.0)
    whole = [read_number(image) for one in make_all(media) for _, image in decode_video(one)]
    assert sorted(set(whole)) == list(range(FRAMES))


def test_a_damaged_file_is_played_as_far_as_it_goes(films, tmp_path):
    for name in ("remux.ts", "b-frames.avi", "remux.mkv"):
        content = bytearray(films(name).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = bytes(3000)
        file = tmp_path / name
        file.write_bytes(content)
        media = probe(file, 13.0)
        found = {read_number(image) for one in make_all(media) for _, image in decode_video(one)}
        assert {0, 1, 2, 322, 323, 324} <= found and len(found) > FRAMES * 2 // 3
        assert decode_picture(media, 6.5, 480, Job())[:3] == b"\xff\xd8\xff"


def test_what_can_not_be_decoded_says_why(films, tmp_path):
    short = tmp_path / "short.mp4"
    short.write_bytes(films("plain.mp4").read_bytes()[:-5000])
    text, empty = tmp_path / "text.avi", tmp_path / "empty.ts"
    text.write_text("no video " * 1000)
    empty.write_bytes(b"")
    for file in (short, text, empty):
        with pytest.raises(UnplayableError) as caught:
            probe(file)
        assert str(caught.value).startswith(("the file", "none")) and str(tmp_path) not in str(
            caught.value
        )


def test_a_job_is_stopped_between_frames(films):
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise JobCancelledError

    for name in ("hevc.mp4", "remux.mkv"):
        for limit in (1, 20, 100):
            calls = 0
            with pytest.raises(JobCancelledError):
                make_segment(probe(films(name), 13.0), 1, Job(check))
            assert calls == limit


@pytest.mark.parametrize(
    ("name", "start", "end", "copied"),
    [
        ("remux.mkv", 4.9, 7.3, True), ("remux.ts", 6.0, 7.0, False), ("hevc.mp4", 0.3, 2, True),
        ("b-frames.avi", 1.2, 3, True), ("pyramid.avi", 1.7, 3, False),
        ("broadcast.mpg", 1.0, 3.0, False), ("remux.mkv", 12, 99, False),
    ],
)  # fmt: skip
def test_clips(films, tmp_path, name, start, end, copied):
    media = probe(films(name), 13.0)
    file = tmp_path / "clip.mp4"
    clip = cut_clip(media, start, end, file, Job())
    assert clip.is_copy == copied
    assert min(end, 13) <= clip.end_s <= end + (0.15 if copied else 0)
    assert start - NEAR_S <= clip.start_s <= start if copied else clip.start_s == start
    numbers = [read_number(image) for _, image in decode_video(file.read_bytes())]
    first = int(clip.start_s * FPS + 0.01)
    assert numbers == list(range(first, ceil(clip.end_s * FPS - 0.01)))
    with av.open(str(file)) as container:
        if media.audio is not None:
            sound = [f.time for f in container.decode(audio=0)]
            assert sound[0] < 0.05 and sound[-1] == pytest.approx(
                clip.end_s - clip.start_s, abs=0.1
            )
        assert container.duration / 1e6 == pytest.approx(clip.end_s - clip.start_s, abs=0.1)


def test_a_long_clip_is_copied_or_refused(films, tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.web.playback.clip.MAX_ENCODED_S", 2.0)
    clip = cut_clip(probe(films("remux.mkv"), 13.0), 6.2, 12.0, tmp_path / "clip.mp4", Job())
    assert clip.is_copy and clip.start_s == 4.8
    with pytest.raises(NoPictureError):
        cut_clip(probe(films("broadcast.mpg"), 13.0), 6.2, 12.0, tmp_path / "clip.mp4", Job())


def test_the_cache_keeps_what_was_used_last(tmp_path):
    kept = DiskCache(tmp_path / "cache", 500)
    for key in "abc":
        kept.put(key, key.encode() * 100)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert kept.get("a") == b"a" * 100  # so that b is the oldest
    kept.put("d", b"d" * 100)
    assert [kept.get(key) is not None for key in "abcd"] == [True, False, True, True]
    kept.put("large", bytes(600))
    assert kept.get("large") is None and kept.get("d") is not None
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 500
    kept.put("empty", b"")
    assert DiskCache(tmp_path / "cache", 500).get("empty") == b""


def test_the_cache_never_gives_what_is_not_whole(tmp_path):
    kept = DiskCache(tmp_path)
    kept.put("a", b"content")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:3], b"", whole[:2] + b"X" + whole[3:]):
        file.write_bytes(damaged)
        assert kept.get("a") is None and not file.exists()
    nothing = DiskCache(None)
    nothing.put("a", b"content")
    assert nothing.get("a") is None
    blocked = DiskCache(tmp_path / "file" / "folder")
    (tmp_path / "file").write_text("no folder")
    blocked.put("a", b"content")
    assert blocked.get("a") is None


def wait_until(is_true: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(2000):
        if is_true():
            return
        tick.wait(0.01)
    raise AssertionError("never true")


@pytest.fixture
def runner() -> JobRunner:
    return JobRunner()


@pytest.fixture
def waiting_app(runner) -> Iterator[tuple[str, threading.Event, list[str]]]:
    """A server whose jobs wait for an event; and what has happened to them."""
    release, happened = threading.Event(), []

    def work(job: Job) -> str:
        happened.append("begun")
        assert 1 <= runner.num_running <= runner.num_cores
        try:
            while not release.wait(0.01):
                job.check()
        except JobCancelledError:
            happened.append("stopped")
            raise
        happened.append("done")
        return "done"

    app = FastAPI()

    @app.get("/job")
    async def job(request: Request) -> str:
        return await runner.run(request, work)

    with serving_app(app) as address:
        yield f"{address}/job", release, happened


def test_a_job_is_stopped_when_its_client_leaves(runner, waiting_app):
    address, _, happened = waiting_app
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(address, timeout=httpx.Timeout(20, read=0.5), trust_env=False)
    wait_until(lambda: "stopped" in happened and runner.num_running == 0)
    assert happened == ["begun", "stopped"]


def test_no_more_jobs_than_cores_run_and_the_others_wait(runner, waiting_app):
    address, release, happened = waiting_app
    answers: list[str] = []

    def ask() -> None:
        answers.append(httpx.get(address, timeout=60, trust_env=False).json())

    threads = [threading.Thread(target=ask) for _ in range(runner.num_cores + 2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(happened) == runner.num_cores)
    with pytest.raises(httpx.ReadTimeout):  # leaves before its turn has come
        httpx.get(address, timeout=httpx.Timeout(20, read=0.5), trust_env=False)
    wait_until(lambda: runner.num_waiting == 2)  # it was noticed
    assert happened == ["begun"] * runner.num_cores
    release.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["done"] * (runner.num_cores + 2) and runner.num_running == 0
    assert happened.count("begun") == runner.num_cores + 2


@pytest.fixture
def played(films, tmp_path) -> Iterator[tuple[httpx.Client, Path, Path]]:
    """A server of a few films: a client, the folder of the videos, that of the cache."""
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    names = {"more/a.mkv": "remux.mkv", "b.mp4": "hevc.mp4", "c.mp4": "plain.mp4"}
    for name, film in names.items():
        (videos / name).write_bytes(films(film).read_bytes())
    (videos / "short.mp4").write_bytes((videos / "c.mp4").read_bytes()[:-5000])
    folder = index_films(tmp_path / "i", videos, dict.fromkeys([*names, "short.mp4"], 13.0))
    with VideoIndex.open(folder) as index:
        with serving_app(build_app(index, Access(), DiskCache(tmp_path / "cache"))) as address:
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                yield client, videos, tmp_path / "cache"


def look_up(client: httpx.Client, path: str) -> dict:
    return client.get("/api/videos/lookup", params={"path": path}).json()


def test_a_video_and_how_it_is_played(played):
    client, videos, _ = played
    video = look_up(client, "more/a.mkv")
    assert video == client.get(f"/api/videos/{video['id']}").json()
    assert (video["video"], video["name"], video["folder"]) == ("more/a.mkv", "a.mkv", "more")
    assert (video["duration_s"], video["width"], video["height"]) == (13.0, WIDTH, HEIGHT)
    changed = datetime.fromisoformat(video["modified"])
    assert changed.timestamp() == pytest.approx((videos / "more/a.mkv").stat().st_mtime, abs=0.01)
    assert [(track["text"], track["kind"]) for track in video["tracks"]] == [("more a", "name")]
    playback = video["playback"]
    assert playback["kind"] == "stream" and playback["media_type"] == "video/mp4"
    assert playback["codecs"].startswith("avc1.") and playback["codecs"].endswith(",mp4a.40.2")
    assert (playback["segment_s"], playback["num_segments"]) == (SEGMENT_S, 3)
    plain = look_up(client, "c.mp4")
    assert plain["playback"]["kind"] == "file" and plain["folder"] == ""
    answer = client.get(f"/api/videos/{plain['id']}/file", headers={"Range": "bytes=5-9"})
    assert answer.status_code == 206 and answer.headers["content-type"] == "video/mp4"
    assert answer.content == (videos / "c.mp4").read_bytes()[5:10]


def test_segments_are_kept_and_made_again_when_they_are_damaged(played):
    client, _, cache_folder = played
    address = f"/api/videos/{look_up(client, 'b.mp4')['id']}/segments/1.mp4"
    answer = client.get(address)
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
    assert read_number(decode_video(answer.content)[0][1]) == SEGMENT_S * FPS
    (file,) = cache_folder.iterdir()
    assert client.get(address).content == answer.content
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    again = client.get(address)
    assert again.status_code == 200 and read_number(decode_video(again.content)[0][1]) == 150
    assert file.stat().st_size > 1000


def test_what_there_is_not(played):
    client, videos, _ = played
    number = look_up(client, "b.mp4")["id"]
    for path in (
        f"{number}/segments/3.mp4", f"{number}/segments/-1.mp4", f"{number}/segments/x.mp4",
        f"{number}/segments/{10**30}.mp4", "9" * 5000, f"{'9' * 5000}/file", "999",
        "999/segments/0.mp4", "999/frame?t=0",
        "999/clip?start=0&end=1", "999/file", f"{10**30}", f"{10**30}/frame?t=0",
        "lookup?path=nothing.mp4", "lookup?path=../i/index.db", f"lookup?path={videos / 'b.mp4'}",
        "lookup?path=%ff", "lookup?path=\ufffd",
    ):  # fmt: skip
        answer = client.get(f"/api/videos/{path}")
        assert answer.status_code == 404, (path, answer.text)
        assert str(videos.parent) not in answer.text.replace(str(videos / "b.mp4"), "")
    for path in (
        "frame", "frame?t=-1", "frame?t=nan", "frame?t=inf", "frame?t=0&width=99999",
        "clip?start=3&end=3", "clip?start=3&end=2", "clip?start=13&end=14", "clip?start=0",
        "clip?start=0&end=inf",
    ):  # fmt: skip
        assert client.get(f"/api/videos/{number}/{path}").status_code == 422, path


def test_pictures_of_a_video(played):
    client, videos, _ = played
    address = f"/api/videos/{look_up(client, 'b.mp4')['id']}/frame"
    answer = client.get(address, params={"t": 6.5, "width": 100})
    assert answer.headers["content-type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1)
    assert picture.shape == (60, 100, 3) and read_number(picture) == 162
    headers = {"If-None-Match": answer.headers["etag"]}
    assert client.get(address, params={"t": 6.5, "width": 100}, headers=headers).status_code == 304
    assert client.get(address, params={"t": 6.54, "width": 100}, headers=headers).content
    os.utime(videos / "b.mp4", (1, 1))  # it may be another file now
    answer = client.get(address, params={"t": 6.5, "width": 100}, headers=headers)
    assert answer.status_code == 200 and answer.headers["etag"] != headers["If-None-Match"]


def test_a_file_that_is_missing_or_damaged_says_so(played):
    client, videos, _ = played
    short = look_up(client, "short.mp4")
    assert short["playback"]["kind"] == "pictures" and "is cut short" in short["playback"]["reason"]
    (videos / "more/a.mkv").unlink()
    missing = look_up(client, "more/a.mkv")
    assert missing["playback"]["kind"] == "missing" and missing["tracks"]
    for video, status in ((short, 422), (missing, 404)):
        for path in ("segments/0.mp4", "clip?start=0&end=1"):
            answer = client.get(f"/api/videos/{video['id']}/{path}")
            assert answer.status_code == status and str(videos) not in answer.text
        # The index has a picture of it.
        answer = client.get(f"/api/videos/{video['id']}/frame?t=3")
        assert answer.status_code == 200 and answer.content == b"jpeg"
    assert client.get(f"/api/videos/{missing['id']}/file").status_code == 404


def test_clips_are_sent_and_leave_nothing(played, tmp_path, monkeypatch):
    client, _, _ = played
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    number = look_up(client, "more/a.mkv")["id"]
    answer = client.get(f"/api/videos/{number}/clip?start=5&end=7.5")
    disposition = answer.headers["content-disposition"]
    assert disposition == 'attachment; filename="a_0m04s-0m07s.mp4"'
    assert answer.headers["x-clip-method"] == "copied" and answer.headers["x-clip-start"] == "4.800"
    assert [read_number(image) for _, image in decode_video(answer.content)] == list(
        range(120, 188)
    )
    answer = client.get(f"/api/videos/{number}/clip?start=6&end=7.5")
    assert answer.headers["x-clip-method"] == "encoded" and answer.headers["x-clip-end"] == "7.500"
    assert read_number(decode_video(answer.content)[0][1]) == 150
    wait_until(lambda: not list(folder.iterdir()))


@pytest.mark.slow
def test_a_segment_is_stopped_when_the_player_is_closed(tmp_path):
    """Key frames are so far apart that the last segment takes seconds to decode."""
    seconds = 40.0  # 1000 frames, the last number that a frame can say
    film = Film("long.avi", "mpeg4", options={"g": "600"}, seconds=seconds, size=(1280, 768))
    write_film(tmp_path, film)
    folder = index_films(tmp_path / "i", tmp_path, {film.name: seconds})
    app = FastAPI()
    with VideoIndex.open(folder) as index:
        playback = Playback(index, DiskCache(None))
        app.include_router(build_playback_api(playback))
        with serving_app(app) as address:
            url = f"{address}/api/videos/1/segments/3.mp4"
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(url, timeout=httpx.Timeout(20, read=0.5), trust_env=False)
            wait_until(lambda: playback.jobs.num_running == 0)
            assert httpx.get(url, timeout=120, trust_env=False).status_code == 200
