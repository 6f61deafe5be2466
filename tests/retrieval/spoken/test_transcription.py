"""Transcription of real videos in which eSpeak speaks: times, silence, late sound, a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest

from retrieval.spoken import transcription
from retrieval.spoken.moonshine import is_loop
from retrieval.spoken.sound import RATE as HEARD_RATE
from retrieval.spoken.sound import stream_sound
from retrieval.spoken.transcription import name_journal, transcribe_video
from tests.conftest import ROOT
from tests.retrieval.spoken.talks import NEEDS_VOICE, RATE, place, say, write_talk
from utils.errors import UserError

NEEDS_MOONSHINE = pytest.mark.skipif(
    find_spec("moonshine_voice") is None, reason="needs moonshine-voice==0.0.62"
)
SUPERMARKET = "Welcome to the supermarket."
NUMBER = "The number is one two three four five."


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A video of 16 s with two sentences, at second 2 and at second 10."""
    sound = place(16.0, (2.0, say(SUPERMARKET)), (10.0, say(NUMBER)))
    return write_talk(tmp_path_factory.mktemp("talk") / "talk.mp4", 16.0, sound=sound)


def find_word(records, word):
    return next(record for record in records if word in record["text"].lower())


@NEEDS_VOICE
@NEEDS_MOONSHINE
def test_words_are_found_at_their_time(talk):
    shares = []
    records = transcribe_video(talk, shares.append)
    assert find_word(records, "supermarket")["start_s"] == pytest.approx(2.0, abs=1.0)
    assert find_word(records, "number")["start_s"] == pytest.approx(10.0, abs=1.0)
    assert all(set(r) == {"text", "score", "kind", "start_s", "end_s"} for r in records)
    assert {(r["kind"], r["score"]) for r in records} == {("spoken", 1.0)}
    assert shares[-1] == pytest.approx(1.0, abs=0.05)


@NEEDS_VOICE
@NEEDS_MOONSHINE
def test_times_count_from_the_first_frame(tmp_path):
    sound = place(10.0, (6.0, say(SUPERMARKET)))
    video = write_talk(tmp_path / "late.mkv", 8.0, sound=sound, video_start_s=2.0)
    (record,) = transcribe_video(video)
    assert record["start_s"] == pytest.approx(4.0, abs=1.0)


