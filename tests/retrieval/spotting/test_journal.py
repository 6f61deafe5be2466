"""Spotting that is stopped within a video goes on at its last look, to the same bytes."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spot_text
from base.registry import TEXT_SPOTTERS
from data_loader.readers.base_reader import VideoError
from retrieval.spotting.folder import IDENTITY_FILE
from retrieval.spotting.journal import name_journal
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from retrieval.spotting.tracks import make_document
from retrieval.spotting.video import spot_video
from tests.retrieval.spotting.engines import SameText, list_documents, run_command
from tests.videos import break_packets, make_frames, write_video
from utils.cli import run_cli
from utils.files import lock_file

NUM_FRAMES = 120


@TEXT_SPOTTERS.register("shade_text")
class ShadeText(TextSpotter):
    """Reads, where it is, how bright the picture is; writes down each picture that it is given."""

    log: Path | None = None
    pause = 0.0

    def identity(self) -> dict[str, str]:
        return {"engine": "shade_text"}

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        time.sleep(self.pause)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("read\n")
        place = picture.mean() % 7
        corners = np.array([[1, 2], [40, 2], [40, 12], [1, 12]], dtype=np.float64) + place / 3
        score = 0.9 + float(picture.std()) / 1e4
        return [TextLine(f"shade {picture[:8].mean():.1f}", score, corners)]


def count_reads(log: Path) -> int:
    return len(log.read_text().splitlines())


@pytest.fixture
def video(tmp_path) -> Path:
    (tmp_path / "videos").mkdir()
    return write_video(tmp_path / "videos/long.mp4", NUM_FRAMES)


def _run_slowly(videos: Path, out: Path, log: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ShadeText.log, ShadeText.pause = log, 0.02
    options = ["--engine", "shade_text", "--every", "0.04", "--out", str(out), "--workers", "1"]
    sys.argv = ["spot_text.py", str(videos), *options]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process is stopped
    run_cli(spot_text.main)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_long_video_that_is_stopped_again_and_again_loses_nothing(tmp_path, video, signum):
    out, log = tmp_path / "out", tmp_path / "log"
    document = out / "long.mp4.json"
    journal = name_journal(document)
    num_stops = 3
    for stop in range(1, num_stops + 1):
        process = multiprocessing.get_context("fork").Process(
            target=_run_slowly, args=(video.parent, out, log)
        )
        process.start()
        while not journal.exists() or len(journal.read_bytes().splitlines()) < 20 * stop:
            time.sleep(0.005)
        os.kill(process.pid, signum)
        process.join(30)
        assert process.exitcode != 0 and not document.exists()
    process = multiprocessing.get_context("fork").Process(
        target=_run_slowly, args=(video.parent, out, log)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0 and list_documents(out) == ["long.mp4.json"]
    # Each stop loses the picture in hand; a killed run's process may have read one more.
    assert NUM_FRAMES <= count_reads(log) <= NUM_FRAMES + 2 * num_stops
    whole = tmp_path / "whole"
    options = ["--engine", "shade_text", "--every", "0.04", "--workers", "1"]
    assert run_command(video.parent, "--out", whole, *options) == 0
    assert (whole / "long.mp4.json").read_bytes() == document.read_bytes()


def write_stills(path: Path) -> Path:
    """Write pictures of which every third one is new."""
    from data_loader.synthetic.layout import write_video as write_frames

    write_frames(path, make_frames(20, 64, 48).repeat(3, axis=0), fps=25)
    return path


@pytest.fixture
def spotted(tmp_path):
    """A video that is spotted: its path, its journal's, and the document."""
    path, journal = write_stills(tmp_path / "a.mp4"), tmp_path / "a.mp4.json.part"
    document = spot_video(path, ShadeText(), 0.04, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert 20 <= sum(b"lines" in line for line in lines) < 60 and len(lines) == 61
    assert document == spot_video(path, ShadeText(), 0.04)
    return path, journal, document


@pytest.mark.parametrize("num_kept", [0, 1, 2, 3, 20, 21, 22, 59, 60])
@pytest.mark.parametrize("torn", [b"", b'{"frame": 4', b'{"frame": 99, "lines": []}\n', b"\xff\n"])
def test_it_goes_on_after_any_look_whatever_follows(spotted, tmp_path, num_kept, torn, monkeypatch):
    path, journal, document = spotted
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: 1 + num_kept]) + torn)
    monkeypatch.setattr(ShadeText, "log", tmp_path / "log")
    shares = []
    assert spot_video(path, ShadeText(), 0.04, "av", shares.append, journal) == document
    assert journal.read_bytes() == b"".join(lines)
    num_left = sum(b"lines" in line for line in lines[1 + num_kept :])
    assert (count_reads(tmp_path / "log") if num_left else 0) == num_left
    first = [num_kept / 60] if num_kept else []
    assert shares == pytest.approx([*first, *(n / 60 for n in range(num_kept + 1, 61))])


