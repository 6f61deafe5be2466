import json
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_loader.ocr.ocr_words import (
    OcrParams,
    extract_words,
    load_ocr_document,
    normalise_tracks,
    parse_document,
    read_ocr_words,
)

REFERENCE = Path(os.environ.get("TEXTVR_REFERENCE_DIR", "tests/reference"))
CASES = [
    case
    for path in sorted(REFERENCE.glob("ocr_documents_*.json"))
    for case in json.loads(path.read_text())
]
SQUARE = [0, 0, 10, 0, 10, 10, 0, 10, 1, 0.5]


def record(text, score=0.5, tracks=None):
    return {"text": text, "score": score, "tracks": {"0": SQUARE} if tracks is None else tracks}


def get_words(*records, **params):
    document = {str(number): item for number, item in enumerate(records)}
    return extract_words(document, OcrParams(**params)).words


def test_there_are_published_documents():
    assert len(CASES) >= 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["width"]))
def test_published_words_order_and_tracks(case):
    found = extract_words(case["ocr"], OcrParams())
    assert found.words == case["expected"]["words"]
    tracks = normalise_tracks(found.tracks, case["video_length"], case["width"], case["height"])
    expected = np.array(case["expected"]["pos"], dtype=np.float64).reshape(-1, 12)
    assert tracks.dtype == np.float32 and tracks.shape == expected.shape
    np.testing.assert_allclose(tracks, expected, rtol=0, atol=1e-6)


# A 10 x 4 box that grows to 20 x 8, moved by (100, 50).
EARLY = [0, 0, 10, 0, 10, 4, 0, 4, 9, 9]
LATE = [100, 50, 120, 50, 120, 58, 100, 58, 9, 9]


def test_track_vector_by_hand():
    found = extract_words({"0": record("word", "0.25", {"4": EARLY, "30": LATE})}, OcrParams())
    # Mean box: corners (50, 25) (65, 25) (65, 31) (50, 31).
    expected = [4, 30, 2, 57.5, 28, 15, 6, 10, 4, 20 / 10.000001, 8 / 4.000001, 0.25]
    np.testing.assert_allclose(found.tracks, [expected], rtol=1e-12)
    scaled = normalise_tracks(found.tracks, 100, 200, 50)
    divisor = [100, 100, 100, 200, 50, 200, 50, 200, 50, 1, 1, 1]
    np.testing.assert_allclose(scaled, [np.divide(expected, divisor)], rtol=1e-6)


@pytest.mark.parametrize(
    ("order", "ends"),
    [
        # Frame 30 comes first in the document, so frame 4 is what is there last.
        ("document", [30, 4, 2, 57.5, 28, 15, 6, 5, 2, 10 / 20.000001, 4 / 8.000001, 0.25]),
        ("time", [4, 30, 2, 57.5, 28, 15, 6, 10, 4, 20 / 10.000001, 8 / 4.000001, 0.25]),
    ],
)
def test_the_first_and_the_last_frame_of_a_document_out_of_order(order, ends, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"0": record("word here", "0.25", {"30": LATE, "4": EARLY})}))
    params = OcrParams(track_order=order)
    found = read_ocr_words(path, params)
    np.testing.assert_allclose(found.tracks, [ends, ends], rtol=1e-12)
    [line] = parse_document(load_ocr_document(path))
    assert list(line.within(4, 31).frames) == [26, 0]  # a clip of the video likewise
    assert (OcrParams().track_order == order) == (order == "document")


@pytest.mark.parametrize("order", ["document", "time"])
def test_a_document_in_order_has_one_vector_in_both_orders(order):
    [case] = [case for case in CASES if len(case["ocr"]) == max(len(c["ocr"]) for c in CASES)]
    found = extract_words(case["ocr"], OcrParams(track_order=order))
    np.testing.assert_array_equal(found.tracks, extract_words(case["ocr"], OcrParams()).tracks)


def test_published_duplicate_rule():
    assert get_words(record("SALE"), record("SALE"), record("sale")) == ["sale", "sale"]
    assert get_words(record("sale"), record("sale"), record("SALE")) == ["sale", "sale"]


def test_other_duplicate_rules():
    texts = [record("SALE"), record("Sale"), record("sale sale")]
    assert get_words(*texts, duplicates="drop") == ["sale"]
    assert get_words(*texts, duplicates="keep") == ["sale"] * 4


def test_only_blanks_split_and_length_counts_before_stripping():
    assert get_words(record("ab a\t\t tab\there  new\nline")) == ["a", "tab\there", "new\nline"]


def test_the_character_rule_is_inclusive_and_can_be_lifted():
    texts = [record("{{{"), record("|||"), record("café"), record("新年快乐")]
    assert get_words(*texts) == ["{{{"]
    assert get_words(*texts, max_char=233) == ["{{{", "|||", "café"]
    assert get_words(*texts, max_char=None) == ["{{{", "|||", "café", "新年快乐"]
    assert get_words(record("ab a abc"), min_length=1) == ["ab", "a", "abc"]


def test_words_are_sorted_by_score_stably_and_then_cut():
    texts = [record("low", 0.1), record("one", "0.9"), record("two", 0.9), record("top", 1)]
    assert get_words(*texts) == ["top", "one", "two", "low"]
    assert get_words(*texts, max_words=2) == ["top", "one"]
    many = [record(f"word{number}", number / 1000) for number in range(250)]
    assert get_words(*many) == [f"word{number}" for number in range(249, 49, -1)]


