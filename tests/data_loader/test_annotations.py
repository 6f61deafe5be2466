import codecs
import json
import os
import re

import pytest

from data_loader.datasets.annotations import (
    AnnotationError,
    count_captions,
    read_lines,
    read_list,
    read_textvr_entries,
)
from tests.data_loader.textvr_folder import entry, write_json


def read(tmp_path, value):
    path = write_json(tmp_path / "a.json", value)
    return read_textvr_entries(path, tmp_path / "Videos", tmp_path / "ocr")


def refused(tmp_path, value):
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, value)
    assert str(tmp_path / "a.json") in str(caught.value)
    return str(caught.value)


def test_entries_keep_order_captions_and_the_ocr_folder_of_their_own(tmp_path):
    found = read(
        tmp_path,
        [
            entry("News_Movie/b.mp4", [" Un café, 3 €", "second"], "News/b.json"),
            {"path": "Sports/a.mp4", "captions_info": [{"caption": "one"}]},
        ],
    )
    assert [item.id for item in found] == ["News_Movie/b.mp4", "Sports/a.mp4"]
    assert found[0].video == tmp_path / "Videos/News_Movie/b.mp4"
    assert found[0].ocr == tmp_path / "ocr/News/b.json" and found[1].ocr is None
    assert found[0].captions == (" Un café, 3 €", "second")
    assert count_captions(found) == 3


def test_missing_file(tmp_path):
    with pytest.raises(AnnotationError, match="nowhere.json: no such annotation file"):
        read_textvr_entries(tmp_path / "nowhere.json", tmp_path, tmp_path)


def test_folder_in_the_place_of_the_file(tmp_path):
    with pytest.raises(AnnotationError, match="can't be read"):
        read_textvr_entries(tmp_path, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"path": ]', "is not JSON .line 1, column 11"),
        (b"", "is not JSON"),
        (b'{"path": "a.mp4"}', "must hold a list of entries, holds a JSON dict"),
        (b"[]", "holds no entries"),
        (b'["caf\xe9"]', "is not UTF-8"),
        (b"[" * 200_000, "not JSON|nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "can't be used: Exceeds the limit"),
        (b'[{"path": "a", "path": "b"}]', 'an object has the member "path" twice; keep one'),
        (b"\xff\xfe[\0", "is not JSON"),
        ("[]".encode("utf-16-le"), "byte 1 is NUL: UTF-16 without a byte-order mark"),
    ],
)
def test_files_without_a_list_of_entries(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=reason) as caught:
        read_textvr_entries(path, tmp_path, tmp_path)
    assert str(caught.value).startswith(str(path))


GOOD = entry("ok.mp4", ["fine"])
NO_CAPTIONS = "has no captions"
OUT = "leads out of the data folder"
BROKEN_ENTRIES = {
    "no object": ("text", "must be an object, is a JSON str"),
    "no path": ({"captions_info": [{"caption": "x"}]}, 'no "path"'),
    "empty path": (entry("", ["x"]), 'no "path"'),
    "number as path": (entry(7, ["x"]), 'no "path"'),
    "no captions key": ({"path": "x.mp4"}, NO_CAPTIONS),
    "no captions": (entry("x.mp4", []), NO_CAPTIONS),
    "captions of another kind": ({"path": "x.mp4", "captions_info": {"caption": "x"}}, NO_CAPTIONS),
    "blank caption": (entry("x.mp4", ["fine", "  \t"]), "x.mp4: caption 2 is empty"),
    "number as caption": (entry("x.mp4", [3]), NO_CAPTIONS),
    "caption without object": ({"path": "x.mp4", "captions_info": ["x"]}, NO_CAPTIONS),
    "path above": (entry("../x.mp4", ["x"]), OUT),
    "path above, later": (entry("a/../../x.mp4", ["x"]), OUT),
    "absolute path": (entry("/etc/passwd", ["x"]), OUT),
    "the folder itself": (entry(".", ["x"]), OUT),
    "zero byte": (entry("x\0.mp4", ["x"]), "holds a NUL, as no file"),
    "OCR above": (entry("x.mp4", ["x"], "../x.json"), f"Kwai_OCR.*{OUT}"),
    "absolute OCR": (entry("x.mp4", ["x"], "/x.json"), f"Kwai_OCR.*{OUT}"),
    "OCR of another kind": (entry("x.mp4", ["x"], 3), f"Kwai_OCR.*{OUT}"),
    "twice": (entry("ok.mp4", ["x"]), "'ok.mp4' occurs twice$"),
    "twice, with a dot": (entry("./ok.mp4", ["x"]), "'ok.mp4' occurs twice$"),
    "twice, with slashes": (entry(".//ok.mp4/", ["x"]), "'ok.mp4' occurs twice$"),
    "half a character": (entry("a\ud83d.mp4", ["x"]), "holds half a character, as no file's name"),
    "long name": (entry("é" * 128 + ".mp4", ["x"]), "is too long: a name has at most 255 bytes"),
    "long path": (entry("a/" * 2048 + "x.mp4", ["x"]), "is too long: .* a path 4,095"),
    "long OCR": (entry("x.mp4", ["x"], "x" * 256), "Kwai_OCR path .* is too long"),
    "half a caption": (entry("x.mp4", ["x", "\ud83d"]), "x.mp4: caption 2 holds half a character"),
    "long caption": (entry("x.mp4", ["x" * 100_001]), "x.mp4: caption 1 has 100,001 characters"),
    "Windows path": (
        entry("Sports\\x.mp4", ["x"]),
        r'has "\\" between its folders, as on Windows; ',
    ),
    "Windows OCR": (entry("x.mp4", ["x"], "a\\x.json"), r'Kwai_OCR path .* has "\\" .* write "/"'),
}


