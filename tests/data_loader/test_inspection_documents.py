import json

import pytest

from base.base_dataset import VideoEntry
from data_loader.inspection.documents import (
    Document,
    DocumentTask,
    Spread,
    inspect_documents,
    merged,
    read_document,
    summarise,
)
from data_loader.inspection.tracks import shorten
from data_loader.ocr_words import OcrParams, load_ocr_document, ocr_words
from data_loader.reading import ALL_WORDS, needs_reading
from utils.errors import UserError

CORNERS = [0, 0, 32.5, 0, 32, 24, -1, 24]
GOOD = {"text": "SALE sale Now open", "score": 0.5, "tracks": {"0": CORNERS, "7": [*CORNERS, 1, 2]}}
OTHER = {"text": "café ab  open NOW", "score": "0.9", "tracks": {"3": CORNERS}}
CAPTIONS = ("they now open", "the café", "a SALE!", "nothing here")


def changed(**values):
    return GOOD | values


DOCUMENTS = {
    "good": {"0": GOOD, "1": OTHER},
    "empty": {},
    "no text": {"0": changed(text="")},
    "no track": {"0": changed(tracks={}), "1": OTHER},
    "string corners": {"0": changed(tracks={"0": [*CORNERS[:7], "24"]}), "1": OTHER},
    "bad unused number": {"0": changed(tracks={"0": [*CORNERS, None, "x"]}), "1": OTHER},
}
FAULTY = {
    "a list": [GOOD],
    "record": {"0": 3},
    "text": {"0": changed(text=None)},
    "score": {"1": OTHER, "0": changed(score="high")},
    "true score": {"0": changed(score=True)},
    "infinite score": {"0": changed(score="inf")},
    "tracks": {"0": changed(tracks=[CORNERS])},
    "frame name": {"0": changed(tracks={"0": CORNERS, "x": CORNERS})},
    "frame": {"0": changed(tracks={"0": CORNERS, "1": "0, 0"})},
    "corners": {"0": changed(tracks={"0": CORNERS, "1": CORNERS[:7]})},
    "true corner": {"0": changed(tracks={"0": CORNERS, "1": [*CORNERS[:7], True]})},
    "null corner": {"0": changed(tracks={"0": CORNERS, "1": [*CORNERS[:7], None]})},
    "nan corner": {"0": changed(tracks={"0": CORNERS, "1": [*CORNERS[:7], float("nan")]})},
    "huge corner": {"0": changed(tracks={"0": CORNERS, "1": [*CORNERS[:7], 10**400]})},
}


def write(tmp_path, value, name="a.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def read(path, **params):
    return read_document(DocumentTask(str(path), CAPTIONS, OcrParams(**params)))


@pytest.mark.parametrize("duplicates", ["published", "drop", "keep"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_words_and_captions_are_those_of_training_and_evaluation(tmp_path, name, duplicates):
    path = write(tmp_path, DOCUMENTS[name])
    document = load_ocr_document(path)
    words = ocr_words(document, OcrParams(max_words=10**9, duplicates=duplicates))
    spotted = ocr_words(document, ALL_WORDS).words
    assert read(path, duplicates=duplicates) == Document(
        str(path),
        size=path.stat().st_size,
        num_words=len(words.words),
        num_skipped=words.num_skipped,
        reading=tuple(needs_reading(caption, spotted) for caption in CAPTIONS),
    )


def test_what_the_good_document_holds(tmp_path):
    found = read(write(tmp_path, DOCUMENTS["good"]))
    # sale, now, open; NOW is not there as written; café is not ASCII, but can be read
    assert (found.num_words, found.num_skipped) == (4, 0)
    assert found.reading == (True, True, True, False)


def test_only_plainly_good_documents_take_the_quick_way():
    assert merged(DOCUMENTS["good"]) is not None
    assert merged(DOCUMENTS["string corners"]) is merged(DOCUMENTS["no track"]) is None


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_the_error_that_training_would_end_with(tmp_path, name):
    path = write(tmp_path, FAULTY[name])
    with pytest.raises(UserError) as caught:
        ocr_words(load_ocr_document(path), OcrParams(), str(path))
    assert read(path) == Document(str(path), fault=str(caught.value))


RAW = '{"0": {"text": "open", "score": 1, "tracks": {"0": [%s], "1": [%s], "2": [%s]}}}'
NUMBERS = "0, 10, -2.05, 0.001, 7, 6, 5, 4"


@pytest.mark.parametrize(
    "number",
    ["01", "-01", "1.2.3", "1-2", "--1", "-", ".5", "5.", "1 2", "", " ", "1,", "1, 2", "9" * 400,
     "1e999", "true", "-.5"],
)  # fmt: skip
@pytest.mark.parametrize("place", range(3))
def test_numbers_that_are_none(tmp_path, number, place):
    frames = [NUMBERS] * 3
    frames[place] = f"0, 10, 2.05, 0.001, 7, 6, {number}, 4"
    path = write(tmp_path, RAW % tuple(frames))
    assert shorten(path.read_bytes()) != shorten((RAW % ((NUMBERS,) * 3)).encode())
    with pytest.raises(UserError) as caught:
        ocr_words(load_ocr_document(path), OcrParams(), str(path))
    assert read(path).fault == str(caught.value)


def test_good_tracks_are_shortened():
    good = (RAW % (NUMBERS, NUMBERS.replace(", ", ","), f"{NUMBERS}, 0, 0")).encode()
    assert shorten(good) == (RAW % ((NUMBERS,) * 3)).encode().split(b', "1"')[0] + b"}}}"
    quoted = rb'{"0": {"text": "\"1\": [1,2,3,4,5,6,7,8], \"2\": [1,2,3,4,5,6,7,8]", "score": 1}}'
    assert shorten(quoted) == quoted and shorten(b"") == b""


def test_a_file_that_is_no_json(tmp_path):
    assert "no readable OCR document" in read(write(tmp_path, '{"0": ')).fault


def test_a_missing_file_is_no_fault():
    assert read("nowhere/a.json") == Document("nowhere/a.json")


@pytest.mark.parametrize("workers", [1, 2])
def test_all_documents_of_a_split(tmp_path, workers):
    chosen = [DOCUMENTS[name] for name in ("good", "empty", "no track")]
    paths = [write(tmp_path, value, f"{number}.json") for number, value in enumerate(chosen)]
    paths += [write(tmp_path, FAULTY["text"], "bad.json"), tmp_path / "gone.json", None]
    entries = [
        VideoEntry(str(number), tmp_path / "a.mp4", CAPTIONS, path)
        for number, path in enumerate(paths)
    ]
    facts = inspect_documents(entries, OcrParams(max_words=3), workers, "here")
    assert (facts.named, facts.missing) == (5, [str(tmp_path / "gone.json")])
    assert list(facts.faulty) == [str(tmp_path / "bad.json")]
    assert facts.bytes == sum(path.stat().st_size for path in paths[:3])
    assert (facts.without_words, facts.cut, facts.skipped_records) == (1, 1, 1)
    assert facts.words == Spread(0, 2, 5 / 3, 3)  # 3 of 4; none; open, now
    assert (facts.reading, facts.compared) == (3 + 0 + 2, 12)


def test_nothing_read():
    facts = summarise([Document("gone.json")], 200)
    assert facts.words is None and facts.compared == 0
    assert Spread.of([]) is None and Spread.of([1, 2, 6]) == Spread(1, 2, 3, 6)
