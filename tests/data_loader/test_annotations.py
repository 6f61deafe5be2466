import json
import re

import pytest

from data_loader.datasets.annotations import AnnotationError, count_captions, read_textvr_entries
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
    "twice": (entry("ok.mp4", ["x"]), "'ok.mp4' occurs twice"),
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
