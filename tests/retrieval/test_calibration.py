"""Whether something was found: z-scores in spaces whose matches are known, and what hits say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import search as search_script
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.arrays import EMBEDDINGS, WITHOUT
from retrieval.index.layout import QUERY_ENCODER
from retrieval.index.records import ContentStamp, NewEntry, NewVideo
from retrieval.index.unrelated import UNRELATED_TEXTS
from retrieval.index.vectors import EntryVectors, FrameVectors
from retrieval.search.calibration import MIN_ENTRIES, MIN_Z_SCORE, Calibration
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from tests.retrieval.made_index import add, create, made_video, remove_checksums

NUM_UNRELATED = len(UNRELATED_TEXTS)
NUM_QUERIES = 200


class Space:
    """Entries and texts around two directions, as those of two modalities are.

    Args:
        shared: share of an entry, and of a text on average, that all have in common.
        spread: of that share among texts, so that some are nearer to everything than others.
        clusters: number of groups of entries that resemble each other; 0: none do.
    """

    def __init__(
        self, shared: float = 0.0, spread: float = 0.0, clusters: int = 0, width: int = 64
    ) -> None:
        self.rng = np.random.default_rng(5)
        self.shared, self.spread, self.clusters, self.width = shared, spread, clusters, width
        self.entry_axis, other = self.draw(2)
        self.text_axis = _normalize(self.entry_axis + other)

    def draw(self, count: int) -> np.ndarray:
        return _normalize(self.rng.standard_normal((count, self.width)))

    def make_entries(self, count: int) -> np.ndarray:
        contents = self.draw(count)
        if self.clusters:
            centres = self.draw(self.clusters)[self.rng.integers(self.clusters, size=count)]
            contents = _normalize(centres + 0.5 * contents)
        return _mix(self.entry_axis, contents, np.full((count, 1), self.shared))

    def make_texts(
        self, count: int, about: np.ndarray | None = None, more: float = 0.0
    ) -> np.ndarray:
        """Texts that have nothing to do with any entry, or are ``about`` entries, one each.

        Args:
            more: how much more than others they share with everything.
        """
        contents = self.draw(count)
        if about is not None:
            own = about - about @ self.entry_axis[:, None] * self.entry_axis
            contents = _normalize(contents + 2 * _normalize(own))
        shares = self.shared + more + self.spread * self.rng.standard_normal((count, 1))
        return _mix(self.text_axis, contents, shares)


def _normalize(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _mix(axis: np.ndarray, contents: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return _normalize(shares * axis + np.sqrt(1 - shares**2) * contents).astype(np.float32)


SPACES = {
    "all directions alike": {},
    "all cosines high": {"shared": 0.6, "spread": 0.08},
    "clusters": {"shared": 0.6, "spread": 0.08, "clusters": 15},
}


def calibrate(space: Space, entries: np.ndarray) -> Calibration:
    texts = space.make_texts(NUM_UNRELATED)
    return Calibration(EntryVectors(entries), np.arange(len(entries)), texts)


def score(calibration: Calibration, entries: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The z-score of what is most similar to each query."""
    bests = (queries @ entries.T).max(axis=1)
    expected = [calibration.expect_best(query) for query in queries]
    return np.array([e.compute_z_scores(b) for e, b in zip(expected, bests, strict=True)])


