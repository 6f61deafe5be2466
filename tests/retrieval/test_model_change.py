"""An index without a model, one that gets its first, and one whose model is replaced."""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from parse_config import load_config
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError, OtherModelError, WordsOnlyError
from retrieval.index import model_change
from retrieval.index.embedding import ModelFile
from retrieval.index.ocr_text import OcrFolder, OcrSource, SpottedText
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.writer import read_index_meta
from retrieval.results import Hit
from tests.retrieval.conftest import Library
from utils.errors import UserError

FORK = multiprocessing.get_context("fork")
QUERY = "a red circle"


def make_words_only(library: Library, out: Path, **options):
    return update_index(library.videos, out, None, OcrFolder(library.ocr), IndexOptions(**options))


def change(library: Library, out: Path, checkpoint: Path | None = None, **options):
    """Update an index with another checkpoint, or the library's own."""
    path = checkpoint or library.checkpoint
    model = ModelFile(path, load_config(path.parent / "config.json"))
    source = OcrFolder(library.ocr)
    return update_index(library.videos, out, model, source, IndexOptions(**options))


@pytest.fixture
def other_checkpoint(make_checkpoint) -> Path:
    return make_checkpoint("fusion", "seed=7")


def find(out: Path, query: str = QUERY, **options) -> dict[str, Hit]:
    """Return the hits by their videos, each of one entry."""
    with VideoIndex.open(out) as index:
        return {hit.video: hit for hit in index.search(query, k=50, **options)}


def assert_alike(out: Path, fresh: Path) -> None:
    """An index finds what a fresh one of the same model finds."""
    with VideoIndex.open(out) as index, VideoIndex.open(fresh) as other:
        assert index.model["weights"] == other.model["weights"]
    for query in (QUERY, "casino", "hotel"):
        found, wanted = find(out, query, explain=True), find(fresh, query, explain=True)
        assert found.keys() == wanted.keys() and len(found) == 8
        for video, hit in found.items():
            assert hit.words == wanted[video].words
            assert hit.score == pytest.approx(wanted[video].score)
            assert hit.similarity == pytest.approx(wanted[video].similarity, abs=1e-6)
            assert vars(hit.explanation) == pytest.approx(vars(wanted[video].explanation), abs=1e-5)


def test_an_index_of_words_only(library, tmp_path):
    out = tmp_path / "my.index"
    done = make_words_only(library, out)
    assert (done.num_videos, done.num_entries, done.failed) == (8, 8, {})
    assert not list(out.glob("embeddings*"))
    assert not (out / "query_encoder").exists() and not (out / "config.json").exists()
    with VideoIndex.open(out) as index:
        assert index.model is None and index.modes == ("keyword",) and len(index) == 8
        hits = index.search("casino", explain=True)
        assert hits == index.search("casino", mode="keyword") and hits[0].words
        assert hits[0].similarity is None and hits[0].semantic_rank is None
        assert index.read_thumbnail(hits[0].id)[:2] == b"\xff\xd8"
        assert index.tracks(hits[0].id) and index.video_file(hits[0].id).is_file()
        for call in (lambda: index.search(QUERY, mode="semantic"), index.load_query_encoder):
            with pytest.raises(WordsOnlyError, match="index.py VIDEOS --out INDEX --model MODEL"):
                call()
        with pytest.raises(IndexFolderError, match="holds words only"):
            index.check_model(library.checkpoint)
    with pytest.raises(UserError, match="--ann is for embeddings"):
        make_words_only(library, out, ann=True)


def test_it_is_brought_up_to_date_without_a_model(library, tmp_path, test_names):
    out = tmp_path / "my.index"
    make_words_only(library, out)
    first, second, third = sorted(test_names)[:3]
    (library.videos / first).unlink()
    shutil.copy(library.videos / third, library.videos / second)  # another content
    shutil.copy(library.videos / third, library.videos / "new.mp4")
    plan = make_words_only(library, out).plan
    assert (plan.add, plan.update, plan.drop, plan.num_same) == (["new.mp4"], [second], [first], 6)
    assert make_words_only(library, out).plan.num_same == 8
    with VideoIndex.open(out) as index:
        assert len(index) == 8 and index.model is None


