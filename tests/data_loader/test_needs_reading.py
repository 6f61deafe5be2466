"""Which captions need reading."""

import json

import pytest

from base.base_dataset import VideoEntry
from data_loader.ocr.ocr_reader import flag_captions_that_need_reading, needs_reading
from utils.errors import UserError

BOX = [0, 0, 4, 0, 4, 4, 0, 4, 0, 0]


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        ("A sign says Casino.", ["CASINO"], True),
        ("a casino", ["casino!"], True),
        ("two casinos", ["casino"], False),  # whole words
        ("a car and a bus", ["car", "bus"], False),  # three letters
        ("in 2023", ["2023"], False),  # no letters
        ("room a12345", ["a12345"], False),
        ("the Café is open", ["café"], True),
        ("the sale-price", ["SALE,price"], True),
        ("anything", [], False),
        ("", ["word"], False),
    ],
)
def test_a_shared_word_of_four_letters(caption, words, expected):
    assert needs_reading(caption, words) is expected


def entry(folder, name, captions, text=None):
    document = folder / f"{name}.json"
    if text is not None:
        record = {"text": text, "score": 0.5, "tracks": {"0": BOX}}
        document.write_text(json.dumps({"0": record}))
    return VideoEntry(name, folder / name, captions, document)


def test_captions_of_entries(tmp_path):
    entries = [
        entry(tmp_path, "a", ("a casino", "a house"), "CASINO royale"),
        entry(tmp_path, "b", ("a casino",)),  # no document
        entry(tmp_path, "c", ("the Ångström", "ÅNGSTRÖM"), "ångström x"),
        VideoEntry("d", tmp_path / "d", ("word",)),
    ]
    assert flag_captions_that_need_reading(entries) == [True, False, False, True, True, False]


def test_a_broken_document(tmp_path):
    broken = entry(tmp_path, "a", ("a casino",), "casino")
    broken.ocr.write_text("{")
    with pytest.raises(UserError, match="a.json: no readable OCR document"):
        flag_captions_that_need_reading([broken])
