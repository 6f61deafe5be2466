"""``spot_text.py`` as it is called: documents, what is kept, what fails, what ends it."""

import os
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from data_loader.ocr.ocr_words import OcrParams, extract_words, load_ocr_document
from retrieval.printing import escape
from retrieval.spotting.video import spot_video
from tests.retrieval.spotting.engines import (  # noqa: F401 - fixtures
    SameText,
    list_documents,
    make_clip,
    put,
    run_command,
    spot,
)
from tests.videos import break_packets, truncate, write_audio, write_rotated, write_video


def test_each_video_has_a_document_where_it_stands(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, "a.mp4", "b/c.MP4", "b/d/e.f.mp4", "b/notes.txt")
    assert spot(videos, "--out", tmp_path / "out", "--workers", 2) == 0
    assert list_documents(tmp_path / "out") == ["a.mp4.json", "b/c.MP4.json", "b/d/e.f.mp4.json"]
    for name in list_documents(tmp_path / "out"):
        document = load_ocr_document(tmp_path / "out" / name)
        assert extract_words(document, OcrParams()).words == ["grand", "hotel"]
        assert list(document["0"]["tracks"]) == ["0", "10"]  # 0.4 s at 25 frames a second
    assert "3 videos spotted, 3 lines of text\n" in capsys.readouterr().out


def test_what_is_left_out_is_told_and_a_link_to_itself_is_named(tmp_path, clip, capfd):
    videos = put(tmp_path / "1:2", clip, "a.mp4", "raw/b.mp4", "@eaDir/c.mp4")
    (videos / "self.mp4").symlink_to(videos / "self.mp4")
    assert spot(videos, "--out", tmp_path / "out", "--workers", 1, "--exclude", "raw") == 1
    assert list_documents(tmp_path / "out") == ["a.mp4.json"]
    said = capfd.readouterr().err
    assert "self.mp4: " in said and "Traceback" not in said
    assert "1 hidden or of the system and left out (@eaDir); 1 left out by --exclude (raw)" in said


def test_every_usual_container_and_a_turned_file(tmp_path, clip, capsys):
    kinds = {"mkv": "libx264", "mov": "libx264", "avi": "mpeg4", "ts": "libx264"}
    kinds |= {"webm": "libvpx", "mpg": "mpeg2video", "wmv": "wmv2", "flv": "flv1", "m4v": "mpeg4"}
    kinds |= {"3gp": "mpeg4", "m2ts": "libx264", "vob": "mpeg2video"}
    for kind, codec in kinds.items():
        write_video(tmp_path / f"{kind}.{kind}", 12, codec=codec)
    write_rotated(tmp_path / "turned.mp4", put(tmp_path, clip, "upright.mp4") / "upright.mp4")
    assert spot(tmp_path, "--out", tmp_path / "out", "--workers", 1) == 0, capsys.readouterr()
    made = list_documents(tmp_path / "out")
    names = [*(f"{kind}.{kind}" for kind in kinds), "turned.mp4", "upright.mp4"]
    assert made == sorted(f"{name}.json" for name in names)
    for name in made:
        assert list(load_ocr_document(tmp_path / "out" / name)["0"]["tracks"]) == ["0", "10"], name


def test_what_does_not_decode_is_said_and_the_rest_is_read(tmp_path, capfd):
    good = write_video(tmp_path / "good.mp4", 60, gop=5, x264="bframes=0")
    (tmp_path / "v").mkdir()
    break_packets(tmp_path / "v/a.mp4", good, list(range(18, 27)))
    (tmp_path / "v/main.ts").write_text("export const x: number = 1;")
    assert spot(tmp_path / "v", "--out", tmp_path / "out", "--every", 0.2, "--workers", 2) == 0
    assert list_documents(tmp_path / "out") == ["a.mp4.json"]
    (record,) = load_ocr_document(tmp_path / "out/a.mp4.json").values()
    assert sorted(map(int, record["tracks"])) == [0, 5, 10, 15, 30, 35, 40, 45, 50, 55]
    said = capfd.readouterr().err
    gap = f"{tmp_path / 'v/a.mp4'}: 0:00.7-0:01.1 can't be decoded; the rest is read"
    assert said.count(gap) == 1 and "main.ts: left out, it is text, no video" in said