def test_the_first_model_embeds_what_is_there(library, tmp_path, monkeypatch):
    """As a fresh index does, with entries, words and pictures kept, and nothing read anew."""
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    make_words_only(library, out)
    before = {name: (hit.id, hit.words) for name, hit in find(out, "casino").items()}
    pictures = {path: path.stat().st_mtime_ns for path in out.glob("thumbnails/*/*")}
    with VideoIndex.open(out) as index:  # which stays open
        done = change(library, out)
        assert (done.num_anew, done.plan.num_same, done.num_entries) == (8, 8, 8)
        assert index.model["name"] == "demo_fusion" and index.modes[0] == "hybrid"
        assert len(index.search(QUERY, mode="semantic")) == 8
    library.index(fresh)
    assert_alike(out, fresh)
    found = find(out, "casino")
    assert before == {name: (found[name].id, found[name].words) for name in before}
    assert pictures == {path: path.stat().st_mtime_ns for path in out.glob("thumbnails/*/*")}
    assert change(library, out).plan.num_same == 8  # and it is that model's from now on
    assert read_index_meta(out)["precision"] == "fp32"


def test_another_model_takes_the_place(library, tmp_path, other_checkpoint):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    library.index(out)
    own = find(out)
    with pytest.raises(OtherModelError, match=r"with the model demo_fusion .*, not with .*--repla"):
        change(library, out, other_checkpoint)
    with VideoIndex.open(out) as index:
        index.search(QUERY)
        done = change(library, out, other_checkpoint, replace_model=True)
        assert done.num_anew == 8
        again = {hit.video: hit for hit in index.search(QUERY, k=50)}  # by the other query encoder
        assert index.model["path"] == str(other_checkpoint)
    assert again.keys() == own.keys() == find(out).keys()
    assert any(abs(again[name].similarity - own[name].similarity) > 1e-3 for name in own)
    type(library)(library.videos, library.ocr, other_checkpoint).index(fresh)
    assert_alike(out, fresh)
    assert change(library, out, other_checkpoint, replace_model=True).num_anew == 0  # as it is
    with pytest.raises(OtherModelError):
        library.index(out)
    names = {path.name for path in out.iterdir()}
    assert len([name for name in names if name.startswith("query_encoder")]) == 1
    assert len([name for name in names if name.endswith(".npy")]) == 5
    assert change(library, out, replace_model=True).num_anew == 8  # and back
    library.index(tmp_path / "first")
    assert_alike(out, tmp_path / "first")


def test_what_has_changed_since_is_brought_up_to_date_behind_it(library, tmp_path, test_names):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    make_words_only(library, out)
    gone, changed, damaged, own_text = sorted(test_names)[:4]
    (library.videos / gone).rename(library.videos / "moved.mp4")
    shutil.copy(library.videos / own_text, library.videos / changed)
    (library.videos / damaged).write_bytes(b"no video")
    document = (library.ocr / own_text).with_suffix(".json")
    document.write_text(document.read_text() + " ")
    done = change(library, out)
    assert done.num_anew == 6 and list(done.failed) == [damaged]  # the moved one among them
    assert (done.num_videos, done.num_entries) == (7, 7)
    assert sorted(done.plan.add) == sorted([changed, damaged])
    assert done.plan.moved == {"moved.mp4": gone}
    # The document of the one that has moved still has its former name: it has no text by now.
    assert done.plan.update == [own_text, "moved.mp4"] and not done.plan.drop
    library.index(fresh)
    found, wanted = find(out), find(fresh)
    assert found.keys() == wanted.keys() and len(found) == 7
    for video, hit in found.items():
        assert hit.similarity == pytest.approx(wanted[video].similarity, abs=1e-6)


def test_where_no_video_can_be_read_nothing_is_lost(library, tmp_path):
    out = tmp_path / "my.index"
    make_words_only(library, out)
    for video in library.videos.rglob("*.mp4"):
        os.truncate(video, 100)
    with pytest.raises(UserError, match="none of the 8 videos can be embedded .*left as it was"):
        change(library, out)
    assert find(out, "casino")


