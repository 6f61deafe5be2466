"""``VideoIndex`` as programs use it: results, files, threads, and folders that are not right."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError, MissingFileError, UnknownEntryError
from retrieval.indexing.ann import build_ann
from retrieval.indexing.text import OcrFolder
from retrieval.indexing.update import IndexOptions, update_index
from retrieval.results import MODES
from retrieval.searching.meaning import nearest
from retrieval.searching.ranking import fuse, ranked
from retrieval.searching.search import MAX_QUERY
from retrieval.storage import arrays
from retrieval.storage.writer import IndexWriter, locked
from tests.retrieval.made_index import add, create, index_of_lines, made_embeddings, made_video
from tests.retrieval.test_index_kill import FORK
from utils.errors import UserError


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """A copy of the index that may be spoilt."""
    return Path(shutil.copytree(built[0], tmp_path / "copy.index"))


def test_every_mode_through_threads_gives_what_one_thread_gives(built):
    queries = ["casino", "a red circle", "hotel museum", '"casino"', "zzz", "!?", "x" * MAX_QUERY]
    jobs = [(query, mode) for query in queries for mode in MODES] * 4
    with VideoIndex.open(built[0]) as index, ThreadPoolExecutor(8) as pool:
        wanted = [index.search(query, mode=mode, explain=True) for query, mode in jobs]
        found = list(pool.map(lambda job: index.search(job[0], mode=job[1], explain=True), jobs))
    assert found == wanted
    assert all(len(hits) == 8 for hits, (_, mode) in zip(found, jobs, strict=True)
               if mode != "words")  # fmt: skip


def test_fused_is_the_sum_of_reciprocal_ranks(built):
    with VideoIndex.open(built[0]) as index:
        by_meaning = {hit.id: hit.meaning_rank for hit in index.search("casino", mode="meaning")}
        by_words = {hit.id: hit.words_rank for hit in index.search("casino", mode="words")}
        assert len(by_words) in range(1, 8)
        for weight in (1.0, 0.0, 2.5):
            hits = index.search("casino", words_weight=weight)
            for hit in hits:
                assert (hit.meaning_rank, hit.words_rank) == (
                    by_meaning[hit.id], by_words.get(hit.id),
                )  # fmt: skip
                score = 1 / (60 + hit.meaning_rank)
                score += weight / (60 + hit.words_rank) if hit.words_rank else 0
                assert hit.score == pytest.approx(score)
            assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
        assert {hit.id for hit in index.search("casino", k=len(by_words), words_weight=50.0)} == (
            by_words.keys()
        )


def test_ranks_are_shared_and_lists_joined():
    ids, scores = np.array([7, 3, 9, 1]), np.array([5.0, 2.0, 2.0, 1.0])
    first = ranked(ids, scores)
    assert first.ranks.tolist() == [1, 2, 2, 4]
    assert [first.rank_of(entry) for entry in (9, 1, 2)] == [2, 4, None]
    nothing = ranked(ids[:0], scores[:0])
    assert nothing.ranks.tolist() == fuse([nothing, nothing], [1, 1]).ids.tolist() == []
    second = ranked(np.array([8, 3]), np.array([1.0, 1.0]))
    joined = fuse([first, second], [1.0, 0.5])
    assert joined.ids.tolist() == [3, 7, 9, 1, 8]
    wanted = [1 / 62 + 0.5 / 61, 1 / 61, 1 / 62, 1 / 64, 0.5 / 61]
    assert joined.scores.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "the query is empty"),
        ({"query": " \n\t"}, "the query is empty"),
        ({"query": "x" * (MAX_QUERY + 1)}, "1,001 characters; give at most 1,000"),
        ({"k": 0}, "k is 0"),
        ({"mode": "smell"}, 'mode is "smell"; give one of: fused, meaning, words'),
        ({"folder": "nowhere"}, "nowhere: the index has no video in such a folder"),
        ({"folder": "%"}, "no video in such a folder"),
        ({"words_weight": -1.0}, "weight of words is -1.0"),
    ],
)
def test_requests_that_can_not_be_answered(built, options, message):
    with VideoIndex.open(built[0]) as index, pytest.raises(UserError, match=message):
        index.search(**{"query": "x"} | options)


def test_a_folder_is_searched_with_those_below(tmp_path):
    create(tmp_path / "i")
    names = ["a/b/1.mp4", "a/b c/2.mp4", "a/3.mp4", "ab/4.mp4", "5.mp4", "a.mp4", "a/é/6.mp4"]
    rows = made_embeddings(len(names))
    add(tmp_path / "i", *(made_video(n, ["w"], rows[i : i + 1]) for i, n in enumerate(names)))
    with VideoIndex.open(tmp_path / "i") as index:
        assert index.folders() == ["a", "a/b", "a/b c", "a/é", "ab"]
        for folder in index.folders():
            hits = index.search("w", mode="words", folder=folder)
            inside = {name for name in names if name.startswith(f"{folder}/")}
            assert {hit.video for hit in hits} == inside
            with index.reading() as (connection, snapshot):
                found = nearest(snapshot, rows[0], 9, snapshot.rows_in(connection, folder))
            assert {names[number - 1] for number in found[0]} == inside
        assert len(index.search("w", mode="words", folder="a/b/")) == 1


def test_files_of_entries(copy, built, tmp_path):
    with VideoIndex.open(copy) as index:
        hit = index.search("casino")[0]
        entry = index.entry(hit.id)
        assert (entry.video, entry.start_s, entry.end_s) == (hit.video, hit.start_s, hit.end_s)
        assert entry.end_s == entry.duration_s and entry.width == 96
        assert index.video_file(hit.id) == (built[1].videos / hit.video).resolve()
        assert index.thumbnail_file(hit.id).read_bytes()[:2] == b"\xff\xd8"
        for unknown in (0, -1, 99, 2**63, 10**30):
            for method in (index.entry, index.video_file, index.thumbnail_file, index.tracks):
                with pytest.raises(UnknownEntryError, match=f"{unknown}: the index has no such"):
                    method(unknown)
        index.thumbnail_file(hit.id).unlink()
        with pytest.raises(MissingFileError, match="thumbnail is missing"):
            index.thumbnail_file(hit.id)


def test_a_link_that_leads_out_of_the_folder_is_refused(library, tmp_path):
    out, secret = tmp_path / "i", tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    library.index(out)
    with VideoIndex.open(out) as index:
        ids = {hit.video: hit.id for hit in index.search("x", 20)}
        first, second, third, *_ = sorted(ids)
        (library.videos / first).unlink()
        (library.videos / first).symlink_to(secret)
        with pytest.raises(MissingFileError, match="leads out of the indexed folder"):
            index.video_file(ids[first])
        (library.videos / second).unlink()
        with pytest.raises(MissingFileError, match="is not in .* any more"):
            index.video_file(ids[second])
        folder = (library.videos / third).parent
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MissingFileError, match="leads out of the indexed folder"):
            index.video_file(ids[third])


def version(folder: Path, number: int) -> None:
    connection = sqlite3.connect(folder / "index.db")
    connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


def application(folder: Path, number: int) -> None:
    connection = sqlite3.connect(folder / "index.db")
    connection.execute(f"PRAGMA application_id = {number}")
    connection.close()


def spoil(folder: Path, pattern: str, keep: int | None = None) -> None:
    (path,) = folder.glob(pattern)
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, keep)


SPOILT = {
    "newer": (lambda f: version(f, 2), "format 2, from a newer version"),
    "of another program": (lambda f: application(f, 5), "holds no finished index"),
    "no database": (lambda f: spoil(f, "index.db"), "holds no finished index; index.py makes one"),
    "no embeddings": (lambda f: spoil(f, "embeddings-*"), r"embeddings-000001.npy: No such file"),
    "half of them": (lambda f: spoil(f, "embeddings-*", 600), r"npy: is cut short \(600 of 1152"),
    "no ids": (lambda f: spoil(f, "entries-*"), "entries-000001.npy: No such file.*index is damag"),
    "half a database": (lambda f: spoil(f, "index.db", 5000), "index.db: can't be read"),
    "junk": (lambda f: (f / "index.db").write_bytes(b"junk" * 2000), "index.db: can't be read"),
    "no weights": (lambda f: spoil(f, "query_encoder/weights*"), "query_encoder: can't be read"),
    "no settings": (lambda f: spoil(f, "query_encoder/query_*"), "query_encoder: can't be read"),
    "no tokenizer": (lambda f: spoil(f, "query_encoder/tokenizer.json"), "tokenizer"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_folder_that_is_not_right_is_told(copy, fault):
    make, message = SPOILT[fault]
    make(copy)
    with pytest.raises(UserError, match=message) as caught, VideoIndex.open(copy) as index:
        index.search("casino")
    assert str(copy) in str(caught.value)


def test_the_query_encoder_of_another_model_is_refused(copy, make_checkpoint, library, tmp_path):
    other = tmp_path / "other.index"
    type(library)(library.videos, library.ocr, make_checkpoint("fusion", "seed=7")).index(other)
    weights = "query_encoder/weights.safetensors"
    shutil.copy(other / weights, copy / weights)
    with VideoIndex.open(copy) as index:
        with pytest.raises(IndexFolderError, match="is not the query encoder that the index was"):
            index.search("casino")
        assert index.search("casino", mode="words")
        index.check_model(library.checkpoint)
        with pytest.raises(IndexFolderError, match="with the model demo_fusion .*not with"):
            index.check_model(copy / weights)
        with pytest.raises(UserError, match="nowhere.pth: can't be read"):
            index.check_model("nowhere.pth")


def test_no_such_folder(tmp_path):
    for path, message in ((tmp_path / "x", "no such folder"), (tmp_path, "holds no finished inde")):
        with pytest.raises(IndexFolderError, match=message):
            VideoIndex.open(path)


def _as_nobody(job, *arguments) -> int:
    """Run a job with another user's rights; returns its exit code."""

    def run() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        job(*arguments)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def _searches(folder: Path) -> None:
    with VideoIndex.open(folder) as index:
        assert index.search("casino", mode="words")