class OtherText(ShadeText):
    def identity(self) -> dict[str, str]:
        return {"engine": "shade_text", "version": "2"}


def test_a_journal_of_anything_else_is_begun_anew(spotted, tmp_path, monkeypatch):
    path, journal, document = spotted
    num_reads = sum(b"lines" in line for line in journal.read_bytes().splitlines())

    def count_anew(engine: TextSpotter, every: float = 0.04, reader: str = "av") -> int:
        before = journal.read_bytes()
        log = tmp_path / "log"
        log.write_text("")
        monkeypatch.setattr(ShadeText, "log", log)
        spot_video(path, engine, every, reader, journal=journal)
        number = count_reads(log)
        if number:
            journal.write_bytes(before)
        return number

    assert count_anew(ShadeText()) == 0
    assert count_anew(OtherText()) == num_reads
    assert count_anew(ShadeText(), every=0.08) > 0
    assert count_anew(ShadeText(), reader="cv2") == num_reads
    os.utime(path, (1, 1))
    assert count_anew(ShadeText()) == num_reads
    for damaged in (b"", b"\n", b"[]\n{}\n", journal.read_bytes().replace(b"form", b"from", 1)):
        journal.write_bytes(damaged)
        assert spot_video(path, ShadeText(), 0.04, journal=journal) == document


def test_a_video_that_fails_leaves_no_journal(tmp_path):
    class Failing(SameText):
        def spot(self, picture):
            if (tmp_path / "bad.part").stat().st_size > 300:  # some looks are written
                raise VideoError("bad.mp4", "is gone")
            return super().spot(picture)

    source = write_video(tmp_path / "a.mp4", 60)
    with pytest.raises(VideoError, match="is gone"):
        spot_video(source, Failing(), 0.04, journal=tmp_path / "bad.part")
    assert not (tmp_path / "bad.part").exists()
    break_packets(tmp_path / "bad.mp4", source, list(range(60)))
    with pytest.raises(VideoError):
        spot_video(tmp_path / "bad.mp4", SameText(), 0.04, journal=tmp_path / "bad.part")
    assert not (tmp_path / "bad.part").exists()


def test_frames_that_do_not_decode_are_passed_over_when_it_goes_on(tmp_path):
    good = write_video(tmp_path / "good.mp4", 60, gop=5, x264="bframes=0")
    path = break_packets(tmp_path / "a.mp4", good, list(range(20, 30)))
    journal, log = tmp_path / "a.part", tmp_path / "log"
    document = spot_video(path, ShadeText(), 0.04, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    frames = [json.loads(line)["frame"] for line in lines[1:]]
    assert frames == [*range(20), *range(30, 60)]
    for num_done in (10, 20, 21, 25, 50):  # before the gap, at it, behind it
        journal.write_bytes(b"".join(lines[: 1 + num_done]))
        log.write_text("")
        spotter = ShadeText()
        spotter.log = log
        assert spot_video(path, spotter, 0.04, journal=journal) == document
        assert journal.read_bytes() == b"".join(lines)
        assert count_reads(log) == 50 - num_done


def test_a_journal_that_cant_be_written_is_said_and_done_without(tmp_path, caplog):
    path = write_video(tmp_path / "a.mp4", 12)
    (tmp_path / "file").touch()
    document = spot_video(path, SameText(), journal=tmp_path / "file/a.part")
    assert document == spot_video(path, SameText())
    assert "file/a.part: can't be written (" in caplog.text and "begins anew" in caplog.text


def test_a_journal_in_use_is_left_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("retrieval.spotting.journal._WAIT_S", 0)
    path, journal = write_video(tmp_path / "a.mp4", 12), tmp_path / "a.part"
    with lock_file(journal):
        assert spot_video(path, SameText(), journal=journal) == spot_video(path, SameText())
    assert journal.read_bytes() == b""
    assert "another process is at work on this video" in caplog.text


def test_what_is_left_of_a_run_is_removed_and_is_no_document(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", 12)
    out = tmp_path / "out"
    options = tmp_path / "videos", "--out", out, "--engine", "same_text", "--workers", 1
    assert run_command(*options) == 0
    journal = out / "a.mp4.json.part"
    made = (out / "a.mp4.json").read_bytes()
    for more in ([], ["--overwrite"]):  # left behind between the document and its removal
        journal.write_text(json.dumps({"form": 1}) + "\n")
        assert run_command(*options, *more) == 0
        assert list_documents(out) == ["a.mp4.json"] and (out / IDENTITY_FILE).exists()
        assert (out / "a.mp4.json").read_bytes() == made
    (out / "a.mp4.json").unlink()
    journal.write_text("{}\n")
    assert run_command(*options) == 0
    assert list_documents(out) == ["a.mp4.json"] and (out / "a.mp4.json").read_bytes() == made
    assert json.loads(made) != make_document([])