@pytest.mark.parametrize("count", [MIN_ENTRIES, 100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("name", SPACES)
def test_matches_are_told_from_the_best_of_any_number(name, count):
    space = Space(**SPACES[name])
    entries = space.make_entries(count)
    calibration = calibrate(space, entries)
    unrelated = score(calibration, entries, space.make_texts(NUM_QUERIES))
    assert np.mean(unrelated >= MIN_Z_SCORE) < 0.15
    assert -1.5 < np.median(unrelated) < 0.8  # beyond what was compared, rather too low
    about = entries[space.rng.integers(count, size=NUM_QUERIES)]
    matches = score(calibration, entries, space.make_texts(NUM_QUERIES, about))
    assert np.mean(matches >= MIN_Z_SCORE) > 0.98


def test_a_texts_own_level_is_taken_off_where_it_tells_something():
    """A text that is nearer to everything is not nearer to anything."""
    space = Space(shared=0.6, spread=0.08)
    entries = space.make_entries(2000)
    calibration = calibrate(space, entries)
    far, near = (space.make_texts(NUM_QUERIES, more=more) for more in (-0.08, 0.08))
    cosines = [(texts @ entries.T).max(axis=1).mean() for texts in (far, near)]
    assert cosines[1] > cosines[0] + 0.03
    for texts in (far, near):
        z_scores = score(calibration, entries, texts)
        assert np.mean(z_scores >= MIN_Z_SCORE) < 0.15 and abs(np.median(z_scores)) < 0.8


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("name", ["all directions alike", "all cosines high"])
def test_matches_do_not_hide_each_other(name, share):
    """Also where most of the entries match a query."""
    space = Space(**SPACES[name])
    subject, queries = space.draw(1), []
    contents = space.draw(2000)
    contents[: round(share * 2000)] = _normalize(contents[: round(share * 2000)] + 3 * subject)
    entries = _mix(space.entry_axis, contents, np.full((2000, 1), space.shared))
    calibration = calibrate(space, entries)
    queries = space.make_texts(50, np.repeat(subject, 50, axis=0))
    assert score(calibration, entries, queries).min() > MIN_Z_SCORE
    assert np.mean(score(calibration, entries, space.make_texts(NUM_QUERIES)) > MIN_Z_SCORE) < 0.15


def test_some_unrelated_texts_may_be_related():
    space = Space(shared=0.6, spread=0.08)
    entries = space.make_entries(1000)
    texts = space.make_texts(NUM_UNRELATED)
    texts[:10] = space.make_texts(10, entries[:10])
    calibration = Calibration(EntryVectors(entries), np.arange(1000), texts)
    assert np.mean(score(calibration, entries, space.make_texts(NUM_QUERIES)) > MIN_Z_SCORE) < 0.1
    matches = score(calibration, entries, space.make_texts(NUM_QUERIES, entries[:NUM_QUERIES]))
    assert np.mean(matches > MIN_Z_SCORE) > 0.98


@pytest.mark.parametrize("count", [MIN_ENTRIES, 3000])
def test_frame_vectors_are_compared_as_hits_are(count):
    """An entry's score is the mean of its window's and its best frame's cosine."""
    space = Space(shared=0.6, spread=0.08)
    windows = space.make_entries(count)
    frames = _normalize(np.repeat(windows, 4, axis=0) + 0.5 * space.draw(4 * count))
    counts = np.full(count, 4)
    vectors = EntryVectors(
        windows, FrameVectors(frames.astype(np.float16), np.zeros(4 * count), counts)
    )
    taken = vectors.take(np.array([5, 2]))
    queries = space.make_texts(NUM_QUERIES)
    assert np.allclose(taken.score_all(queries[0]), vectors.score_all(queries[0])[[5, 2]])
    calibration = Calibration(vectors, np.arange(count), space.make_texts(NUM_UNRELATED))

    def score_vectors(texts: np.ndarray) -> np.ndarray:
        bests = [vectors.score_all(text).max() for text in texts]
        expected = [calibration.expect_best(text) for text in texts]
        return np.array([e.compute_z_scores(b) for e, b in zip(expected, bests, strict=True)])

    unrelated = score_vectors(queries)
    assert np.mean(unrelated >= MIN_Z_SCORE) < 0.15 and -1.5 < np.median(unrelated) < 0.8
    about = space.rng.integers(count, size=50)
    assert score_vectors(space.make_texts(50, frames[4 * about + 3])).min() > MIN_Z_SCORE


@pytest.mark.parametrize("count", [MIN_ENTRIES, 1000])
def test_entries_that_are_all_the_same(count):
    """Black videos, or one video many times: numbers, and a match is still one."""
    space = Space()
    entries = np.repeat(space.make_entries(1), count, axis=0)
    calibration = calibrate(space, entries)
    assert np.isfinite(score(calibration, entries, space.make_texts(NUM_QUERIES))).all()
    assert score(calibration, entries, space.make_texts(9, entries[:9])).min() > MIN_Z_SCORE


# An index whose embeddings are made up


WIDTH = 64


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(shared=0.6, spread=0.08, width=WIDTH)


@pytest.fixture(scope="module")
def texts(space) -> np.ndarray:
    return space.make_texts(NUM_UNRELATED)


def make_index(folder: Path, rows: np.ndarray) -> Path:
    """Of one-entry videos in two folders; every tenth shows the word "casino"."""
    create(folder, WIDTH)
    add(folder, *(
        made_video(f"{'ab'[i % 2]}/{i}.mp4", ["casino"] if i % 10 == 0 else [], rows[i : i + 1])
        for i in range(len(rows))
    ))  # fmt: skip
    return folder


def search(index: VideoIndex, query, texts, text="casino", mode="semantic", k=10, **options):
    values = {"folder": None, "explain": False, "exact": False, "words_weight": 1.0} | options
    request = SearchRequest(text, k, mode, **values)
    with index.reading() as (reader, snapshot):
        embedding = None if mode == "keyword" else query
        return run_search(reader, snapshot, request, EmbeddedQuery(embedding, texts))


@pytest.fixture(scope="module")
def rows(space) -> np.ndarray:
    return space.make_entries(100)


@pytest.fixture(scope="module")
def index(rows, tmp_path_factory):
    with VideoIndex.open(make_index(tmp_path_factory.mktemp("made") / "i", rows)) as opened:
        yield opened


@pytest.mark.parametrize("count", [1, 2, 10, MIN_ENTRIES - 1, MIN_ENTRIES])
def test_too_few_entries_are_not_judged(count, space, texts, tmp_path):
    rows = space.make_entries(count)
    with VideoIndex.open(make_index(tmp_path / "i", rows)) as small:
        for mode in ("semantic", "hybrid"):
            hits = search(small, space.make_texts(1)[0], texts, mode=mode, k=count)
            assert len(hits) == count
            judged = {(hit.z_score is not None, hit.likely is not None) for hit in hits}
            assert judged == {(count >= MIN_ENTRIES,) * 2}


def test_hits_say_whether_they_are_likely(index, rows, space, texts):
    (about,) = space.make_texts(1, rows[7:8])
    hits = search(index, about, texts)
    assert hits[0].video == "b/7.mp4" and hits[0].likely and hits[0].z_score > 5
    assert len(hits) == 10  # all that were asked for, although the others are not like it
    assert [hit.likely for hit in hits[1:]] == [False] * 9
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.likely == (hit.z_score >= MIN_Z_SCORE) for hit in hits)
    nothing = search(index, space.make_texts(1)[0], texts)
    assert len(nothing) == 10 and not any(hit.likely for hit in nothing)


def test_hits_of_frame_vectors_are_judged_by_their_scores(rows, space, texts, tmp_path):
    create(tmp_path / "i", WIDTH, "frames")
    add(tmp_path / "i", *(made_video(f"{i}.mp4", [], rows[i : i + 1]) for i in range(100)))
    with VideoIndex.open(tmp_path / "i") as index:
        for query in space.make_texts(5, rows[:5]):
            hits = search(index, query, texts, k=100)
            assert hits[0].likely and not hits[-1].likely
            assert all(hit.likely == (hit.z_score >= MIN_Z_SCORE) for hit in hits)
            steps = np.diff([hit.score for hit in hits]) / np.diff([hit.z_score for hit in hits])
            assert steps == pytest.approx(steps[0], rel=0.1)


def test_a_word_that_was_read_is_found_and_stands_first(index, space, texts):
    (query,) = space.make_texts(1)
    hits = search(index, query, texts, mode="hybrid", k=100)
    assert len(hits) == 100
    assert [hit.likely for hit in hits] == [True] * 10 + [False] * 90
    assert all(hit.words and hit.keyword_rank for hit in hits[:10])
    for part in (hits[:10], hits[10:]):
        assert [hit.score for hit in part] == sorted((h.score for h in part), reverse=True)
    # A list that has no weight finds nothing.
    hits = search(index, query, texts, mode="hybrid", k=100, words_weight=0.0)
    assert not any(hit.likely for hit in hits)
    assert [hit.semantic_rank for hit in hits] == list(range(1, 101))


def test_by_words_alone_nothing_is_judged(index, texts):
    hits = search(index, None, texts, mode="keyword")
    assert len(hits) == 10 and {(hit.z_score, hit.likely) for hit in hits} == {(None, None)}


def test_a_z_score_depends_on_nothing_but_query_and_index(index, rows, space, texts):
    for query in space.make_texts(3, rows[:3]):
        wanted = {hit.id: (hit.z_score, hit.likely) for hit in search(index, query, texts, k=100)}
        with VideoIndex.open(index.store.folder) as again:
            for options in ({}, {"folder": "a"}, {"folder": "b", "k": 3}, {"mode": "hybrid"}):
                hits = search(again, query, texts, text="nowhere", **options)
                assert hits and all(wanted[hit.id] == (hit.z_score, hit.likely) for hit in hits)


def test_videos_that_are_gone_count_for_nothing(rows, space, texts, tmp_path):
    folder, alone = tmp_path / "i", tmp_path / "alone"
    (query,) = space.make_texts(1)
    create(folder, WIDTH)
    add(folder, made_video("gone.mp4", [], np.repeat(query[None], 30, axis=0)))
    add(folder, *(made_video(f"{i}.mp4", [], rows[i : i + 1]) for i in range(50)), drop=[1])
    make_index(alone, rows[:50])
    with VideoIndex.open(folder) as index, VideoIndex.open(alone) as other:
        found, wanted = (search(one, query, texts, k=50) for one in (index, other))
    assert [hit.z_score for hit in found] == pytest.approx([hit.z_score for hit in wanted])


# The texts in an index


def test_embeddings_of_the_texts_are_kept_in_the_index(copy):
    remove_checksums(copy)  # they would tell that the file is another one
    with VideoIndex.open(copy) as index:
        encoder = index.load_query_encoder()
        (file,) = (copy / QUERY_ENCODER).glob("unrelated-*.npy")
        kept = np.load(file)
        assert kept.shape == (NUM_UNRELATED, 32) and len(set(UNRELATED_TEXTS)) == NUM_UNRELATED
        assert np.allclose(kept[3], encoder.embed(UNRELATED_TEXTS[3]), atol=1e-5)
        np.save(file, kept[::-1])  # to see that it is read
        assert np.array_equal(encoder.load_unrelated(), kept[::-1])
    file.unlink()  # an index of an earlier release
    with VideoIndex.open(copy) as index:
        assert np.allclose(index.load_query_encoder().load_unrelated(), kept, atol=1e-5)
        assert not file.exists()
    file.write_bytes(b"no array")
    with VideoIndex.open(copy) as index:
        assert len(index.search("casino", mode="keyword")) > 0
        with pytest.raises(IndexFolderError, match="unrelated-.*.npy: can't be read .* delete"):
            index.search("casino")


def add_entries(folder: Path, rows: np.ndarray) -> None:
    """Add a video of made-up entries to an index of a model that fuses."""
    names = (EMBEDDINGS, *WITHOUT.values())
    entries = [
        NewEntry(10.0 * i, 10.0 * i + 10, b"jpeg", dict.fromkeys(names, row))
        for i, row in enumerate(rows)
    ]
    add(folder, NewVideo("made.mp4", ContentStamp(1, 2, "3"), None, 10.0, 64, 48, entries, []))


def test_the_command_says_that_nothing_was_found(copy, monkeypatch, capsys):
    """The model is untrained, so entries and unrelated texts are made up."""
    space = Space(width=32)
    with VideoIndex.open(copy) as index:
        (kept,) = (copy / QUERY_ENCODER).glob("unrelated-*.npy")
        query = index.load_query_encoder().embed("a red circle")
    remove_checksums(copy)  # they would tell that the file is another one
    np.save(kept, space.make_texts(NUM_UNRELATED))
    add_entries(copy, np.stack([query, *space.make_entries(50)]))

    def run(query: str, *options: object) -> str:
        monkeypatch.setattr(
            sys, "argv", ["search.py", str(copy), query, "--all", *map(str, options)]
        )
        search_script.main()
        return capsys.readouterr().out

    semantic = "--mode", "semantic", "-k", 60
    hits = json.loads(run("a red circle", *semantic, "--json"))
    assert len(hits) == 59 and all(hit["likely"] == (hit["z_score"] >= 2) for hit in hits)
    found = sum(hit["likely"] for hit in hits)
    assert 0 < found < 10 and hits[0]["likely"] and hits[0]["similarity"] > 0.99
    lines = run("a red circle", *semantic, "--explain").splitlines()
    assert lines[1 + 3 * found] == "others look alike:" and "nothing" not in lines[0]
    assert lines[3].startswith(f"      similarity {hits[0]['similarity']:.3f} (z-score ")
    lines = run("a red circle", *semantic, "--only_likely").splitlines()
    assert len(lines) == 1 + found and lines[1].endswith("made.mp4")

    remove_checksums(copy)
    np.save(kept, np.repeat(query[None], NUM_UNRELATED, axis=0))  # now all texts are as near
    lines = run("a red circle", *semantic).splitlines()
    assert lines[0] == "nothing found that looks like it; the nearest are:"
    assert len(lines) == 61 and lines[1].split() == ["time", "score", "words", "video"]
    assert run("a red circle", *semantic, "--only_likely") == "nothing found\n"
    # A word that was read is found all the same; nothing is said where all was found.
    hits = json.loads(run("casino", "-k", 60, "--json"))
    found = sum(hit["likely"] for hit in hits)
    assert 0 < found == sum(bool(hit["words"]) for hit in hits) < 9
    assert run("casino", "-k", found).splitlines()[0].split()[0] == "time"
