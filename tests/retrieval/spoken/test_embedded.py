"""Subtitle tracks in real videos, and the times of videos that begin late."""

import logging

import pytest

from retrieval.spoken.embedded import has_subtitles, read_embedded_subtitles
from retrieval.spoken.source import read_subtitles
from retrieval.spoken.timeline import read_start_times
from tests.retrieval.spoken.talks import place, write_talk

CUES = [(3.0, 4.0, r"Hello {\i1}there{\i0}\Nfriend"), (5.0, 5.5, "Bye")]
SRT = "1\n00:00:03,000 --> 00:00:04,000\nbeside it\n"


def list_lines(lines):
    return [(line.text, round(line.start_s, 1), round(line.end_s, 1)) for line in lines]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "subrip"), ("a.mkv", "ass"), ("a.mkv", "webvtt"), ("a.mp4", "mov_text"),
     ("a.mov", "mov_text")],
)  # fmt: skip
def test_each_form_of_a_track(tmp_path, name, codec):
    video = write_talk(tmp_path / name, subtitles=[(codec, CUES)])
    assert list_lines(read_subtitles(video, [])) == [
        ("Hello there friend", 3.0, 4.0),
        ("Bye", 5.0, 5.5),
    ]
    assert has_subtitles(video)


def test_several_languages_are_kept_and_no_line_twice(tmp_path):
    other = [(3.0, 4.0, "Bonjour")]
    video = write_talk(tmp_path / "a.mkv", subtitles=[("subrip", CUES), ("ass", other)])
    beside = tmp_path / "a.srt"
    beside.write_text("1\n00:00:05,000 --> 00:00:05,500\nBye\n")
    found = [text for text, *_ in list_lines(read_subtitles(video, [beside]))]
    assert sorted(found) == ["Bonjour", "Bye", "Hello there friend"]


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
@pytest.mark.parametrize("has_sound", [True, False])
def test_a_video_that_begins_late(tmp_path, name, has_sound):
    """Its index counts from its first frame, players count from the beginning of its sound."""
    sound = place(8.0) if has_sound else None
    codec = "mov_text" if name.endswith("mp4") else "subrip"
    video = write_talk(tmp_path / name, sound=sound, subtitles=[(codec, CUES)], video_start_s=2.0)
    beside = tmp_path / "late.srt"
    beside.write_text(SRT)
    start = read_start_times(video)
    assert start.first_frame_s == pytest.approx(2.0, abs=0.05)
    # Without sound the file begins with its first frame.
    shown = 1.0 if has_sound else 3.0
    found = dict((text, start) for text, start, _ in list_lines(read_subtitles(video, [beside])))
    assert found["beside it"] == pytest.approx(shown, abs=0.1)
    assert found["Hello there friend"] == pytest.approx(1.0, abs=0.1)


def test_a_transport_stream_counts_from_its_own_start(tmp_path):
    video = write_talk(tmp_path / "a.ts", video_start_s=2.0)
    beside = tmp_path / "a.srt"
    beside.write_text(SRT)
    assert read_start_times(video).first_frame_s > 1.9
    ((_, start_s, _),) = list_lines(read_subtitles(video, [beside]))
    assert start_s == pytest.approx(3.0, abs=0.15)


def test_what_is_said_before_the_first_frame_is_left_out(tmp_path):
    cues = [(0.2, 1.0, "before"), (1.5, 2.5, "across"), (3.0, 4.0, "after")]
    video = write_talk(tmp_path / "a.mkv", subtitles=[("subrip", cues)], video_start_s=2.0)
    assert list_lines(read_subtitles(video, [])) == [("across", 0.0, 0.5), ("after", 1.0, 2.0)]


def test_pictures_are_said_and_left_out(tmp_path, caplog):
    import av

    words = write_talk(tmp_path / "words.mkv", subtitles=[("subrip", CUES)])
    video = tmp_path / "a.mkv"
    with av.open(str(words)) as source, av.open(str(video), "w") as out:
        shown = source.streams.video[0]
        copy = out.add_stream_from_template(shown)
        out.add_stream("dvdsub")
        for packet in source.demux(shown):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    with caplog.at_level(logging.WARNING):
        assert read_embedded_subtitles(video) == []
    assert "a.mkv: its subtitle track 1 (dvdsub) holds pictures, not text" in caplog.text
    assert not has_subtitles(video)


def test_a_broken_subtitle_file_is_one_line(tmp_path, caplog):
    video = write_talk(tmp_path / "a.mkv", subtitles=[("subrip", CUES)])
    beside = tmp_path / "a.srt"
    beside.write_bytes(b"\xff\x00\x01nothing" * 50)
    assert len(read_subtitles(video, [beside])) == 2
    assert [r.getMessage().count("holds no subtitles") for r in caplog.records][-1] == 1
