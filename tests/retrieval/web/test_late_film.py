"""A film whose pictures begin three seconds after its sound: one clock, from index to player."""

import io
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index import video_file
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from retrieval.spoken.source import SpokenSource
from retrieval.spotting.folder import estimate_looks
from retrieval.web.playback.cache import DiskCache
from retrieval.web.playback.clip import cut_clip
from retrieval.web.playback.decoding import Job, decode_picture
from retrieval.web.playback.media import SEGMENT_S, Media
from retrieval.web.playback.routes import Playback
from retrieval.web.playback.segments import make_segment
from tests.retrieval.web.films import (
    FILM_NAMED,
    FPS,
    HEIGHT,
    WIDTH,
    X264,
    Film,
    draw_frame,
    read_number,
    write_film,
)

LATE_S, SECONDS = 3, 8
FIRST = 50  # frame in which the line is read: at second 2 of the film, 5 of the file


@pytest.fixture(scope="module", params=["late.mp4", "late.mkv"])
def late(request, tmp_path_factory) -> Path:
    """An index of words of the film; it has a line that is read, and one that is said."""
    folder = tmp_path_factory.mktemp("late")
    (folder / "videos").mkdir()
    (folder / "ocr").mkdir()
    film = Film(request.param, "libx264", "aac", options=X264, seconds=SECONDS, late_s=LATE_S)
    write_film(folder / "videos", film)
    quad = [2, 2, 60, 2, 60, 20, 2, 20, 0.9, 1]
    shown = {"text": "casino", "score": 0.9, "tracks": {str(n): quad for n in range(FIRST, 75, 5)}}
    said = {"text": "hello", "score": 1.0, "kind": "spoken", "start_s": 1.0, "end_s": 2.0}
    document = json.dumps({"0": shown, "1": said})
    (folder / "ocr" / f"{request.param}.json").write_text(document)
    (folder / "videos" / "late.srt").write_text("1\n00:00:06,000 --> 00:00:07,000\ngoodbye\n")
    update(folder)
    return folder


def update(folder: Path) -> None:
    videos = folder / "videos"
    source = SpokenSource(OcrFolder(folder / "ocr"), videos.joinpath)
    update_index(videos, folder / "index", None, source, IndexOptions(window_s=4, stride_s=2))


def open_media(index: VideoIndex) -> Media:
    return Playback(index, DiskCache(None)).open(index.video(1))[0]