def test_what_is_finished_is_kept_and_what_is_half_written_is_not(tmp_path, clip, capsys):
    videos, out = put(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4"), tmp_path / "out"
    out.mkdir()
    (out / "a.mp4.json").write_text("{}")
    (out / "b.mp4.json").write_text('{"0": {"text": "Gra')
    (out / ".c.mp4.json.1.tmp").write_text('{"0": {"text": "Gra')
    assert spot(videos, "--out", out) == 0
    assert "2 videos spotted, 2 lines of text; 1 kept\n" in capsys.readouterr().out
    assert (out / "a.mp4.json").read_text() == "{}"
    assert load_ocr_document(out / "b.mp4.json") == load_ocr_document(out / "c.mp4.json")
    assert spot(videos, "--out", out) == 0
    assert "0 videos spotted, 0 lines of text; 3 kept\n" in capsys.readouterr().out
    assert spot(videos, "--out", out, "--overwrite") == 0
    assert load_ocr_document(out / "a.mp4.json") == load_ocr_document(out / "b.mp4.json")


def test_videos_that_cant_be_read_are_named_and_the_rest_is_done(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, "good.mp4", "z.mp4")
    (videos / "empty.mp4").touch()
    (videos / "locked.mp4").write_bytes(os.urandom(20_000))  # as an encrypted file looks
    (videos / "gone.mp4").symlink_to("nowhere.mp4")
    (videos / "text\nfile.mkv").write_text("not a video\n" * 50)
    write_audio(videos / "sound.mp4")
    truncate(videos / "cut.mp4", videos / "good.mp4", 0.6)
    reasons = {
        "empty.mp4": "is empty (0 bytes)",
        "locked.mp4": "can't be opened as a video",
        "gone.mp4": "is missing",
        r"text\nfile.mkv": "can't be opened as a video",
        "sound.mp4": "holds no video stream, perhaps only sound",
        "cut.mp4": "is cut short",
    }
    assert spot(videos, "--out", tmp_path / "out", "--workers", 2) == 1
    captured = capsys.readouterr()
    assert list_documents(tmp_path / "out") == ["good.mp4.json", "z.mp4.json"]
    assert "2 videos spotted, 2 lines of text; 6 failed\n" in captured.out
    lines = captured.err.replace("\r", "\n").splitlines()
    for name, reason in reasons.items():
        assert len([x for x in lines if f"{name}" in x and f": {reason}" in x and "; " in x]) == 1
    assert (
        spot(videos, "--out", tmp_path / "out") == 1
    )  # they are named again, nothing else is done


def test_where_every_video_fails_each_is_one_line_and_all_are_counted(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(3):
        (videos / f"{number}.mp4").write_bytes(os.urandom(20_000))
    (videos / "gone.mkv").symlink_to("nowhere.mkv")
    write_audio(videos / "sound.mp4")
    assert spot(videos, "--out", tmp_path / "out", "--workers", 2) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/out: 0 videos spotted, 0 lines of text; 5 failed\n"
    # What a terminal shows: a bar is written over by the line that comes after it.
    lines = [line.rsplit("\r", 1)[-1] for line in captured.err.split("\n")]
    names = ["0.mp4", "1.mp4", "2.mp4", "gone.mkv", "sound.mp4"]
    assert sorted(line.split(": ")[0] for line in lines[:-1]) == [str(videos / n) for n in names]
    assert lines[-1].strip() == "" or lines[-1].startswith("text: 100%")
    assert list_documents(tmp_path / "out") == []


class SeenBar(tqdm):
    """A bar that is kept, so that a test may look at it."""

    seen: list["SeenBar"] = []  # noqa: RUF012

    def __init__(self, **options):
        super().__init__(**options | {"delay": 0, "mininterval": 0})
        self.seen.append(self)


def test_progress_counts_looks_and_names_the_video_in_hand(tmp_path, monkeypatch, capsys):
    """A file that is short and large, and one that is long and small; one that can't be read."""
    monkeypatch.setattr("retrieval.spotting.folder.tqdm", SeenBar)
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 20, 320, 240)  # 2 looks
    write_video(videos / "b.mp4", 200, 32, 32)  # 20 looks
    (videos / "c.mp4").write_bytes(os.urandom(100))
    assert (videos / "a.mp4").stat().st_size > (videos / "b.mp4").stat().st_size / 2
    assert spot(videos, "--out", tmp_path / "out", "--workers", 1) == 1
    bar = SeenBar.seen.pop()
    assert bar.n == bar.total and 22 < bar.total < 26
    assert bar.initial == bar.total - 22  # what can't be read says nothing about the speed
    shown = capsys.readouterr().err.replace("\r", "\n")
    assert "0 of 3 videos, a.mp4" in shown and "1 of 3 videos, b.mp4" in shown
    assert "3 of 3 videos, c.mp4" in shown and "left" in shown


def test_what_an_earlier_run_has_done_says_nothing_about_the_speed(tmp_path, monkeypatch, clip):
    monkeypatch.setattr("retrieval.spotting.folder.tqdm", SeenBar)
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "b.mp4", 200)  # 20 looks
    journal = out / "b.mp4.json.part"
    spot_video(videos / "b.mp4", SameText(), journal=journal)
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:16]))
    assert spot(videos, "--out", out, "--workers", 1) == 0
    bar = SeenBar.seen.pop()
    assert (bar.total, bar.n, bar.initial) == (20, 20, 14)  # of 15 looks one is counted


