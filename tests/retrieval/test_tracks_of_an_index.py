"""Lines that were not read in the picture: what is said, and the name of the file."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data_loader.ocr.ocr_words import OcrLine, OcrParams, extract_words, parse_document
from retrieval import VideoIndex
from retrieval.index import database
from retrieval.index.records import NewTrack, build_name_track
from retrieval.index.video_file import Window, find_windows_at
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.made_index import add, create, made_embeddings, made_video, make_former
from utils.errors import UserError

SPOKEN = {"text": "Everything must go", "score": 1.0, "kind": "spoken", "start_s": 2, "end_s": 3.5}
READ = {"text": "SALE NOW", "score": 0.9, "tracks": {"0": [0, 0, 9, 0, 9, 9, 0, 9, 1, 1]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of one video, ``2019/Charlie_Chaplin.mp4``, with a line read and a line said."""
    create(tmp_path / "i")
    video = made_video("2019/Charlie_Chaplin.mp4", ["Sale now"], made_embeddings(1))
    nowhere = np.zeros((0, 5), np.float32)
    video.tracks.append(NewTrack("Everything must go", 1.0, 0.2, 0.9, nowhere, (0,), "spoken"))
    add(tmp_path / "i", video)
    return tmp_path / "i"


def find(folder: Path, query: str) -> list[tuple[str, str, str, bool]]:
    with VideoIndex.open(folder) as index:
        hits = index.search(query, mode="keyword")
    return [(w.word, w.kind, w.track_kind, w.box is None) for hit in hits for w in hit.words]


def test_what_is_said_and_a_name_are_found_like_what_is_read(folder):
    assert find(folder, "sale") == [("sale", "exact", "read", False)]
    assert find(folder, "everything") == [("everything", "exact", "spoken", True)]
    assert find(folder, '"must go"') == [("must go", "exact", "spoken", True)]
    assert find(folder, "chaplin") == [("chaplin", "exact", "name", True)]
    assert find(folder, "chapl") == [("chaplin", "prefix", "name", True)]
    assert find(folder, "mp4") == []


def test_the_lines_of_an_entry_are_those_read_and_said(folder):
    with VideoIndex.open(folder) as index:
        assert {track.kind for track in index.tracks(1)} == {"read", "spoken"}


def test_an_index_of_a_former_release_is_read_and_then_upgraded(folder, tmp_path):
    make_former(folder, 2)
    with VideoIndex.open(folder) as index:
        assert [w.track_kind for w in index.search("sale", mode="keyword")[0].words] == ["read"]
        assert index.search("chaplin", mode="keyword") == []
        with lock_index(folder), IndexWriter(folder):
            pass
        # A search that had opened it before sees the name, too.
        assert index.search("chaplin", mode="keyword")[0].words[0].track_kind == "name"
        assert index.search("sale", mode="keyword")[0].words[0].track_kind == "read"
    with closing(database.connect(folder)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == database.FORMAT_VERSION
    assert find(folder, "chaplin") == [("chaplin", "exact", "name", True)]


def test_a_document_may_hold_what_is_said():
    lines = parse_document({"0": READ, "1": SPOKEN})
    assert lines[1] == OcrLine("Everything must go", 1.0, {}, "spoken", (2.0, 3.5))
    found = extract_words({"0": READ, "1": SPOKEN}, OcrParams())
    assert found.words == ["sale", "now"] and found.num_skipped == 0  # models read only


@pytest.mark.parametrize("change", [{"start_s": 4}, {"end_s": None}, {"start_s": -1}, {"kind": 3}])
def test_a_spoken_line_without_a_time_is_refused(change):
    with pytest.raises(UserError, match="record '0': expected"):
        parse_document({"0": SPOKEN | change}, "clip.mp4.json")


def test_a_spoken_line_is_in_the_windows_that_share_its_time():
    window = Window(0.0, 10.0, 0, 100)
    later = window._replace(start_s=5.0, end_s=15.0)
    assert find_windows_at((2.0, 4.0), [window, later]) == (0,)
    assert find_windows_at((9.0, 12.0), [window, later]) == (0, 1)
    assert find_windows_at((10.0, 10.0), [window, later]) == (1,)
    assert find_windows_at((20.0, 21.0), [window, later]) == ()


def test_the_name_is_split_into_words():
    track = build_name_track("a-b/Été 2019/IMG_0012 (1).final.mp4", 3.0, 2)
    assert (track.text, track.seen_in) == ("a b Été 2019 IMG 0012 1 final", (0, 1))