def read_picture(media: Media, time_s: float) -> int:
    jpeg = np.frombuffer(decode_picture(media, time_s, 160, Job()), np.uint8)
    return read_number(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


def test_entries_and_lines_are_of_the_player_s_clock(late):
    with VideoIndex.open(late / "index") as index:
        video = index.video(1)
        assert video.duration_s == pytest.approx(LATE_S + SECONDS, abs=0.05)
        (casino,) = index.search("casino", k=1)
        assert casino.start_s == pytest.approx(LATE_S, abs=0.05)
        assert casino.moment_s == pytest.approx(LATE_S + FIRST / FPS, abs=0.05)
        lines = {line.text: line for line in index.video_tracks(1)}
        assert lines["casino"].start_s == pytest.approx(LATE_S + FIRST / FPS, abs=0.05)
        assert lines["casino"].boxes[0][0] == pytest.approx(LATE_S + FIRST / FPS, abs=0.05)
        assert lines["hello"].start_s == pytest.approx(LATE_S + 1, abs=0.05)
        assert lines["goodbye"].start_s == pytest.approx(6, abs=0.05)  # as players show it


def test_what_is_played_is_of_the_same_clock(late):
    with VideoIndex.open(late / "index") as index:
        media = open_media(index)
    assert float(media.start) == pytest.approx(0, abs=0.05)  # of the file's own time stamps
    assert media.kind == ("file" if media.path.suffix == ".mp4" else "stream")
    assert read_picture(media, LATE_S + FIRST / FPS + 0.01) == FIRST
    assert read_picture(media, 1.0) == 0  # before there is one, the first
    shown: dict[int, float] = {}
    for number in range(media.num_segments):
        with av.open(io.BytesIO(make_segment(media, number, Job()))) as container:
            for frame in container.decode(video=0):
                shown.setdefault(read_number(frame.to_ndarray(format="rgb24")), frame.time)
    assert shown[FIRST] == pytest.approx(LATE_S + FIRST / FPS, abs=0.05)
    assert shown[0] == 0 and set(shown) == set(range(SECONDS * FPS))  # the first one stands before


def test_a_clip_is_cut_by_that_clock(late, tmp_path):
    with VideoIndex.open(late / "index") as index:
        media = open_media(index)
    time_s = LATE_S + FIRST / FPS
    clip = cut_clip(media, time_s, time_s + 1, tmp_path / "clip.mp4", Job())
    with av.open(str(tmp_path / "clip.mp4")) as container:
        numbers = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert numbers[0] == round((clip.start_s - LATE_S) * FPS) and FIRST in numbers
    cut_clip(media, 1.0, 4.0, tmp_path / "early.mp4", Job())
    with av.open(str(tmp_path / "early.mp4")) as container:
        numbers = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert numbers[0] == 0 and numbers[-1] in (FPS - 1, FPS)


def test_an_index_of_before_is_played_by_its_own_clock(late, tmp_path, monkeypatch):
    """It counts from the first frame; new lines of text make it one of now."""
    old = tmp_path / "old"
    shutil.copytree(late, old)
    folder = old / "index"
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(video_file, "choose_start", lambda reader, starts=None: 0.0)
        update(old)
    with VideoIndex.open(folder) as index:
        media = open_media(index)
        (casino,) = index.search("casino", k=1)
    assert media.kind == "stream" and float(media.start) == pytest.approx(LATE_S, abs=0.05)
    assert read_picture(media, casino.moment_s + 0.05) in (FIRST, FIRST + 1)
    (document,) = (old / "ocr").iterdir()
    document.write_text(document.read_text().replace("casino", "hotel"))
    update(old)
    with VideoIndex.open(folder) as index:
        (hotel,) = index.search("hotel", k=1)
        assert hotel.moment_s == pytest.approx(LATE_S + FIRST / FPS, abs=0.05)


def test_pictures_that_begin_with_the_sound_begin_at_0(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "ocr").mkdir()
    for name in ("plain.mp4", "remux.ts"):  # whose clock begins at 1.4 s
        write_film(tmp_path / "videos", replace(FILM_NAMED[name], seconds=2))
    update(tmp_path)
    with VideoIndex.open(tmp_path / "index") as index:
        for number in (1, 2):
            assert index.first_time(number) == 0
            assert index.video(number).duration_s == pytest.approx(2, abs=0.05)


def write_jump(path: Path, jump_s: float) -> None:
    """27 frames; the clock jumps after the second one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264 | {"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(27):
            frame = av.VideoFrame.from_ndarray(draw_frame(number), format="rgb24")
            time_s = number / FPS + (jump_s if number > 1 else 0)
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())


@pytest.mark.parametrize("jump_s", [95443.7, 1.6e9])
def test_a_clock_that_jumps_makes_few_entries_and_is_played(tmp_path, jump_s):
    """By 26 hours, as where it wraps, or to now, as of cameras."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "ocr").mkdir()
    write_jump(tmp_path / "videos" / "a.mkv", jump_s)
    write_film(tmp_path / "videos", replace(FILM_NAMED["plain.mp4"], seconds=1))
    box = [2, 2, 60, 2, 60, 20, 2, 20, 0.9, 1]
    line = {"text": "casino", "score": 0.9, "tracks": {"10": box}}
    (tmp_path / "ocr" / "a.mkv.json").write_text(json.dumps({"0": line}))
    update(tmp_path)
    assert estimate_looks([tmp_path / "videos" / "a.mkv"], 0.4)[0] < 5000
    with VideoIndex.open(tmp_path / "index") as index:
        assert len(index) == 3 and sorted(index.paths()) == ["a.mkv", "plain.mp4"]
        assert index.video(1).duration_s == pytest.approx(jump_s + 27 / FPS, abs=0.1)
        (casino,) = index.search("casino", k=1)
        assert casino.start_s == pytest.approx(jump_s + 2 / FPS, abs=0.1)
        assert casino.end_s - casino.start_s < 2
        media = open_media(index)
    time_s = jump_s + 10 / FPS
    assert read_picture(media, time_s + 0.01) == 10
    segment = make_segment(media, int(time_s // SEGMENT_S), Job())
    with av.open(io.BytesIO(segment)) as container:
        shown = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert 10 in shown
