"""Subtitle files: text without markup, each line once, encodings, and whose they are."""

import logging
from pathlib import Path

import pytest

from retrieval.spoken.subtitles import find_subtitle_files, read_subtitle_file
from utils.errors import UserError

ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment, Encoding
Style: Default,Arial,20,&H00FFFFFF,2,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\k20}Ka{\\k30}ra\\Noke, {\\b1}yes{\\b0}
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,hidden
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0 100 100{\\p0}
"""
SRT = """1
00:00:01,000 --> 00:00:03,000
<i>Welcome &amp; hello</i>
to the {\\an8}<font color="red">Casino</font>

2
00:00:03,500 --> 00:00:04,000
1984

3
00:00:05,500 --> 00:00:06,000

4
01:00:07,500 --> 01:00:08,000
- Yes.
- No.
"""
VTT = """WEBVTT - a title

NOTE nobody
says this

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.000 align:start
<v Mary>Hi&nbsp;there

outer wilds
00:03.000 --> 00:04.000
Bye
"""
# As youtube-dl writes what YouTube has heard: words with times, and each line three times.
ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
 
hello<00:00:00.480><c> everyone</c><00:00:00.800><c> welcome</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello everyone welcome
 

00:00:02.399 --> 00:00:04.550 align:start position:0%
hello everyone welcome
to<00:00:02.720><c> the</c><00:00:03.040><c> supermarket</c>

00:00:04.550 --> 00:00:04.560 align:start position:0%
to the supermarket
 

00:00:09.000 --> 00:00:10.000 align:start position:0%
hello everyone welcome
"""  # noqa: W291, W293


def cue(text: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:03,000\n{text}\n"


def read(folder: Path, name: str, content: str | bytes) -> list[tuple[str, float, float]]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(line.text, line.start_s, line.end_s) for line in read_subtitle_file(file)]


def test_subrip(tmp_path):
    assert read(tmp_path, "a.srt", SRT) == [
        ("Welcome & hello to the Casino", 1.0, 3.0),
        ("1984", 3.5, 4.0),
        ("- Yes. - No.", 3607.5, 3608.0),
    ]
    assert read(tmp_path, "b.srt", SRT.replace("\n", "\r\n")) == read(tmp_path, "a.srt", SRT)


def test_webvtt(tmp_path):
    assert read(tmp_path, "a.vtt", VTT) == [("Hi there", 1.0, 2.0), ("Bye", 3.0, 4.0)]


@pytest.mark.parametrize("name", ["a.ass", "a.ssa", "a.srt"])
def test_substation_alpha_whatever_its_name(tmp_path, name):
    assert read(tmp_path, name, ASS) == [("Kara oke, yes", 1.0, 2.0)]


def test_a_rolling_line_is_said_once_and_a_later_one_again(tmp_path):
    assert read(tmp_path, "a.vtt", ROLLING) == [
        ("hello everyone welcome", 0.16, 4.55),
        ("to the supermarket", 2.399, 4.56),
        ("hello everyone welcome", 9.0, 10.0),
    ]


def test_a_line_that_grows_is_one(tmp_path):
    texts = ["WE", "WE GO", "WE GO HOME"]
    cues = [f"{i}\n00:00:0{i},000 --> 00:00:0{i + 1},000\n{text}\n" for i, text in enumerate(texts)]
    assert read(tmp_path, "a.srt", "\n".join(cues)) == [("WE GO HOME", 0.0, 3.0)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Ça va très bien ?", "Привет, как дела?", "你好"])
def test_unicode_is_known_with_and_without_its_mark(tmp_path, caplog, encoding, text):
    assert read(tmp_path, "a.srt", cue(text).encode(encoding)) == [(text, 1.0, 3.0)]
    assert not caplog.records


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Ça va très bien, où êtes-vous allés cet été ?"),
        ("cp1252", "Schöne Grüße"),
        ("cp1251", "Привет, как дела? Сегодня хорошая погода."),
        ("cp1253", "Δεν ξέρω τι να κάνω. Πού είναι το παλτό μου;"),
        ("gb18030", "我不知道该怎么办。我们得走了,已经很晚了。"),
    ],
)
def test_other_encodings_are_guessed_and_said(tmp_path, caplog, encoding, text):
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, "a.srt", cue(text).encode(encoding)) == [(text, 1.0, 3.0)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/a.srt: is not UTF-8, and was read as {encoding}, which is a guess; save it "
        "as UTF-8 if its words are wrong"
    ]


@pytest.mark.parametrize("content", [b"only words", bytes(range(256)) * 4, b"\x1f\x8b\x08" * 99])
@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.ass"])
def test_what_is_no_subtitle_file_is_refused(tmp_path, content, name):
    with pytest.raises(UserError, match=f"{name}: holds no subtitles"):
        read(tmp_path, name, content)


def test_an_empty_file_says_nothing(tmp_path):
    assert read(tmp_path, "a.srt", b"") == []


def test_pictures_of_a_storyboard_are_no_text(tmp_path):
    text = "WEBVTT\n\n00:00.000 --> 00:05.000\nsprite.jpg#xywh=0,0,160,90\n"
    assert read(tmp_path, "a.vtt", text) == []


def test_whose_a_subtitle_file_is(tmp_path):
    videos = ["talk.mp4", "talk.2.mp4", "a/talk.mkv", "a/film.mp4", "a/film.mov"]
    for name in [
        "talk.srt", "talk.en.srt", "talk.en.forced.VTT", "talk.mp4.ass", "talk.2.srt",
        "talk.2.de.srt", "talker.srt", "talk.txt", "a/talk.vtt", "a/film.srt", "a/film.mov.srt",
    ]:  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "talk.folder.srt").mkdir()
    found = find_subtitle_files({video: tmp_path / video for video in [*videos, "b/gone.mp4"]})
    names = {v: [str(f.relative_to(tmp_path)) for f in files] for v, files in found.items()}
    assert names == {
        "talk.mp4": ["talk.en.forced.VTT", "talk.en.srt", "talk.mp4.ass", "talk.srt"],
        "talk.2.mp4": ["talk.2.de.srt", "talk.2.srt"],
        "a/talk.mkv": ["a/talk.vtt"],
        "a/film.mp4": ["a/film.srt"],
        "a/film.mov": ["a/film.mov.srt", "a/film.srt"],
        "b/gone.mp4": [],
    }
