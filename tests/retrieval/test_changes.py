"""What counts as changed: size, then time, then content; of a video and of its OCR document."""

import os
from pathlib import Path

import pytest

from retrieval.indexing.changes import Changes, compare
from retrieval.indexing.text import OcrFolder, OcrSource, Spotted, source_of
from retrieval.storage.contents import Stamp
from retrieval.storage.rows import KnownVideo


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"video")
    (tmp_path / "a" / "1.json").write_bytes(b"{}")
    return tmp_path


def changes(files: Path, before: KnownVideo, source: OcrSource) -> Changes:
    return compare(files, ["a/1.mp4"], {"a/1.mp4": before}, source)


def known(files: Path, source: OcrSource) -> KnownVideo:
    return KnownVideo(5, Stamp.of(files / "a/1.mp4"), source.stamp("a/1.mp4", None))


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
    sources = [OcrSource(), OcrFolder(files), Spotted(), Spotted("chinese"), Spotted(every=1.0)]
    for now in sources:
        for then in sources:
            found = changes(files, known(files, then), now)
            assert found.update == ([] if now is then else ["a/1.mp4"])
        again = source_of(now.settings())
        assert again.settings() == now.settings()
        assert again.stamp("a/1.mp4", None) == now.stamp("a/1.mp4", None)
    (files / "a/1.json").unlink()
    assert changes(files, known(files, sources[0]), sources[1]).num_same == 1


def test_what_can_not_be_compared_is_kept(files):
    before = known(files, OcrSource())
    (files / "a/1.mp4").unlink()
    found = changes(files, before, OcrSource())
    assert list(found.failed) == ["a/1.mp4"] and not found.update and not found.drop
    assert compare(files, [], {"a/1.mp4": before}, OcrSource()).drop == ["a/1.mp4"]