def _is_refused(job, message: str) -> None:
    with pytest.raises(UserError, match=message):
        job()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_rights_of_another_user(copy, built, library, tmp_path):
    if not Path("/tmp").stat().st_mode & 0o005 or not tmp_path.is_relative_to("/tmp"):
        pytest.skip("the folder of temporary files is closed to other users")
    for folder in (*library.checkpoint.parents[:3], *tmp_path.parents[:2], tmp_path):
        folder.chmod(folder.stat().st_mode | 0o055)
    assert _as_nobody(_searches, copy) == 0  # may read, and not write
    library.index(tmp_path / "i")
    model = library.model

    def index(out: str) -> Callable:
        source = OcrFolder(library.ocr)
        return lambda: update_index(library.videos, tmp_path / out, model, source, IndexOptions())

    assert _as_nobody(_is_refused, index("new"), "new: can't be written .*Permission denied") == 0
    assert _as_nobody(_is_refused, index("i"), "i: can't be written .*Permission denied") == 0
    (copy / "index.db").chmod(0o600)
    assert _as_nobody(_is_refused, lambda: VideoIndex.open(copy), "index.db: can't be read") == 0
    library.videos.chmod(0o700)
    assert _as_nobody(_is_refused, index("i"), "my videos: the folder can't be read") == 0


