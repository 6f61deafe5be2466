"""Which files of a folder are its videos, and what of them counts as changed.

Changes are seen by size, then time, then content; of a video and of its OCR document.
"""

import os
from pathlib import Path

import pytest

from retrieval.index.ocr_text import (
    OcrFolder,
    OcrSource,
    SpottedText,
    load_source,
    spot_anew,
)
from retrieval.index.records import ContentStamp, KnownVideo
from retrieval.index.update import list_videos
from retrieval.index.update_plan import UpdatePlan, plan_update
from retrieval.spotting.video import EVERY_S
from utils.errors import UserError


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"video")
    (tmp_path / "a" / "1.json").write_bytes(b"{}")
    return tmp_path


def changes(files: Path, before: KnownVideo, source: OcrSource) -> UpdatePlan:
    return plan_update(files, ["a/1.mp4"], {"a/1.mp4": before}, source)


def find_stamp(source: OcrSource) -> ContentStamp | None:
    source.find_documents(["a/1.mp4"])
    return source.get_stamp("a/1.mp4", None)


def known(files: Path, source: OcrSource) -> KnownVideo:
    return KnownVideo(5, ContentStamp.of(files / "a/1.mp4"), find_stamp(source))


@pytest.mark.parametrize("name", ["1.mp4", "1.json"])
def test_time_size_and_content(files, name):
    source, file = OcrFolder(files), files / "a" / name
    before, content = known(files, source), file.read_bytes()
    same = changes(files, before, source)
    assert (same.num_same, same.touch, same.update) == (1, {}, [])
    os.utime(file, (1, 1))
    touched = changes(files, before, source)
    assert touched.num_same == 1 and list(touched.touch) == [5]
    assert touched.touch[5] == known(files, source)[1:] != before[1:]
    file.write_bytes(content[::-1])  # as long as it was
    assert changes(files, before, source).update == ["a/1.mp4"]
    file.write_bytes(content + b" ")
    assert changes(files, before, source).update == ["a/1.mp4"]


def test_a_file_of_the_same_size_and_time_is_not_read(files):
    before, file = known(files, OcrSource()), files / "a/1.mp4"
    kept = file.stat()
    file.write_bytes(b"oediv")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert changes(files, before, OcrSource()).num_same == 1


def test_text_from_elsewhere_is_another_text(files):
    spotted = [SpottedText(), SpottedText(script="chinese"), SpottedText(every=1.0)]
    sources = [OcrSource(), OcrFolder(files), *spotted]
    for now in sources:
        for then in sources:
            found = changes(files, known(files, then), now)
            assert found.update == ([] if now is then else ["a/1.mp4"])
        again = load_source(files, now.settings())
        assert again.settings() == now.settings()
        assert find_stamp(again) == find_stamp(now)
    (files / "a/1.json").unlink()
    assert changes(files, known(files, sources[0]), sources[1]).num_same == 1


def test_text_of_an_unknown_engine_counts_as_that_of_this_one_until_it_is_spotted_anew(files):
    former = ContentStamp(0, 0, "spotted: latin, every 0.4 s")  # as former releases have it
    source = load_source(files, {"kind": "spotted", "script": "latin", "every": EVERY_S})
    assert source.get_stamp("a/1.mp4", former) == former
    assert source.get_stamp("a/1.mp4", None) == find_stamp(SpottedText())
    assert spot_anew("rapidocr", None, source.settings()).get_stamp("a/1.mp4", former) == former
    other = source.settings() | {"identity": {"engine": "rapidocr", "version": "0"}}
    anew = spot_anew("rapidocr", None, other)
    assert anew.get_stamp("a/1.mp4", former) == find_stamp(SpottedText())
    again = load_source(files, anew.settings())  # the next run goes on with that
    assert again.get_stamp("a/1.mp4", former) == find_stamp(SpottedText())


def test_a_document_that_two_videos_could_share_is_used_for_none(tmp_path, caplog):
    for name in ("talk.json", "other.json", "talk.webm.json"):
        (tmp_path / name).write_text("{}")
    source, names = OcrFolder(tmp_path), ["other.mp4", "talk.mov", "talk.mp4", "talk.webm"]
    source.find_documents(names)
    stamps = {name: source.get_stamp(name, None) for name in names}
    assert [name for name in names if stamps[name] is None] == ["talk.mov", "talk.mp4"]
    (record,) = caplog.records
    assert "talk.json: could be the text of talk.mov and of talk.mp4" in record.getMessage()
    assert source.read_lines("talk.mov", tmp_path / "talk.mov") == []


def test_what_can_not_be_compared_is_kept(files):
    before = known(files, OcrSource())
    (files / "a/1.mp4").unlink()
    found = changes(files, before, OcrSource())
    assert list(found.failed) == ["a/1.mp4"] and not found.update and not found.drop
    assert plan_update(files, [], {"a/1.mp4": before}, OcrSource()).drop == ["a/1.mp4"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_every_depth_usual_extension_and_name(tmp_path):
    names = ["b.MP4", "a/z.mkv", "a/b/c.webm", "a.b/x.Mov", "d.avi", "e.ts", "f.wmv"]
    names += ["two words.mp4", 'it\'s "so".mp4', "line\nend.mp4", "$(rm x);*.mp4", "été 東京.mp4"]
    names.append(os.fsdecode(b"not \xff utf-8.mp4"))
    touch(tmp_path, *names)
    touch(tmp_path, "notes.txt", "mp4", "a/b/c.json", "x.mp4.part", "._a.mp4", ".trash/b.mp4")
    assert list_videos(tmp_path).names == sorted(names)
    (tmp_path / "folder.mp4").mkdir()
    assert list_videos(tmp_path).names == sorted(names)


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
    assert list_videos(inside).names == names
    assert sorted(list_videos(inside).link_targets) == [outside, third / "f.mp4"]
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be one
    assert list_videos(tmp_path / "link").names == names


def test_a_folder_without_videos_is_an_error(tmp_path):
    touch(tmp_path, "readme.md")
    with pytest.raises(UserError, match="holds no video; is a disk not there"):
        list_videos(tmp_path)
    for name, text in (("no", "no such folder"), ("readme.md", "is a file")):
        with pytest.raises(UserError, match=f"{name}: {text}.*give the folder"):
            list_videos(tmp_path / name)


def test_what_the_index_has_of_a_folder_that_cant_be_read_stays(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "closed/b.mp4", "open/c.mp4")
    known = list_videos(tmp_path).names
    scandir = os.scandir

    def refuse(path):  # root reads everything: the system's answer is put in its place
        if Path(path) == tmp_path / "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_videos(tmp_path)
    assert listing.names == ["a.mp4", "open/c.mp4"]
    assert listing.find_kept([*known, "closed too/d.mp4", "closed"]) == {"closed/b.mp4"}
    said = "1 folders can't be read (closed: Permission denied)"
    assert listing.describe_left_out() == said
