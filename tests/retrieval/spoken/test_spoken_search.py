"""What is said, from real videos to hits: spot_text.py, index.py, search.py, and VideoIndex."""

import json
import re
import shutil
from pathlib import Path

import pytest

import index as index_script
import search as search_script
import spot_text as spot_script
from data_loader.ocr.ocr_words import load_ocr_document
from retrieval import VideoIndex
from retrieval.spoken import folder as speech_folder
from retrieval.spoken.folder import transcribe_folder
from retrieval.spoken.transcription import transcribe_video
from tests.retrieval.spoken.talks import NEEDS_VOICE, place, say, write_talk
from tests.retrieval.spoken.test_transcription import NEEDS_MOONSHINE, SUPERMARKET
from tests.retrieval.spotting.engines import SameText  # noqa: F401 - registers the engine

SRT = "1\n00:00:01,000 --> 00:00:02,000\nThe <i>lighthouse</i> of\nAlexandria\n"
CUES = [(12.0, 13.0, "a volcano erupts")]


@pytest.fixture(autouse=True)
def _without_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")


@pytest.fixture
def videos(tmp_path) -> Path:
    """One with subtitles beside it, one with a track of them, one with neither."""
    folder = tmp_path / "videos"
    write_talk(folder / "a/tour.mp4", 4.0)
    (folder / "a/tour.en.srt").write_text(SRT)
    write_talk(folder / "film.mkv", 20.0, subtitles=[("subrip", CUES)])
    write_talk(folder / "mute.mp4", 4.0)
    return folder


