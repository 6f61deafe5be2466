"""Which files of a folder are its videos."""

import os
from pathlib import Path

import pytest

from retrieval import videos
from retrieval.videos import find_videos
from utils.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_videos(folder)]


def test_every_depth_and_usual_extension_sorted(tmp_path):
    touch(tmp_path, "b.MP4", "a/z.mkv", "a/b/c.webm", "a.b/x.Mov", "d.avi", "e.ts", "f.wmv")
    touch(tmp_path, "notes.txt", "mp4", "a/b/c.json", "x.mp4.part")
    expected = ["a/b/c.webm", "a/z.mkv", "a.b/x.Mov", "b.MP4", "d.avi", "e.ts", "f.wmv"]
    assert names_in(tmp_path) == expected


def test_any_name(tmp_path):
    strange = ["two words.mp4", "it's \"so\".mp4", "line\nend.mp4", "$(rm x);*.mp4", "été 東京.mp4"]
    touch(tmp_path, *strange)
    (tmp_path / os.fsdecode(b"not \xff utf-8.mp4")).touch()
    assert sorted(names_in(tmp_path)) == sorted([*strange, os.fsdecode(b"not \xff utf-8.mp4")])


def test_hidden_ones_are_left_out(tmp_path):
    touch(tmp_path, "._a.mp4", ".trash/b.mp4", "a.mp4")
    assert names_in(tmp_path) == ["a.mp4"]


def test_what_is_no_file_is_left_out(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert names_in(tmp_path) == ["a.mp4"]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "in_not"
    touch(inside, "a.mp4", "deep/b.mp4")
    touch(outside, "secret.mp4")
    (inside / "out.mp4").symlink_to(outside / "secret.mp4")
    (inside / "up.mp4").symlink_to("../in_not/secret.mp4")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "same.mp4").symlink_to("deep/b.mp4")
    assert names_in(inside) == ["a.mp4", "deep/b.mp4", "same.mp4"]
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be one
    assert names_in(tmp_path / "link") == ["a.mp4", "deep/b.mp4", "same.mp4"]


def test_a_folder_without_videos_is_an_empty_list(tmp_path):
    touch(tmp_path, "readme.md")
    assert find_videos(tmp_path) == []


@pytest.mark.parametrize(("name", "text"), [("no", "no such folder"), ("f.mp4", "is a file")])
def test_what_is_no_folder_is_said(tmp_path, name, text):
    touch(tmp_path, "f.mp4")
    with pytest.raises(UserError, match=f"{name}: {text}.*give the folder"):
        find_videos(tmp_path / name)


def test_a_folder_that_cant_be_read_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    closed = tmp_path / "closed"
    closed.chmod(0)
    if os.access(closed, os.R_OK):  # root reads everything: the system's answer is put in its place
        scandir = os.scandir

        def refused(path):
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(videos.os, "scandir", refused)
    try:
        with pytest.raises(UserError, match=r"closed: the folder can't be read \(Permission"):
            find_videos(tmp_path)
    finally:
        closed.chmod(0o755)
