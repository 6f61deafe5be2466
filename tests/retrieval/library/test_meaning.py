"""A library that gets a model: words first, then meaning, and no text is read again."""

import shutil
from pathlib import Path

import pytest

from retrieval import VideoIndex
from tests.model.small_towers import write_tower
from tests.retrieval.library.made_library import (
    read_contents,
    read_ids,
    run_find,
    running,
    write_text_video,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def library(tmp_path) -> Path:
    """A library of words only."""
    write_text_video(tmp_path / "videos/hotel.mp4", "Grand Hotel")
    write_text_video(tmp_path / "videos/museum.mp4", "Museum", "Casino", seconds=8)
    code, text = run_find(tmp_path / "library", tmp_path / "videos", "--model", "none")
    assert code == 0 and "no model" not in text  # none is missed
    return tmp_path / "library"


def list_times(library: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (library / "text").rglob("*")}


def test_the_first_model_and_another_one(library, tmp_path):
    contents, ids, times = read_contents(library), read_ids(library), list_times(library)
    write_tower(tmp_path / "towers/clip", "clip")
    code, text = run_find(library, "--model", "towers/clip")  # as seen from the current folder
    assert code == 0 and "0 added, 2 embedded anew, 0 unreadable" in text
    assert (read_contents(library), read_ids(library)) == (contents, ids)
    assert list_times(library) == times
    with VideoIndex.open(library / "index") as index:
        assert index.model["name"] == str(tmp_path / "towers/clip")
        hits = index.search("anything", mode="semantic", exact=True)
        assert {hit.id for hit in hits} == {entry for entries in ids.values() for entry in entries}
    # What is new is embedded when it comes, from any folder, by the model that the library has.
    write_text_video(tmp_path / "videos/bridge.mp4", "Bridge")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running(library, "--watch", folder=elsewhere) as run:
        run.wait_for_state("watching")
        assert run.find("bridge") == {"videos/bridge.mp4"}
        assert run.ask("library")["work"]["message"].startswith("1 added, 0 unreadable")
        hits = run.ask("search", q="anything", mode="semantic")["hits"]
        assert {hit["video"] for hit in hits} == set(ids) | {"videos/bridge.mp4"}
    write_tower(tmp_path / "towers/siglip", "siglip", seed=1)
    code, text = run_find(library, "--model", tmp_path / "towers/siglip")
    assert code == 0 and "3 embedded anew" in text
    with VideoIndex.open(library / "index") as index:
        assert index.model["name"] == str(tmp_path / "towers/siglip")
    assert run_find(library)[0] == 0  # and it stays
    with VideoIndex.open(library / "index") as index:
        assert index.model["name"] == str(tmp_path / "towers/siglip")


def test_a_model_that_can_not_be_had_is_said_and_words_are_there(library, tmp_path):
    write_text_video(tmp_path / "videos/bridge.mp4", "Bridge")
    code, text = run_find(library, "--model", "somebody/nothing")
    assert code == 2 and "1 added, 0 unreadable" in text
    assert "there is no model (somebody/nothing: is not in the local cache" in text
    with VideoIndex.open(library / "index") as index:
        assert [hit.video for hit in index.search("bridge")] == ["videos/bridge.mp4"]


def test_the_model_of_the_library_is_gone(library, tmp_path):
    write_tower(tmp_path / "towers/clip", "clip")
    assert run_find(library, "--model", tmp_path / "towers/clip")[0] == 0
    shutil.rmtree(tmp_path / "towers")
    assert run_find(library)[0] == 0  # nothing is to be embedded
    write_text_video(tmp_path / "videos/bridge.mp4", "Bridge")
    code, text = run_find(library)
    assert code == 2 and str(tmp_path / "towers/clip") in text and "Traceback" not in text
    write_tower(tmp_path / "towers/clip", "clip")
    code, text = run_find(library)
    assert code == 0 and "1 added, 0 unreadable" in text


def test_other_letters_are_read_anew(library, tmp_path):
    times = list_times(library)
    code, text = run_find(library, "--script", "chinese")
    assert code == 0 and "0 unreadable" in text
    after = list_times(library)
    assert after.keys() == times.keys()
    assert all(after[file] > times[file] for file in times if file.is_file())
    assert run_find(library)[0] == 0 and list_times(library) == after  # as it was said