@pytest.mark.parametrize("kind", BROKEN_ENTRIES)
def test_a_broken_entry_is_named_with_its_number(tmp_path, kind):
    broken, reason = BROKEN_ENTRIES[kind]
    message = refused(tmp_path, [GOOD, broken])
    assert "1 entries can't be used" in message and "entry 0" not in message
    assert re.search(f"entry 1: .*{reason}", message)


def test_of_many_errors_ten_are_shown_and_all_counted(tmp_path):
    message = refused(tmp_path, [GOOD, *({"path": f"{n}.mp4"} for n in range(13))])
    assert "13 entries can't be used" in message and "… and 3 more" in message
    assert [f"entry {n}:" in message for n in range(14)] == [False] + [True] * 10 + [False] * 3


def test_ten_errors_have_no_rest(tmp_path):
    message = refused(tmp_path, [{"path": f"{n}.mp4"} for n in range(10)])
    assert "more" not in message and "entry 9:" in message


def test_captions_of_the_real_kind_are_read(tmp_path):
    path = tmp_path / "a.json"
    real = {
        "path": "Sports/x.mp4",
        "captions_info": [{"caption": " A man", "caption_info": {"duration": 10.0, "desc_id": 5}}],
        "videos_info": {"source": "y", "split": "test", "Kwai_OCR": "Sports/x.json"},
    }
    path.write_text(json.dumps([real]))
    (found,) = read_textvr_entries(path, tmp_path, tmp_path)
    assert found.captions == (" A man",)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
    ],
)
def test_annotations_of_windows_begin_with_a_byte_order_mark(tmp_path, mark, encoding):
    (tmp_path / "a.json").write_bytes(mark + json.dumps([GOOD]).encode(encoding))
    (tmp_path / "a.txt").write_bytes(mark + "é\r\n\r\nb\r\n".encode(encoding))
    assert [found.id for found in read_textvr_entries(tmp_path / "a.json", tmp_path, tmp_path)] == [
        "ok.mp4"
    ]
    assert read_list(tmp_path / "a.txt") == ["é", "b"]


def test_only_line_ends_end_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\u2028b\x85c\n d\n")
    assert read_lines(tmp_path / "a.txt") == ["a\u2028b\x85c", "d"]


def test_paths_are_taken_without_dots_and_doubled_slashes(tmp_path):
    first, second = read(tmp_path, [entry("./a//b.mp4", ["x"]), entry("a/./c.mp4", ["x"])])
    assert (first.id, first.category) == ("a/b.mp4", "a") and second.id == "a/c.mp4"


def test_bytes_that_are_no_text_can_name_a_file(tmp_path):
    (tmp_path / "Videos").mkdir()
    (tmp_path / "Videos" / os.fsdecode(b"caf\xe9.mp4")).touch()
    [found] = read(tmp_path, [entry("caf\udce9.mp4", ["x"])])
    assert found.video.exists()


COMPOSED, DECOMPOSED = "\u00c9t\u00e9", "E\u0301te\u0301"


@pytest.mark.parametrize(("on_disk", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_are_found_in_both_normal_forms(tmp_path, on_disk, written):
    video = tmp_path / "Videos" / on_disk / f"{COMPOSED}.mp4"
    document = tmp_path / "ocr" / f"{on_disk}.json"
    for file in (video, document):
        file.parent.mkdir(parents=True)
        file.touch()
    name = f"{written}/{DECOMPOSED}.mp4"
    [found] = read(tmp_path, [entry(name, ["x"], f"{written}.json")])
    assert (found.id, found.video, found.ocr) == (name, video, document)
    message = refused(tmp_path, [entry(name, ["x"]), entry(f"{on_disk}/{COMPOSED}.mp4", ["y"])])
    assert "entry 1: " in message and "occurs twice (before as " in message


def test_two_files_whose_names_only_look_alike_are_two(tmp_path):
    names = [f"{COMPOSED}.mp4", f"{DECOMPOSED}.mp4"]
    (tmp_path / "Videos").mkdir()
    for name in names:
        (tmp_path / "Videos" / name).write_text(name)
    found = read(tmp_path, [entry(name, ["x"]) for name in names])
    assert [item.video.read_text() for item in found] == names
    # Without the files nothing tells them apart.
    (tmp_path / "Videos" / names[0]).unlink(), (tmp_path / "Videos" / names[1]).unlink()
    assert "occurs twice" in refused(tmp_path, [entry(name, ["x"]) for name in names])
