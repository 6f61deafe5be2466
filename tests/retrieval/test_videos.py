"""Which files of a folder are its videos."""

import os
from pathlib import Path

import pytest

from retrieval.index.update import list_videos
from utils.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_in(folder: Path) -> list[str]:
    return list_videos(folder).names


def test_every_depth_and_usual_extension_sorted(tmp_path):
    touch(tmp_path, "b.MP4", "a/z.mkv", "a/b/c.webm", "a.b/x.Mov", "d.avi", "e.ts", "f.wmv")
    touch(tmp_path, "notes.txt", "mp4", "a/b/c.json", "x.mp4.part")
    expected = ["a.b/x.Mov", "a/b/c.webm", "a/z.mkv", "b.MP4", "d.avi", "e.ts", "f.wmv"]
    assert names_in(tmp_path) == expected


def test_any_name(tmp_path):
    strange = ["two words.mp4", 'it\'s "so".mp4', "line\nend.mp4", "$(rm x);*.mp4", "été 東京.mp4"]
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


def test_links_are_followed_and_where_they_lead_is_noted(tmp_path):
    inside, outside, third = tmp_path / "in", tmp_path / "in_not", tmp_path / "third"
    touch(inside, "a.mp4", "deep/b.mp4")
    touch(outside, "c.mp4", "e/d.mp4")
    touch(third, "f.mp4")
    (inside / "up.mp4").symlink_to("../third/f.mp4")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "same.mp4").symlink_to("deep/b.mp4")
    names = ["a.mp4", "deep/b.mp4", "folder/c.mp4", "folder/e/d.mp4", "same.mp4", "up.mp4"]
    assert names_in(inside) == names
    assert sorted(list_videos(inside).link_targets) == [outside, third / "f.mp4"]
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be one
    assert names_in(tmp_path / "link") == names


def test_a_folder_without_videos_is_an_error(tmp_path):
    touch(tmp_path, "readme.md")
    with pytest.raises(UserError, match="holds no video; is a disk not there"):
        list_videos(tmp_path)


@pytest.mark.parametrize(("name", "text"), [("no", "no such folder"), ("f.mp4", "is a file")])
def test_what_is_no_folder_is_said(tmp_path, name, text):
    touch(tmp_path, "f.mp4")
    with pytest.raises(UserError, match=f"{name}: {text}.*give the folder"):
        list_videos(tmp_path / name)


def test_a_folder_that_cant_be_read_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    closed = tmp_path / "closed"
    closed.chmod(0)
    if os.access(closed, os.R_OK):  # root reads everything: the system's answer is put in its place
        listdir = os.listdir

        def refuse(path):
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return listdir(path)

        monkeypatch.setattr(os, "listdir", refuse)
    try:
        with pytest.raises(UserError, match=r"closed: the folder can't be read \(Permission"):
            list_videos(tmp_path)
    finally:
        closed.chmod(0o755)