def test_videos_of_one_name_have_a_document_each(tmp_path, clip):
    videos, out = put(tmp_path / "videos", clip, "a.mkv", "a.mp4"), tmp_path / "out"
    assert spot(videos, "--out", out) == 0
    assert list_documents(out) == ["a.mkv.json", "a.mp4.json"]


def test_documents_of_earlier_versions_are_kept_where_they_can_be_of_one_video_only(
    tmp_path, clip, capsys, caplog
):
    names = "talk.mp4", "deep/walk.mov", "two.mp4", "two.mov", "x.mp4", "x.mp4.mkv", "broken.mp4"
    videos, out = put(tmp_path / "videos", clip, *names), tmp_path / "out"
    old = ["talk.json", "deep/walk.json", "two.json"]
    for name in old:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    (out / "broken.json").write_text('{"0": {"text": "Gra')
    assert spot(videos, "--out", out) == 0
    assert "5 videos spotted, 5 lines of text; 2 kept\n" in capsys.readouterr().out
    assert "two.json: could be the text of two.mov and of two.mp4" in caplog.text
    new = [f"{name}.json" for name in names[2:]]
    assert list_documents(out) == sorted([*old, *new, "broken.json"])
    assert {(out / name).read_text() for name in old} == {"{}"}
    (out / "two.mov.json").unlink()
    (out / "x.mp4.mkv.json").unlink()  # x.mp4.json is x.mp4's, whatever it looks like
    assert spot(videos, "--out", out) == 0
    assert "2 videos spotted, 2 lines of text; 5 kept\n" in capsys.readouterr().out
    assert spot(videos, "--out", out, "--overwrite") == 0
    assert list_documents(out) == sorted([*old, *(f"{name}.json" for name in names), "broken.json"])


def test_linked_files_and_folders_are_spotted(tmp_path, clip):
    videos, store = put(tmp_path / "videos", clip, "a.mp4"), put(tmp_path / "store", clip, "b.mp4")
    (videos / "more").symlink_to(store)
    (videos / "c.mp4").symlink_to(store / "b.mp4")
    (store / "loop").symlink_to(videos)
    assert spot(videos, "--out", tmp_path / "out") == 0
    assert list_documents(tmp_path / "out") == ["a.mp4.json", "c.mp4.json", "more/b.mp4.json"]


