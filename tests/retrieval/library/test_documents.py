"""Documents of a library: made step by step, moved with their videos, and removed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_loader.readers.base_reader import VideoError
from retrieval.library.documents import (
    DocumentMaker,
    DocumentStep,
    DocumentTask,
    LibraryText,
    make_document,
)
from retrieval.library.settings import LibrarySettings
from tests.retrieval.library.made_library import write_text_video
from utils.errors import UserError
from utils.processes import TaskError


class OneLine(DocumentStep):
    """One record that says by whom and how often it was made."""

    label = "reading"

    def __init__(self, kind: str, setting: str) -> None:
        self.kind, self.setting, self.count = kind, setting, 0
        self.error: Exception | None = None

    def describe(self, video: Path) -> Any:
        return self.setting

    def make_records(self, video, journal, progress) -> list[dict[str, Any]]:
        self.count += 1
        journal.write_text("so far")
        if self.error is not None:
            raise self.error
        progress(0.5)
        progress(1.0)
        spoken = {"start_s": 0.0, "end_s": 1.0}
        more = spoken if self.kind == "spoken" else {"tracks": {}}
        return [{"text": f"{self.setting} {self.count}", "score": 1.0, "kind": self.kind} | more]


@pytest.fixture
def read() -> OneLine:
    return OneLine("read", "latin")


@pytest.fixture
def spoken() -> OneLine:
    return OneLine("spoken", "english")


@pytest.fixture
def task(tmp_path) -> DocumentTask:
    video = tmp_path / "videos/a/b.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"video")
    return DocumentTask("V/a/b.mp4", video, tmp_path / "text/V/a/b.mp4.json")


def read_texts(task: DocumentTask) -> list[str]:
    return [record["text"] for record in json.loads(task.document.read_text()).values()]


def test_a_step_is_done_where_it_is_missing(task, tmp_path, read, spoken):
    shares: list[float] = []
    text = LibraryText(tmp_path / "text", [read])
    assert not text.is_current(task.name, task.video)
    make_document(task, [read], shares.append)
    assert read_texts(task) == ["latin 1"] and shares == [0.5, 1.0]
    assert text.is_current(task.name, task.video)
    assert sorted(path.name for path in task.document.parent.iterdir()) == [
        ".b.mp4.made", "b.mp4.json"
    ]  # fmt: skip
    both = LibraryText(tmp_path / "text", [read, spoken])
    assert not both.is_current(task.name, task.video)
    make_document(task, [read, spoken], shares.append)
    assert read_texts(task) == ["latin 1", "english 1"] and read.count == 1
    spoken.setting = "french"
    make_document(task, [read, spoken], shares.append)
    assert read_texts(task) == ["latin 1", "french 2"] and read.count == 1
    shares.clear()
    read.setting = spoken.setting = "other"
    make_document(task, [read, spoken], shares.append)
    assert read_texts(task) == ["other 2", "other 3"] and shares == [0.25, 0.5, 0.75, 1.0]
    # Another video at its place.
    task.video.write_bytes(b"another one")
    assert not both.is_current(task.name, task.video)
    make_document(task, [read, spoken], shares.append)
    assert read_texts(task) == ["other 3", "other 4"] and both.is_current(task.name, task.video)
    # The same one, with another time.
    os.utime(task.video, (1, 1))
    assert not both.is_current(task.name, task.video)
    both.confirm(task.name, task.video)
    assert both.is_current(task.name, task.video)


def test_what_can_not_be_read_is_one_line(task, read):
    journal = task.document.with_name(".b.mp4.read.journal")
    for error in (VideoError(task.video, "is damaged", "get it\nagain"), UserError("no\nway")):
        read.error = error
        with pytest.raises(TaskError) as caught:
            make_document(task, [read], lambda share: None)
        assert "\n" not in str(caught.value) or isinstance(error, VideoError)
        assert not task.document.exists() and journal.read_text() == "so far"
    read.error = None
    make_document(task, [read], lambda share: None)
    assert not journal.exists()


def test_documents_follow_their_videos(tmp_path, task, read):
    text = LibraryText(tmp_path / "text", [read])
    make_document(task, [read], lambda share: None)
    moved = {"W/c.mp4": task.name}
    text.find_documents(["W/c.mp4"], moved)
    assert text.read_lines("W/c.mp4", task.video)[0].text == "latin 1"
    text.move_documents(moved)
    assert text.is_current("W/c.mp4", task.video) and not task.document.exists()
    assert text.read_lines("W/c.mp4", task.video)[0].text == "latin 1"
    assert text.count_missing(["W/c.mp4"]) == 0
    make_document(task, [read], lambda share: None)
    for name in (".d.mp4.read.journal", ".d.mp4.made", "d.mp4.json", ".d.mp4.json.12.tmp"):
        (tmp_path / "text/W" / name).touch()
    (tmp_path / "text/W/.c.mp4.read.journal").touch()
    assert text.remove_stale(["W/c.mp4"]) == 2
    left = sorted(path.name for path in (tmp_path / "text").rglob("*") if path.is_file())
    assert left == [".c.mp4.made", ".c.mp4.read.journal", "c.mp4.json"]


def test_they_are_made_in_processes_of_their_own(tmp_path):
    settings = LibrarySettings()
    names = ["one.mp4", "bad.mp4", "two.mp4"]
    for name in names:
        write_text_video(tmp_path / name, Path(name).stem.upper())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    tasks = [DocumentTask(n, tmp_path / n, tmp_path / "text" / f"{n}.json") for n in names]
    maker = DocumentMaker(settings, workers=2)
    try:
        told: dict[str, float] = {}
        done = dict(maker.make(tasks, told.__setitem__))
        assert {name: reason is None for name, reason in done.items()} == {
            "one.mp4": True, "bad.mp4": False, "two.mp4": True
        }  # fmt: skip
        assert "can't be opened as a video" in done["bad.mp4"]
        assert set(told) == {"one.mp4", "two.mp4"} and max(told.values()) <= 1
        assert [read_texts(tasks[n]) for n in (0, 2)] == [["ONE"], ["TWO"]]
        assert list(maker.make([], told.__setitem__)) == []  # and again
        assert dict(maker.make(tasks[:1], told.__setitem__)) == {"one.mp4": None}
    finally:
        maker.close()
