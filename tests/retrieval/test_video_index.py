"""``VideoIndex`` as programs use it: results, files, threads, and folders that are not right."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import MissingFileError, UnknownEntryError
from retrieval.index.folder_reader import FolderReader
from retrieval.index.layout import thumbnail_file
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.results import MODES
from retrieval.search.hybrid import MAX_QUERY, add_ranks
from retrieval.search.semantic import find_nearest
from tests.retrieval.made_index import add, create, index_of_lines, made_embeddings, made_video
from utils.errors import UserError


def assert_same(hits, others):
    """The same hits, but for last digits: queries that wait together are embedded as one batch."""
    numbers = {"score": 0, "similarity": None, "explanation": None}
    for hit, other in zip(hits, others, strict=True):
        assert replace(hit, **numbers) == replace(other, **numbers)
        assert hit.score == pytest.approx(other.score, abs=1e-5)
        assert hit.similarity == pytest.approx(other.similarity, abs=1e-5)
        for name in ("similarity", "without_vision", "without_ocr") if hit.explanation else ():
            own = getattr(hit.explanation, name)
            assert own == pytest.approx(getattr(other.explanation, name), abs=1e-5)


def test_every_mode_through_threads_gives_what_one_thread_gives(built):
    queries = ["casino", "a red circle", "hotel museum", '"casino"', "zzz", "!?", "x" * MAX_QUERY]
    jobs = [(query, mode) for query in queries for mode in MODES] * 4
    with VideoIndex.open(built[0]) as index, ThreadPoolExecutor(8) as pool:
        wanted = [index.search(query, mode=mode, explain=True) for query, mode in jobs]
        found = list(pool.map(lambda job: index.search(job[0], mode=job[1], explain=True), jobs))
    for hits, others in zip(found, wanted, strict=True):
        assert_same(hits, others)
    assert all(len(hits) == 8 for hits, (_, mode) in zip(found, jobs, strict=True)
               if mode != "keyword")  # fmt: skip


def test_fused_is_the_sum_of_evidence(built):
    """Without calibration, the k-th nearest counts like a word that k entries have."""
    with VideoIndex.open(built[0]) as index:
        by_meaning = {hit.id: hit.semantic_rank for hit in index.search("casino", mode="semantic")}
        by_words = {hit.id: hit.keyword_rank for hit in index.search("casino", mode="keyword")}
        assert len(by_words) in range(1, 8)
        alone = {hit.id: hit for hit in index.search("casino", words_weight=1.0)}
        for weight in (1.0, 0.0, 2.5):
            hits = index.search("casino", words_weight=weight)
            for hit in hits:
                assert (hit.semantic_rank, hit.keyword_rank) == (
                    by_meaning[hit.id], by_words.get(hit.id),
                )  # fmt: skip
                seen, *words = hit.evidence
                assert seen == pytest.approx(math.log(1 + len(index) / hit.semantic_rank))
                assert sum(words) == pytest.approx(weight * sum(alone[hit.id].evidence[1:]))
                assert hit.score == pytest.approx(seen + sum(words))
                assert (sum(words) > 0) == (weight > 0 and hit.id in by_words)
            assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
        assert {hit.id for hit in index.search("casino", k=len(by_words), words_weight=50.0)} == (
            by_words.keys()
        )


def test_equal_scores_share_a_rank():
    ids, scores = np.array([7, 3, 9, 1]), np.array([5.0, 2.0, 2.0, 1.0])
    ranked = add_ranks(ids, scores)
    assert ranked.ranks.tolist() == [1, 2, 2, 4]
    assert ranked.find_ranks(np.array([9, 1, 2, 7])).tolist() == [2, 4, 0, 1]
    nothing = add_ranks(ids[:0], scores[:0])
    assert nothing.ranks.tolist() == [] and nothing.find_ranks(ids).tolist() == [0] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "the query is empty"),
        ({"query": " \n\t"}, "the query is empty"),
        ({"query": "x" * (MAX_QUERY + 1)}, "1,001 characters; give at most 1,000"),
        ({"k": 0}, "k is 0"),
        ({"mode": "smell"}, 'mode is "smell"; give one of: hybrid, semantic, keyword'),
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
            hits = index.search("w", mode="keyword", folder=folder)
            inside = {name for name in names if name.startswith(f"{folder}/")}
            assert {hit.video for hit in hits} == inside
            with index.reading() as (reader, snapshot):
                found = find_nearest(snapshot, rows[0], 9, snapshot.find_rows(reader, folder))
            assert {names[number - 1] for number in found[0]} == inside
        assert len(index.search("w", mode="keyword", folder="a/b/")) == 1


@pytest.mark.parametrize(("here", "asked"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_folders_and_videos_are_found_in_both_normal_forms(tmp_path, here, asked):
    create(tmp_path / "i")
    names = [f"{here}/a/{here}.mp4", "e/1.mp4"]
    rows = made_embeddings(2)
    add(tmp_path / "i", *(made_video(n, ["w"], rows[i : i + 1]) for i, n in enumerate(names)))
    with VideoIndex.open(tmp_path / "i") as index:
        for folder in (asked, f"/{asked}/a/", here):
            hits = index.search("w", mode="keyword", folder=folder)
            assert [hit.video for hit in hits] == names[:1]
            found = index.search_videos("w", mode="keyword", folder=folder)
            assert [hit.video.video for hit in found.videos] == names[:1]
        assert index.find_video(f"{asked}/a/{asked}.mp4").video == names[0]
        for wrong in (f"{asked}/b", asked[0] + "x"):
            with pytest.raises(UserError, match="no video in such a folder"):
                index.search("w", mode="keyword", folder=wrong)


def test_of_folders_whose_names_only_look_alike_the_one_that_is_asked_for(tmp_path):
    create(tmp_path / "i")
    names = ["\u00e9/1.mp4", "e\u0301/1.mp4"]
    rows = made_embeddings(2)
    add(tmp_path / "i", *(made_video(n, ["w"], rows[i : i + 1]) for i, n in enumerate(names)))
    with VideoIndex.open(tmp_path / "i") as index:
        for name in names:
            [hit] = index.search("w", mode="keyword", folder=name[:-6])
            assert hit.video == name == index.find_video(name).video


def test_files_of_entries(copy, built, tmp_path):
    with VideoIndex.open(copy) as index:
        hit = index.search("casino")[0]
        entry = index.entry(hit.id)
        assert (entry.video, entry.start_s, entry.end_s) == (hit.video, hit.start_s, hit.end_s)
        assert entry.end_s == entry.duration_s and entry.width == 96
        assert index.video_file(hit.id) == (built[1].videos / hit.video).resolve()
        assert index.read_thumbnail(hit.id)[:2] == b"\xff\xd8"
        for unknown in (0, -1, 99, 2**63, 10**30):
            for method in (index.entry, index.video_file, index.read_thumbnail, index.tracks):
                with pytest.raises(UnknownEntryError, match=f"{unknown}: the index has no such"):
                    method(unknown)
        thumbnail_file(copy, hit.id).unlink()
        with pytest.raises(MissingFileError, match="thumbnail is missing"):
            index.read_thumbnail(hit.id)


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


def test_folders_that_links_lead_to_belong_to_the_index(library, tmp_path, test_names):
    out, outside, name = tmp_path / "i", tmp_path / "outside", sorted(test_names)[0]
    outside.mkdir()
    (library.videos / name).rename(outside / "moved.mp4")
    (library.videos / "linked").symlink_to(outside)
    library.index(out)
    with VideoIndex.open(out) as index:
        assert index.link_targets == [outside]
        (hit,) = index.search("x", folder="linked")
        assert index.video_file(hit.id) == outside / "moved.mp4"
        with lock_index(out), IndexWriter(out) as writer:  # as a former release has written it
            writer.set_meta(link_targets=None)
        assert index.link_targets == []
        with pytest.raises(MissingFileError, match="leads out of the indexed folder"):
            index.video_file(hit.id)
        assert library.index(out).plan.num_same == 8
        assert index.link_targets == [outside]
        (library.videos / "linked").unlink()
        library.index(out)
        assert index.link_targets == [] and len(index) == 7


def test_modes_have_the_names_of_former_releases_too(built):
    with VideoIndex.open(built[0]) as index:
        pairs = zip(MODES, ("fused", "meaning", "words"), strict=True)
        for mode, former in pairs:
            assert index.search("casino", mode=former) == index.search("casino", mode=mode)


def test_searches_of_several_threads_read_the_database_at_once(tmp_path, monkeypatch):
    words = ("casino", "hotel", "museum")
    folder = index_of_lines(tmp_path / "i", [[word] for word in words])
    inside, real = threading.Barrier(len(words), timeout=60), FolderReader.read_postings

    def wait_for_the_others(*arguments):
        inside.wait()  # until every search is here
        return real(*arguments)

    monkeypatch.setattr(FolderReader, "read_postings", wait_for_the_others)
    with VideoIndex.open(folder) as index, ThreadPoolExecutor(len(words)) as pool:
        found = list(pool.map(lambda word: index.search(word, mode="keyword"), words))
    assert [[hit.id for hit in hits] for hits in found] == [[1], [2], [3]]


def test_an_index_is_closed_from_another_thread(tmp_path):
    index = VideoIndex.open(index_of_lines(tmp_path / "i", [["casino"]]))
    for _ in range(3):
        assert len(index.search("casino", mode="keyword")) == 1
    thread = threading.Thread(target=index.close)
    thread.start()
    thread.join()
    assert len(index.search("casino", mode="keyword")) == 1  # opened anew
    index.close()