@pytest.fixture
def documents(videos, tmp_path) -> Path:
    """Each video has the line "Grand Hotel"."""
    folder = tmp_path / "ocr"
    record = {"text": "Grand Hotel", "score": 0.9, "tracks": {"0": [1, 2, 40, 2, 40, 12, 1, 12]}}
    for name in ("a/tour.mp4", "film.mkv", "mute.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"0": record}))
    return folder


def find(folder: Path, query: str, **options) -> list[tuple]:
    with VideoIndex.open(folder) as index:
        hits = index.search(query, mode="keyword", **options)
    return [
        (hit.video, word.word, word.kind, word.track_kind, word.start_s, word.box)
        for hit in hits
        for word in hit.words
    ]


def test_subtitles_are_found_like_what_is_read(videos, documents, tmp_path, run_main):
    out = tmp_path / "my.index"
    code, _, err = run_main(index_script, videos, "--out", out, "--ocr", documents)
    assert code == 0, err
    beside = ("a/tour.mp4", "lighthouse", "exact", "spoken", 1.0, None)
    assert find(out, "lighthouse") == [beside]
    assert find(out, '"lighthouse of alexandria"')[0][:4] == (
        "a/tour.mp4", "lighthouse of alexandria", "exact", "spoken",
    )  # fmt: skip
    assert find(out, "lighthuose")[0][2:4] == ("fuzzy", "spoken")
    assert find(out, "lightho")[0][2:4] == ("prefix", "spoken")
    # In the windows of its time only: a window is 10 s every 5 s.
    with VideoIndex.open(out) as index:
        hits = index.search("volcano", mode="keyword")
        assert [(hit.video, hit.start_s) for hit in hits] == [("film.mkv", 5.0), ("film.mkv", 10.0)]
        assert {track.kind for track in index.tracks(hits[0].id)} == {"spoken"}
    code, text, _ = run_main(search_script, out, "lighthouse", "--explain")
    assert code == 0 and 'lighthouse: exact in "The lighthouse of Alexandria", said 0:01' in text
    assert re.search(r'  said "lighthouse"  \S+/a/tour.mp4$', text, re.MULTILINE)
    assert find(out, "hotel")[0][3] == "read"


def test_a_subtitle_file_that_changes_is_indexed_again(videos, documents, tmp_path, run_main):
    out = tmp_path / "my.index"
    command = index_script, videos, "--out", out, "--ocr", documents
    run_main(*command)
    assert "0 added, 0 updated" in run_main(*command)[1]
    (videos / "mute.srt").write_text(SRT.replace("lighthouse", "temple"))
    (videos / "a/tour.en.srt").write_text(SRT.replace("lighthouse", "harbour"))
    assert "0 added, 2 updated" in run_main(*command)[1]
    assert find(out, "temple")[0][0] == "mute.mp4" and find(out, "harbour")
    assert not find(out, '"lighthouse"')
    assert "0 added, 0 updated" in run_main(*command)[1]
    (videos / "mute.srt").unlink()
    assert "0 added, 1 updated" in run_main(*command)[1]
    assert not find(out, '"temple"')
    # A document changes as ever, also of a video with subtitles.
    file = documents / "a/tour.mp4.json"
    file.write_text(file.read_text().replace("Grand", "Royal"))
    assert "0 added, 1 updated" in run_main(*command)[1]
    assert find(out, "royal") and find(out, "harbour")


def test_an_index_without_text_is_without_subtitles(videos, tmp_path, run_main, monkeypatch):
    monkeypatch.setattr(index_script, "choose_default", lambda arguments, roots: None)
    out = tmp_path / "my.index"
    run_main(index_script, videos, "--out", out, "--no-ocr")
    assert find(out, "lighthouse") == []
    code, _, err = run_main(index_script, videos, "--out", out, "--speech")
    assert code == 2 and "--speech: this index does without text" in err


def fake_transcribe(path, progress=None, journal=None):
    if "mute" in str(path):
        return []
    return [{"text": "so be it", "score": 0.5, "kind": "spoken", "start_s": 1.0, "end_s": 2.0}]


@pytest.fixture
def _fake_speech(monkeypatch):
    monkeypatch.setattr(speech_folder, "transcribe_video", fake_transcribe)
    monkeypatch.setattr(speech_folder, "identify_recogniser", dict)


@pytest.mark.usefixtures("_fake_speech")
def test_speech_is_added_to_documents_once(videos, documents, tmp_path, run_main):
    write_talk(videos / "new.mp4", 2.0)  # has no document
    found = transcribe_folder(videos, documents, 2)
    assert found.summarize() == (
        "1 videos transcribed (English), 0 lines said; 2 have subtitles, which are used instead "
        "(--force_speech transcribes them, too)"
    )
    assert not (documents / "new.mp4.json").exists()
    again = transcribe_folder(videos, documents, 2)
    assert (again.num_transcribed, again.num_kept, again.num_subtitled) == (0, 1, 2)
    forced = transcribe_folder(videos, documents, 2, forced=True)
    assert (forced.num_transcribed, forced.num_kept, forced.num_lines) == (2, 1, 2)
    document = load_ocr_document(documents / "film.mkv.json")
    assert [record["text"] for record in document.values()] == ["Grand Hotel", "so be it"]
    out = tmp_path / "my.index"
    run_main(index_script, videos, "--out", out, "--ocr", documents)
    assert {row[0] for row in find(out, '"so be it"')} == {"a/tour.mp4", "film.mkv"}
    with VideoIndex.open(out) as index:  # what stands for silence is no line
        (hit,) = index.search("mute", mode="keyword")
        assert {track.text for track in index.tracks(hit.id)} == {"Grand Hotel"}


@pytest.mark.usefixtures("_fake_speech")
def test_a_video_that_cannot_be_heard_is_one_line(videos, documents, monkeypatch, capfd):
    (videos / "mute.mp4").write_bytes(b"nothing" * 100)

    def transcribe(path, *arguments):
        real = "mute" in str(path)
        return (transcribe_video if real else fake_transcribe)(path, *arguments)

    monkeypatch.setattr(speech_folder, "transcribe_video", transcribe)
    found = transcribe_folder(videos, documents, 1, forced=True)
    assert (found.num_transcribed, found.num_failed) == (2, 1)
    lines = [line for line in capfd.readouterr().err.splitlines() if "mute.mp4: " in line]
    assert len(lines) == 1 and "its sound and subtitles can't be read" in lines[0]
    assert len(load_ocr_document(documents / "mute.mp4.json")) == 1


@NEEDS_VOICE
@NEEDS_MOONSHINE
def test_speech_from_the_command_to_the_hit(tmp_path, run_main):
    videos, ocr, out = tmp_path / "videos", tmp_path / "ocr", tmp_path / "my.index"
    write_talk(videos / "talk.mp4", 8.0, sound=place(8.0, (3.0, say(SUPERMARKET))))
    shutil.copy(videos / "talk.mp4", videos / "film.mp4")
    (videos / "film.srt").write_text(SRT)
    options = "--engine", "same_text", "--speech", "--workers", 2
    code, text, err = run_main(spot_script, videos, "--out", ocr, *options)
    assert code == 0, err
    assert "1 videos transcribed (English), 1 lines said; 1 have subtitles" in text
    assert sorted(p.name for p in ocr.iterdir() if p.suffix == ".part") == []
    run_main(index_script, videos, "--out", out, "--ocr", ocr)
    ((video, *match, start_s, box),) = find(out, "supermarket")
    assert (video, match) == ("talk.mp4", ["supermarket", "exact", "spoken"])
    assert start_s == pytest.approx(3.0, abs=1.0) and box is None


@NEEDS_VOICE
@NEEDS_MOONSHINE
def test_an_index_can_listen_by_itself_and_remembers_it(tmp_path, run_main):
    videos, ocr, out = tmp_path / "videos", tmp_path / "ocr", tmp_path / "my.index"
    ocr.mkdir()
    write_talk(videos / "talk.mp4", 8.0, sound=place(8.0, (3.0, say(SUPERMARKET))))
    run_main(index_script, videos, "--out", out, "--ocr", ocr)
    assert find(out, "supermarket") == []
    assert "1 updated" in run_main(index_script, videos, "--out", out, "--speech")[1]
    assert find(out, "supermarket")[0][3] == "spoken"
    assert "0 updated" in run_main(index_script, videos, "--out", out)[1]