def test_any_name_is_mirrored(tmp_path, clip):
    names = ["two  words", 'it\'s "so"', "line\nend", "-o", "$(x);*?", "été 東京", "a" * 200]
    names.append(os.fsdecode(b"not \xff utf-8"))
    videos = put(tmp_path / "videos", clip, *(f"{name}.mp4" for name in names))
    assert spot(videos, "--out", tmp_path / "out", "--workers", 2) == 0
    assert list_documents(tmp_path / "out") == sorted(f"{name}.mp4.json" for name in names)


def test_names_are_shown_on_one_line():
    assert escape(Path("été/two words.mp4")) == "été/two words.mp4"
    assert escape(Path("a\nb.mp4")) == r"'a\nb.mp4'"
    assert escape(Path(os.fsdecode(b"\xff.mp4"))) == r"'\udcff.mp4'"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.mkdir(), "holds no video (a file with an extension of: .mp4 .m4v"),
        (lambda path: path.touch(), "is a file, not a folder"),
        (lambda path: None, "no such folder"),
    ],
)
def test_a_folder_that_holds_no_video_is_bad_usage(tmp_path, make, text, capsys):
    make(tmp_path / "videos")
    assert spot(tmp_path / "videos", "--out", tmp_path / "out") == 2
    assert f"{tmp_path / 'videos'}: {text}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--every", "0"], "expected a number of seconds above 0, got 0"),
        (["--every", "inf"], "above 0, got inf"),
        (["--min_score", "2"], "expected a number from 0 to 1, got 2"),
        (["--workers", "0"], "at least 1, got 0"),
        (["--script", "runes"], "invalid choice: 'runes'"),
        (["--reader", "vlc"], "invalid choice: 'vlc'"),
    ],
)
def test_options_that_have_no_meaning_are_bad_usage(tmp_path, clip, options, text, capsys):
    assert spot(put(tmp_path, clip, "a.mp4"), "--out", tmp_path / "out", *options) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine", "rapidorc"], 'unknown text spotter "rapidorc"; did you mean "rapidocr"?'),
        (["--engine", "same_text", "--script", "latin"], "--script: the engine"),
        (["--rec_model", "none.onnx"], "none.onnx: no such file"),
    ],
)
def test_an_engine_that_is_not_there_or_has_no_such_option(tmp_path, clip, options, text, capsys):
    assert run_command(put(tmp_path, clip, "a.mp4"), "--out", tmp_path / "out", *options) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cant_be_made_is_named(tmp_path, clip, capsys):
    out = tmp_path / "out"
    out.touch()
    assert spot(put(tmp_path / "videos", clip, "a.mp4"), "--out", out) == 2
    assert capsys.readouterr().err == f"{out}: File exists\n"


def test_a_missing_package_is_said_once(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    videos = put(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4")
    assert run_command(videos, "--out", tmp_path / "out", "--workers", 2) == 2
    assert capsys.readouterr().err.count("--no-deps rapidocr-onnxruntime") == 1


def test_a_reader_that_is_not_installed_is_said_once(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "decord", None)
    videos = put(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4")
    assert spot(videos, "--out", tmp_path / "out", "--reader", "decord") == 2
    assert capsys.readouterr().err.count("pip install decord") == 1


def test_what_one_reader_refuses_is_read_by_another(tmp_path, clip, capsys):
    put(tmp_path / "videos", clip, "a.mp4")
    write_rotated(tmp_path / "videos/turned.mp4", tmp_path / "videos/a.mp4")
    options = ["--out", tmp_path / "out", "--reader", "decord"]
    assert spot(tmp_path / "videos", *options) == 0
    assert "2 videos spotted" in capsys.readouterr().out
    assert list_documents(tmp_path / "out") == ["a.mp4.json", "turned.mp4.json"]
