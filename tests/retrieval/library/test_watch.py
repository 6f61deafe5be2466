"""Waiting for changes in folders."""

import sys
import threading

import pytest

from retrieval.library import watch
from retrieval.library.watch import FolderWatcher

LONG_S = 100.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos/deep").mkdir(parents=True)
    return tmp_path / "videos"


def test_what_happens_between_and_within_waits_is_told(folder):
    watcher = FolderWatcher([folder], LONG_S)
    (folder / "deep/a.mp4").write_bytes(b"a")  # before it waits
    assert watcher.wait(0.0)
    for change in (
        lambda: (folder / "deep/a.mp4").rename(folder / "deep/b.mp4"),
        lambda: (folder / "deep").rename(folder / "deeper"),
        lambda: (folder / "deeper/b.srt").write_text("1"),
        lambda: (folder / "deeper/b.mp4").unlink(),
    ):
        timer = threading.Timer(0.2, change)
        timer.start()
        assert watcher.wait(0.0)
        timer.join()


def test_other_files_do_not_count(folder):
    watcher = FolderWatcher([folder], 1.5)
    (folder / "notes.txt").write_text("no video")
    assert not watcher.wait(0.0)


def test_a_folder_that_comes_later_is_watched(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_STEP_MS", 50)
    disk = tmp_path / "disk"
    watcher = FolderWatcher([disk], 0.2)
    assert not watcher.wait(0.0)
    disk.mkdir()
    assert not watcher.wait(0.0)
    (disk / "a.mp4").write_bytes(b"a")
    watcher._rescan_s = LONG_S
    assert watcher.wait(0.0)


def test_without_watchfiles_it_looks_now_and_then(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    watcher = FolderWatcher([folder], 0.2)
    assert "watchfiles is not installed" in caplog.text
    assert not watcher.wait(0.0)
