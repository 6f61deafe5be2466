"""Near-duplicates: what is one hit, and what is hidden by none."""

import json

import numpy as np
import pytest

import search as search_script
from retrieval import VideoIndex
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.printing import format_hits
from retrieval.search.grouping import MAX_NAMED, NEAR_DUPLICATE, SCANNED
from tests.retrieval.made_index import add, create, made_embeddings, made_video

WIDTH = 64  # random rows are far from each other


def turn(row: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    """A row at this cosine from another."""
    other = np.random.default_rng(seed).standard_normal(len(row)).astype(np.float32)
    other = normalize_rows((other - (other @ row) * row)[None])[0]
    return cosine * row + np.sqrt(1 - cosine**2, dtype=np.float32) * other


@pytest.fixture
def make(tmp_path):
    """Return a function: (name, lines, embeddings of its windows) of each video -> an index."""

    def make_index(*videos):
        create(tmp_path / "i", WIDTH)
        add(tmp_path / "i", *(made_video(name, lines, rows) for name, lines, rows in videos))
        return VideoIndex.open(tmp_path / "i")

    return make_index


def groups(hits) -> list[tuple[int, ...]]:
    return [(hit.id, *(entry.id for entry in hit.also)) for hit in hits]


def test_windows_that_share_a_time_are_one_hit(make):
    """Windows of 10 s every 5 s: the best one stands for its neighbours, and not for theirs."""
    rows = made_embeddings(7, width=WIDTH)
    query = normalize_rows((rows[6] + np.array([2, 4, 3, 1, 0, 0]) @ rows[:6] / 5)[None])
    videos = ("a.mp4", [], rows[:5]), ("b.mp4", [], rows[5:6]), ("like.mp4", [], query)
    with make(*videos) as index:
        alone = index.search(like=7, mode="semantic")
        assert [hit.id for hit in alone][:4] == [2, 3, 1, 4]
        assert not any(hit.also or hit.num_also for hit in alone)
        hits = index.search(like=7, mode="semantic", group=True)
        found = groups(hits)
        assert found[:2] == [(2, 3, 1), (4, 5)] and set(found[2:]) == {(6,)}
        assert [hit.num_also for hit in hits[:2]] == [2, 1]
        (third, _) = hits[0].also
        assert third == (3, "a.mp4", 10.0, 20.0)
        assert [hit.semantic_rank for hit in hits][:2] == [1, 4]  # of the whole list
        assert groups(index.search(like=7, mode="semantic", group=True, k=1)) == [(2, 3, 1)]


@pytest.mark.parametrize(("cosine", "is_same"), [(0.995, True), (0.985, False)])
def test_near_identical_windows_of_other_videos_are_one_hit(make, cosine, is_same):
    rows = made_embeddings(3, width=WIDTH)
    copy = turn(rows[0], cosine, 1)
    assert (cosine >= NEAR_DUPLICATE) == is_same
    videos = [(f"{i}.mp4", [], row[None]) for i, row in enumerate([rows[0], copy, *rows[1:]])]
    with make(*videos, ("like.mp4", [], rows[0][None])) as index:
        found = groups(index.search(like=5, mode="semantic", group=True))
        assert found[:1] == [(1, 2)] if is_same else found[:2] == [(1,), (2,)]
        assert len(found) == (3 if is_same else 4)
        assert len(index.search(like=5, mode="semantic")) == 4
        strict = index.search(like=5, mode="semantic", group=True, near_duplicate=0.999)
        assert groups(strict)[:2] == [(1,), (2,)]
        loose = index.search(like=5, mode="semantic", group=True, near_duplicate=0.98)
        assert groups(loose)[:1] == [(1, 2)]


def test_k_counts_groups(make):
    """The first k hits are k different things, however many duplicates stand before them."""
    rows = made_embeddings(5, width=WIDTH)
    copies = np.stack([turn(rows[0], 0.999, seed) for seed in range(3 * SCANNED)])
    videos = [(f"copy{i}.mp4", [], row[None]) for i, row in enumerate(copies)]
    videos += [(f"other{i}.mp4", [], row[None]) for i, row in enumerate(rows[1:])]
    with make(*videos, ("like.mp4", [], rows[0][None])) as index:
        last = len(videos) + 1
        for k in (1, 2, 3, 5, 9):
            hits = index.search(like=last, k=k, mode="semantic", group=True)
            assert len(hits) == min(k, 5)
            if k > 1:
                assert hits[0].num_also == len(copies) - 1
                assert not any(hit.num_also for hit in hits[1:])


def test_only_so_many_are_named(make):
    row = made_embeddings(1, width=WIDTH)
    copies = [(f"{i:03}.mp4", ["casino"], row) for i in range(MAX_NAMED + 30)]
    with make(*copies) as index:
        (hit,) = index.search("casino", mode="keyword", group=True, k=40)
        assert hit.num_also == MAX_NAMED + 29 and len(hit.also) == MAX_NAMED


def test_no_line_of_text_is_hidden(make):
    """Keyword search groups only what matches the same lines, or fewer."""
    rows = made_embeddings(2, width=WIDTH)
    same = np.repeat(rows[:1], 5, axis=0)
    videos = [
        ("two.mp4", ["CASINO ROYALE", "the casino"], same[:1]),
        ("royale.mp4", ["Casino Royale!", "something else"], same[1:2]),  # a line of the first
        ("hotel.mp4", ["casino hotel"], same[2:3]),  # the same word in another line
        ("windows.mp4", ["casino royale"], same[3:5]),
        ("far.mp4", ["casino royale"], rows[1:]),  # looks otherwise
    ]
    with make(*videos) as index:
        assert len(index.search("casino", mode="keyword", k=20)) == 6
        hits = index.search("casino", mode="keyword", k=20, group=True)
        assert {frozenset(group) for group in groups(hits)} == {
            frozenset({1, 2, 4, 5}), frozenset({3}), frozenset({6}),
        }  # fmt: skip
        assert groups(hits)[0][0] == 1
        shown = {" ".join(match.text.lower().split()) for hit in hits for match in hit.words}
        assert shown == {"casino royale", "the casino", "casino hotel"}
        quoted = index.search('"casino royale"', mode="keyword", k=20, group=True)
        assert {frozenset(g) for g in groups(quoted)} == {frozenset({1, 2, 4, 5}), frozenset({6})}
        # By meaning alone nothing is read, and so nothing hidden.
        (far, *others) = index.search(like=6, mode="semantic", group=True)
        assert len(groups([far])[0]) == 5 and others == []


def test_hybrid_hits_of_other_words_stay_apart(built):
    with VideoIndex.open(built[0]) as index:
        alone = index.search("casino", k=20)
        hits = index.search("casino", k=20, group=True, near_duplicate=0.9)
        assert sum(1 + hit.num_also for hit in hits) == len(alone) == 8 > len(hits)
        assert [hit.id for hit in alone if hit.id in {h.id for h in hits}] == [h.id for h in hits]
        words = {hit.id: {match.text for match in hit.words} for hit in alone}
        for hit in hits:
            for entry in hit.also:
                assert words[entry.id] <= words[hit.id]


def test_the_command_groups_unless_it_is_told_not_to(make, run_main, tmp_path):
    row = made_embeddings(1, width=WIDTH)
    with make(("a.mp4", ["casino"], row), ("b\n.mp4", ["Casino"], row)) as index:
        (hit,) = index.search("casino", mode="keyword", group=True)
    text = format_hits([hit], explain=True).splitlines()
    assert (
        text[1].endswith("a.mp4  (+1 alike)") and text[-1].strip() == "also 0:00-0:10 of 'b\\n.mp4'"
    )
    command = [tmp_path / "i", "casino", "--mode", "keyword", "--json"]
    (found,) = json.loads(run_main(search_script, *command)[1])
    assert found["num_also"] == 1
    assert found["also"] == [{"id": 2, "video": "b\n.mp4", "start_s": 0.0, "end_s": 10.0}]
    assert len(json.loads(run_main(search_script, *command, "--all")[1])) == 2


def test_rows_are_found_after_videos_are_dropped(make):
    rows = made_embeddings(4, width=WIDTH)
    copies = [(f"{i}.mp4", ["w"], rows[i // 2 : i // 2 + 1]) for i in range(8)]
    with make(*copies) as index:
        add(index.store.folder, drop=[2, 3])
        found = {frozenset(g) for g in groups(index.search("w", mode="keyword", group=True))}
        assert found == {frozenset(g) for g in ((1,), (4,), (5, 6), (7, 8))}
        with lock_index(index.store.folder), IndexWriter(index.store.folder) as writer:
            assert writer.compact(0.0)
        again = {frozenset(g) for g in groups(index.search("w", mode="keyword", group=True))}
        assert again == found
