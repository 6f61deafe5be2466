"""OCR documents of any content: words with finite tracks, or one error that names the document."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_loader.collate import Collate
from data_loader.data_check.documents import read_document
from data_loader.ocr.ocr_words import OcrParams, normalise_tracks, read_ocr_words
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.records import ContentStamp
from retrieval.index.video_file import ReadingParams, VideoFile
from tests.fuzz.fuzzing import end_well, fuzz
from tests.fuzz.json_mutations import dump, mutated_bytes, mutated_values
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("_quiet")

BOX = [1, 1.5, 40, 1, 40, "20", 1, 20, 0, 0]
DOCUMENT = {
    "0": {"text": "SALE now: 20:30", "score": 0.9, "tracks": {"0": BOX, "5": BOX, "29": BOX[:8]}},
    "17": {"text": "sale été", "score": "0.25", "tracks": {"3": [0] * 8}},
    "18": {"text": "said", "score": 1, "kind": "spoken", "start_s": 0.5, "end_s": "1.5"},
    "19": {"text": "lost", "score": 1, "tracks": {}},
}
RULES = [
    OcrParams(),
    OcrParams(max_char=None, min_length=1, duplicates="keep", track_order="time"),
]
NUM_FRAMES, WIDTH, HEIGHT = 30, 64, 48


class Reader:
    """What an index asks of a video, without a file."""

    path, num_frames, width, height, start_s = Path("a.mp4"), NUM_FRAMES, WIDTH, HEIGHT, 0.0

    def times(self) -> np.ndarray:
        return np.arange(NUM_FRAMES) / 25


@st.composite
def documents(draw) -> bytes:
    content = dump(draw(mutated_values(DOCUMENT)), draw(st.booleans()))
    return draw(mutated_bytes(content))


def count_lost(content: bytes) -> int:
    """Count the members that a parser which keeps the last of equal keys loses."""
    lost = 0

    def count(pairs):
        nonlocal lost
        lost += len(pairs) - len(dict(pairs))
        return dict(pairs)

    json.loads(content, object_pairs_hook=count)
    return lost


def check_document(folder: Path, content: bytes, collate: Collate) -> None:
    path = folder / "a.mp4.json"
    path.write_bytes(content)
    ends = [end_well(partial(read_ocr_words, path, params), "a.mp4") for params in RULES]
    checked = [read_document(params, (str(path), ("a sale",))) for params in RULES]
    index = end_well(lambda: index_document(folder), "a.mp4")
    errors = [str(end) if isinstance(end, UserError) else None for end in (*ends, index)]
    # Training, check_data.py and the index refuse the same, with the same text.
    assert {*errors, *(document.error for document in checked)} == {errors[0]}
    if errors[0] is not None:
        return
    for params, found in zip(RULES, ends, strict=True):
        tracks = normalise_tracks(found.tracks, NUM_FRAMES, WIDTH, HEIGHT)
        assert tracks.dtype == np.float32 and np.isfinite(tracks).all()
        assert np.isfinite(normalise_tracks(found.tracks, 1, 1, 1)).all()
        tokens = collate.tokenize_distinct_words([found.words])
        assert len(found.words) == len(tracks) and all(tokens)
        words = read_document(params, (str(path), ())).num_words
        assert words == len(found.words) or len(found.words) == params.max_words
    empty = [record for record in json.loads(_decode(content)).values() if not _is_seen(record)]
    assert ends[0].num_skipped == count_lost(_decode(content)) + len(empty)
    for track in index:
        assert np.isfinite(track.boxes).all() and 0 <= track.start_s <= track.end_s < np.inf
        assert np.isfinite(np.float32(track.score))
        track.text.encode("utf-8")


def index_document(folder: Path) -> list:
    source = OcrFolder(folder)
    source.find_documents(["a.mp4"])
    lines = source.read_lines("a.mp4", Path("a.mp4"))
    params = ReadingParams(10, 10, uses_ocr=True)
    stamps = ContentStamp(0, 0, ""), source.get_stamp("a.mp4", None)
    return VideoFile("a.mp4", stamps, Reader(), lines, params).video.tracks


def _decode(content: bytes) -> str:
    return content.decode(json.detect_encoding(content), "surrogatepass")


def _is_seen(record: dict) -> bool:
    return record.get("kind", "read") != "read" or bool(record["tracks"])


@pytest.mark.slow
@fuzz()
@given(content=documents())
def test_documents_of_any_content(tmp_path_factory, collate, content):
    check_document(tmp_path_factory.getbasetemp(), content, collate)


@fuzz(200)
@given(content=documents())
def test_some_documents_of_any_content(tmp_path_factory, collate, content):
    check_document(tmp_path_factory.getbasetemp(), content, collate)