def test_a_run_that_was_stopped_goes_on(library, tmp_path, monkeypatch, other_checkpoint):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    library.index(out)
    before = find(out)
    embedded, stop_after = [], 3
    embed_videos = model_change.embed_videos

    def stopping(names, *arguments):
        for complete, failed in embed_videos(names, *arguments):
            yield complete, failed
            embedded.extend(video.path for video in complete)
            if len(embedded) >= stop_after:
                raise KeyboardInterrupt

    monkeypatch.setattr(model_change, "embed_videos", stopping)
    with pytest.raises(KeyboardInterrupt):
        change(library, out, other_checkpoint, replace_model=True, batch_size=1)
    assert find(out) == before  # the first model's
    meta = read_index_meta(out)
    assert meta["successor"]["num_rows"] == 3
    said = model_change.describe_stopped(out, meta)
    assert "3 of its entries are embedded by demo_fusion, too" in said
    assert f"-r {other_checkpoint} --replace-model" in said
    library.index(out)  # a run in between leaves both as they are
    assert find(out) == before and read_index_meta(out)["successor"] == meta["successor"]
    stop_after = 100
    assert change(library, out, other_checkpoint, replace_model=True).num_anew == 8
    assert len(embedded) == 8 == len(set(embedded))  # none of them twice
    type(library)(library.videos, library.ocr, other_checkpoint).index(fresh)
    assert_alike(out, fresh)
    # What has been begun with one model is no part of another one's.
    embedded.clear()
    stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        change(library, out, replace_model=True, batch_size=1)
    assert change(library, out, other_checkpoint, replace_model=True).num_anew == 0
    assert "successor" not in read_index_meta(out)
    assert len(list(out.glob("query_encoder*"))) == 1


def test_killed_at_any_moment_the_index_answers(library, tmp_path, other_checkpoint):
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    library.index(out)
    before, rng = find(out), random.Random(0)

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        change(library, out, other_checkpoint, replace_model=True, batch_size=1)

    for _ in range(6):
        process = FORK.Process(target=run)
        process.start()
        time.sleep(rng.uniform(0.05, 0.5))
        process.kill()
        process.join()
        with VideoIndex.open(out) as index:
            is_first = index.model["path"] == str(library.checkpoint)
            hits = {hit.video: hit for hit in index.search(QUERY, k=50)}
            assert hits.keys() == before.keys()
            assert not is_first or hits == before
    change(library, out, other_checkpoint, replace_model=True)
    type(library)(library.videos, library.ocr, other_checkpoint).index(fresh)
    assert_alike(out, fresh)


def test_it_is_searched_all_the_while(library, tmp_path, other_checkpoint):
    """One index that stays open gives all hits of the one model, and then of the other."""
    out = tmp_path / "my.index"
    library.index(out)

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        change(library, out, other_checkpoint, replace_model=True, batch_size=1)

    with VideoIndex.open(out) as index:
        answers = [index.search(QUERY, k=50)]
        process = FORK.Process(target=run)
        process.start()
        while process.is_alive():
            answers.append(index.search(QUERY, k=50))
        process.join()
        assert process.exitcode == 0
        answers.append(index.search(QUERY, k=50))
    distinct = [answers[0]]
    distinct += [now for now, last in zip(answers[1:], answers, strict=False) if now != last]
    assert len(distinct) == 2 and {len(hits) for hits in answers} == {8}


def test_spotted_text_is_taken_from_the_index(library, tmp_path, monkeypatch, test_names):
    """The words that a model reads are those that the index has: nothing is spotted again."""
    name = next(n for n in sorted(test_names) if find_words(library, n))
    out, one = tmp_path / "my.index", tmp_path / "one"
    (one / name).parent.mkdir(parents=True)
    shutil.copy(library.videos / name, one / name)
    source, spotted = SpottedText(), []
    lines = OcrFolder(library.ocr)
    lines.find_documents([name])

    def read_lines(video, file):
        spotted.append(video)
        return lines.read_lines(video, file)

    monkeypatch.setattr(source, "prepare", lambda: None)
    monkeypatch.setattr(source, "read_lines", read_lines)
    update_index(one, out, None, source, IndexOptions())
    assert spotted == [name]
    done = update_index(one, out, library.model, source, IndexOptions())
    assert done.num_anew == 1 and done.plan.num_same == 1 and spotted == [name]
    fresh = tmp_path / "fresh"
    update_index(one, fresh, library.model, source, IndexOptions())
    deaf = tmp_path / "deaf"
    update_index(one, deaf, library.model, OcrSource(), IndexOptions())
    rows = {folder: np.load(next(folder.glob("embeddings-*.npy"))) for folder in (out, fresh, deaf)}
    # But for what an upright box loses of a quadrangle.
    np.testing.assert_allclose(rows[out], rows[fresh], atol=1e-3)
    assert np.abs(rows[deaf] - rows[fresh]).max() > 1e-2


def find_words(library: Library, name: str) -> bool:
    lines = OcrFolder(library.ocr)
    lines.find_documents([name])
    return any(len(line.text) >= 3 for line in lines.read_lines(name, library.videos / name))