def test_duplicates_are_found_before_the_sort():
    # The first in the document is kept, although the second has the better score.
    found = extract_words({"a": record("sale", 0.1), "b": record("sale", 0.9)}, OcrParams())
    assert found.words == ["sale"] and found.tracks[0, -1] == 0.1


def test_nothing_found_gives_empty_arrays():
    found = extract_words({}, OcrParams())
    assert found.words == [] and found.tracks.shape == (0, 12)
    assert normalise_tracks(found.tracks, 10, 20, 30).shape == (0, 12)


def test_records_without_a_position_are_counted():
    found = extract_words({"a": record("lost", tracks={}), "b": record("kept")}, OcrParams())
    assert found.words == ["kept"] and found.num_skipped == 1


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("text", "object"),
        ({"score": 1, "tracks": {}}, "text"),
        ({"text": "abc", "tracks": {"0": SQUARE}}, "score"),
        (record("abc", "high"), "score"),
        (record("abc", float("nan")), "score"),
        (record("abc", "inf"), "score"),
        (record("abc", True), "score"),
        ({"text": "abc", "score": 1}, "tracks"),
        (record("abc", tracks=[SQUARE]), "tracks"),
        (record("abc", tracks={"first": SQUARE}), "frame numbers"),
        (record("abc", tracks={"-1": SQUARE}), "frame numbers"),
        (record("abc", tracks={"0": SQUARE[:7]}), "corners"),
        (record("abc", tracks={"0": [*SQUARE[:7], None, 0, 0]}), "coordinates"),
        (record("abc", 1e308), "score.*, at most 1,000,000, found 1e.308"),
        (record("abc", "1e39"), "score"),
        (record("abc", 10**4000), "score"),
        (record("a" * 100_001), "text"),
        (record("abc", tracks={"9" * 23: SQUARE}), "frame numbers from 0, of at most 9 digits"),
        (record("abc", tracks={"9" * 5000: SQUARE}), "frame numbers"),
        (record("abc", tracks={"7": SQUARE, "07": SQUARE}), "each frame once"),
        (record("abc", tracks={"0": [1e308] * 8}), "coordinates .* from -1,000,000 to 1,000,000"),
        (record("abc", tracks={"0": [-1e308] * 8}), "coordinates"),
        (record("abc", tracks={"0": [10**4000] * 8}), "coordinates"),
        (record("abc") | {"kind": "spoken", "start_s": 0, "end_s": 1e308}, "seconds"),
        (record("abc") | {"kind": ["spoken"]}, "kind"),
    ],
)
def test_malformed_records_name_file_and_key(item, expected):
    with pytest.raises(ValueError, match=rf"a\.json: record '17': expected .*{expected}"):
        extract_words({"17": item}, OcrParams(), "a.json")


def test_the_largest_numbers_have_finite_tracks():
    far = [-1e6, -1e6, 1e6, 1e6, -1e6, 1e6, 0, 0]
    item = record("word", 1e6, {"0": [0.0] * 8, "999999999": far})
    tracks = normalise_tracks(extract_words({"0": item}, OcrParams()).tracks, 1, 1, 1)
    assert np.isfinite(tracks).all() and tracks[0, 1] == np.float32(999_999_999)


def test_half_a_character_is_shown_and_read_as_such():
    params = {"max_char": None, "min_length": 1}
    assert get_words(record("a\ud83d \ud83d\ude00"), **params) == ["a\ufffd", "\U0001f600"]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ('{"0": %s, "1": %s}', 0),
        ('{"0": %s, "0": %s}', 1),
        ('{"0" : %s, "0" : %s}', 1),
        ('{"\\u0030": %s, "0": %s}', 1),
        ('{"0": %s, "0": %s, "0": {"text": "a:b::c", "score": 1, "tracks": {}}}', 2),
        ('{"0": %s, "1": {"text": "\\u003ab", "x": "é", "score": 1, "tracks": {}}, "2": %s}', 0),
        ('{"0": %s, "0": {"text": "\\u003A", "score": 1, "tracks": {}}, "2": %s}', 1),
    ],
)
def test_what_is_written_twice_is_counted(tmp_path, content, count):
    path = tmp_path / "a.json"
    path.write_text(content % tuple(json.dumps(record(f"12:30 {n}")) for n in range(2)))
    assert load_ocr_document(path).num_repeated == count
    found = read_ocr_words(path, OcrParams())
    assert found.num_skipped == count + ('"tracks": {}' in content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_documents_of_windows_are_read(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"0": {"text": "é"}}'.encode(encoding))
    assert load_ocr_document(path) == {"0": {"text": "é"}}


@pytest.mark.parametrize("size", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_sizes_are_errors(size):
    with pytest.raises(ValueError, match="replace the file"):
        normalise_tracks(np.zeros((1, 12)), *size)


def test_documents_are_read(tmp_path):
    path = tmp_path / "a.json"
    assert load_ocr_document(path) is None
    path.write_text('{"0": {"text": "é"}}', encoding="utf-8")
    assert load_ocr_document(path) == {"0": {"text": "é"}}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100000, b"\xff", b"{\0}", b"1" * 5000],
)
def test_unreadable_documents_name_the_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json: .*; "):
        load_ocr_document(path)


@pytest.mark.parametrize(
    "params",
    [
        {"max_words": 0},
        {"min_length": 0},
        {"duplicates": "none"},
        {"track_order": "size"},
        {"words": 3},
    ],
)
def test_params_are_checked(params):
    with pytest.raises(ValidationError):
        OcrParams(**params)