def test_arrays_grow_while_they_are_mapped(tmp_path):
    file, rows = tmp_path / "a.npy", made_embeddings(10, width=4)
    arrays.create(file, np.float32, 4)
    assert np.load(file).shape == (0, 4) and len(arrays.mapped(file, np.float32, 0, 4)) == 0
    arrays.append(file, 0, rows[:3])
    held = arrays.mapped(file, np.float32, 3, 4)
    arrays.append(file, 3, rows[8:])  # by one that was killed before it said so
    arrays.append(file, 3, rows[3:4])
    arrays.append(file, 4, rows[4:7])
    np.testing.assert_array_equal(held, rows[:3])
    np.testing.assert_array_equal(np.load(file), rows[:7])
    np.testing.assert_array_equal(arrays.mapped(file, np.float32, 7, 4), rows[:7])


def test_faiss_finds_nearly_what_the_exact_search_finds(tmp_path):
    folder, rows = tmp_path / "i", made_embeddings(3000)
    create(folder)
    add(folder, *(made_video(f"{i}.mp4", [], rows[100 * i : 100 * i + 100]) for i in range(25)))
    with locked(folder), IndexWriter(folder) as writer:
        with pytest.raises(UserError, match="--ann is for 10,000 entries and more; .* has 2,500"):
            build_ann(writer)
        assert build_ann(writer, least_rows=100) > 0.9
    # Later ones are found, too, and none that is gone.
    add(folder, *(made_video(f"{i}.mp4", [], rows[100 * i : 100 * i + 100]) for i in range(25, 30)),
        drop=[1])  # fmt: skip
    alive = np.arange(100, 3000)
    with VideoIndex.open(folder) as index, index.reading() as (_, snapshot):
        assert snapshot.ann_index().num_rows == 2500 and len(index) == 2900
        shares, newer = [], 0
        for row in range(0, 3000, 50):
            wanted = alive[np.argsort(-(rows[alive] @ rows[row]))[:10]] + 1
            exact, _ = nearest(snapshot, rows[row], 10, exact=True)
            np.testing.assert_array_equal(exact, wanted)
            found, cosines = nearest(snapshot, rows[row], 200)
            assert not set(found.tolist()) & set(range(1, 101))
            np.testing.assert_allclose(cosines, rows[found - 1] @ rows[row], atol=1e-6)
            shares.append(len({*wanted.tolist()} & {*found[:10].tolist()}) / 10)
            newer += int(np.sum(found[:10] > 2500))
        assert np.mean(shares) > 0.9 and newer > 0


def test_an_index_is_closed_from_another_thread(tmp_path):
    index = VideoIndex.open(index_of_lines(tmp_path / "i", [["casino"]]))
    for _ in range(3):
        assert len(index.search("casino", mode="words")) == 1
    thread = threading.Thread(target=index.close)
    thread.start()
    thread.join()
    assert len(index.search("casino", mode="words")) == 1  # opened anew
    index.close()