@NEEDS_MOONSHINE
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silence", "noise", "loud noise", "music", "beeps"])
def test_nothing_is_heard_where_nobody_speaks(tmp_path, kind):
    rng = np.random.default_rng(0)
    times = np.arange(20 * RATE) / RATE
    notes = np.repeat(rng.choice([220, 247, 262, 294, 330, 392, 440], 40), RATE // 2)
    phase = 2 * np.pi * np.cumsum(notes) / RATE
    sound = {
        "silence": 0 * times,
        "noise": 0.05 * rng.standard_normal(len(times)),
        "loud noise": 0.3 * rng.standard_normal(len(times)),
        "music": sum(0.2 / n * np.sin(n * phase) for n in (1, 2, 3)) * np.exp(-3 * (times % 0.5)),
        "beeps": 0.3 * np.sin(2 * np.pi * 1000 * times) * (times % 1 < 0.2),
    }[kind]
    video = write_talk(tmp_path / "a.mp4", 20.0, sound=sound.astype(np.float32))
    assert transcribe_video(video) == []


@NEEDS_MOONSHINE
def test_a_video_without_sound_says_nothing(tmp_path):
    assert transcribe_video(write_talk(tmp_path / "mute.mp4")) == []


def test_sound_comes_as_one_channel_with_its_time(tmp_path):
    times = np.arange(4 * RATE) / RATE
    sound = np.sin(2 * np.pi * 440 * times).astype(np.float32) * (times > 2)
    video = write_talk(tmp_path / "a.mkv", 4.0, sound=sound)
    pieces = list(stream_sound(video))
    assert [piece.start_s is not None for piece in pieces[:3]] == [True, False, False]
    samples = np.concatenate([piece.samples for piece in pieces])
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(4 * HEARD_RATE, rel=0.03)
    begins = np.flatnonzero(np.abs(samples) > 0.3)[0] / HEARD_RATE + pieces[0].start_s
    assert begins == pytest.approx(2.0, abs=0.05)


def make_fake_recogniser(monkeypatch, heard):
    """Let each burst of sound be a line: what is tested is how sound is cut into parts."""

    def transcribe_samples(samples):
        heard.append(len(samples))
        loud = np.flatnonzero(np.abs(samples) > 0.1)
        groups = np.split(loud, np.flatnonzero(np.diff(loud) > HEARD_RATE // 4) + 1)
        return [
            transcription.SpokenLine(
                f"burst of {(g[-1] - g[0]) / HEARD_RATE:.1f} s",
                g[0] / HEARD_RATE,
                g[-1] / HEARD_RATE,
            )
            for g in groups
            if len(g)
        ]

    monkeypatch.setattr(transcription, "transcribe_samples", transcribe_samples)
    monkeypatch.setattr(transcription, "PART_S", 10.0)
    monkeypatch.setattr(transcription, "identify_recogniser", lambda: {"engine": "fake"})


@pytest.fixture
def bursts(tmp_path):
    """A minute with a burst of 0.6 s every 2.9 s, some of them across the ends of parts."""
    times = np.arange(60 * RATE) / RATE
    sound = 0.5 * np.sin(2 * np.pi * 440 * times) * (times % 2.9 < 0.6)
    return write_talk(tmp_path / "bursts.mp4", 60.0, sound=sound.astype(np.float32))


def test_a_line_across_two_parts_is_whole_and_there_once(bursts, monkeypatch):
    heard = []
    make_fake_recogniser(monkeypatch, heard)
    records = transcribe_video(bursts)
    assert len(heard) > 5 and max(heard) <= 10 * HEARD_RATE
    assert [r["start_s"] for r in records] == pytest.approx(np.arange(0, 60, 2.9), abs=0.1)
    assert {r["text"] for r in records} == {"burst of 0.6 s"}


@pytest.mark.parametrize("num_parts", [1, 3, 5])
def test_a_stopped_run_goes_on_and_gives_the_same(bursts, tmp_path, monkeypatch, num_parts):
    whole, first, second = [], [], []
    make_fake_recogniser(monkeypatch, whole)
    expected = transcribe_video(bursts)
    journal = name_journal(tmp_path / "documents" / "bursts.mp4.json")

    class StopError(Exception):
        pass

    def stop(share: float) -> None:
        if len(first) == num_parts:
            raise StopError

    make_fake_recogniser(monkeypatch, first)
    with pytest.raises(StopError):
        transcribe_video(bursts, stop, journal)
    make_fake_recogniser(monkeypatch, second)
    assert transcribe_video(bursts, None, journal) == expected
    assert first + second == whole
    # The journal of another file is not gone on from.
    os.utime(bursts, ns=(0, 0))
    make_fake_recogniser(monkeypatch, again := [])
    assert transcribe_video(bursts, None, journal) == expected and again == whole


@NEEDS_VOICE
@NEEDS_MOONSHINE
@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same(tmp_path):
    """SIGKILL between two parts, by real speech; parts are short, so that there are some."""
    texts = [SUPERMARKET, NUMBER, "It was the best of times.", "Please close the door."]
    sound = place(40.0, *((2.0 + 9 * i, say(text)) for i, text in enumerate(texts)))
    video = write_talk(tmp_path / "talk.mp4", 40.0, sound=sound)
    journal = name_journal(tmp_path / "talk.mp4.json")
    code = (
        "import json, sys; from pathlib import Path; from retrieval.spoken import transcription\n"
        "transcription.PART_S = 10.0\n"
        "path = Path(sys.argv[2]) if len(sys.argv) > 2 else None\n"
        "print(json.dumps(transcription.transcribe_video(sys.argv[1], None, path)))"
    )

    def start(*arguments):
        command = [sys.executable, "-c", code, str(video), *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    expected = json.loads(start().communicate(timeout=300)[0])
    killed = start(journal)
    while not journal.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 0 < json.loads(journal.read_text())["samples"] < 39 * HEARD_RATE
    assert json.loads(start(journal).communicate(timeout=300)[0]) == expected
    assert "supermarket" in expected[0]["text"].lower() and len(expected) >= 4


def test_what_goes_round_in_circles_is_no_speech():
    assert is_loop("you you you you you you you you")
    assert not is_loop("No, no, no, no.")
    assert not is_loop("It was the best of times, it was the worst of times.")


def test_a_missing_package_is_said_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(transcription, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "moonshine-voice==0\.0\.62"'):
        transcribe_video(write_talk(tmp_path / "a.mp4", sound=place(8.0)))
