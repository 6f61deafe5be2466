import json

import pytest

from base.base_dataset import VideoEntry
from data_loader.data_check.documents import (
    Document,
    Spread,
    check_documents,
    read_document,
)
from data_loader.ocr.ocr_reader import ALL_WORDS, needs_reading
from data_loader.ocr.ocr_words import OcrParams, extract_words, load_ocr_document
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
    return read_document(OcrParams(**params), (str(path), CAPTIONS))


@pytest.mark.parametrize("duplicates", ["published", "drop", "keep"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_words_and_captions_are_those_of_training_and_evaluation(tmp_path, name, duplicates):
    path = write(tmp_path, DOCUMENTS[name])
    document = load_ocr_document(path)
    words = extract_words(document, OcrParams(max_words=10**9, duplicates=duplicates))
    spotted = extract_words(document, ALL_WORDS).words
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


@pytest.mark.parametrize("name", FAULTY)
def test_the_error_is_the_one_that_training_would_end_with(tmp_path, name):
    path = write(tmp_path, FAULTY[name])
    with pytest.raises(UserError) as caught:
        extract_words(load_ocr_document(path), OcrParams(), str(path))
    assert read(path) == Document(str(path), error=str(caught.value))


def test_a_file_that_is_no_json(tmp_path):
    assert "no readable OCR document" in read(write(tmp_path, '{"0": ')).error


def test_a_missing_file_is_no_error():
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
    facts = check_documents(entries, OcrParams(max_words=3), workers, "here")
    assert (facts.named, facts.missing) == (5, [str(tmp_path / "gone.json")])
    assert list(facts.faulty) == [str(tmp_path / "bad.json")]
    assert facts.bytes == sum(path.stat().st_size for path in paths[:3])
    assert (facts.without_words, facts.cut, facts.skipped_records) == (1, 1, 1)
    assert facts.words == Spread(0, 2, 5 / 3, 3)  # 3 of 4; none; open, now
    assert (facts.reading, facts.compared) == (3 + 0 + 2, 12)


def test_nothing_read(tmp_path):
    entry = VideoEntry("a", tmp_path / "a.mp4", CAPTIONS, tmp_path / "gone.json")
    facts = check_documents([entry], OcrParams(), 1, "here")
    assert facts.words is None and facts.compared == 0
    assert Spread.of([]) is None and Spread.of([1, 2, 6]) == Spread(1, 2, 3, 6)
