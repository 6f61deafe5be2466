"""What every store of an index has to do, by ``retrieval.index.store``: one suite for all of them.

A store is added by a line of ``STORES``.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count, product

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError, MissingFileError, UnknownEntryError
from retrieval.index.arrays import EMBEDDINGS, WITHOUT
from retrieval.index.location import open_store
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import ContentStamp, KnownEntry, NewEntry, NewTrack, NewVideo
from retrieval.index.roots import Roots
from retrieval.index.store import IndexStore, StoreReader
from retrieval.index.update import preview_update
from retrieval.index.words import list_index_words, list_pieces, reduce_word
from retrieval.results import MatchKind
from retrieval.search.semantic import find_nearest
from retrieval.search.videos import VideoFilter
from tests.object_storage import serve_s3
from tests.retrieval.made_index import BOX, MODEL, WIDTH, made_embeddings, made_frames, made_video


def name_folder(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("tmp_path") / "my.index")


def name_lance_folder(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("lancedb")
    return str(request.getfixturevalue("tmp_path") / "my.lance")


def name_lance_bucket(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("lancedb")
    number = next(request.getfixturevalue("bucket_numbers"))
    return f"s3://indexes/{number}.lance"


# Name -> makes the location of an index that is not there yet.
STORES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "folder": name_folder,
    "lance": name_lance_folder,
    "lance-s3": name_lance_bucket,
}
META = {"folder": b"/nowhere".hex(), "model": MODEL, "query_encoder": "", "windows": [10, 5]}
# Lines of a video are seen in all of its entries.
LINES = {
    "a/one.mp4": ["Casino Royale", "RE-16", "hotel"],
    "a/b/two.mp4": ["the casinos", "Müller & Söhne", "3.5"],
    "b/three.mp4": ["C A S I N O", "東京都庁前", "hotel lobby"],
    "b/été.mp4": ["新宿三丁目", "café", "casino hotel", "555 0123"],
    "six.mp4": ["exit", "ca sino", "museum of art", "photographies"],
}


@pytest.fixture(scope="module")
def bucket_numbers() -> Iterator[Iterator[int]]:
    """Numbers of the indexes in a bucket of an S3 server."""
    with serve_s3("indexes"):
        yield count()


@pytest.fixture(params=STORES)
def location(request) -> str:
    return STORES[request.param](request)


@pytest.fixture
def store(location) -> Iterator[IndexStore]:
    with closing(open_store(location)) as opened:
        yield opened


def create(store: IndexStore, width: int | None = WIDTH, leaves_out: Sequence[str] = (), **more):
    with store.locking():
        store.create(width, leaves_out, META | more)


def add(store: IndexStore, *videos: NewVideo, drop: Sequence[int] = ()) -> None:
    with store.locking(), store.open_writer() as writer:
        writer.write(videos, drop)


def make_videos(seed: int = 0) -> list[NewVideo]:
    """One video for each of ``LINES``, of 1 … 5 entries."""
    rows = made_embeddings(15, seed)
    stops = np.cumsum(np.arange(1, 6))
    parts = [rows[stop - count : stop] for count, stop in zip(range(1, 6), stops, strict=True)]
    return [made_video(name, LINES[name], part) for name, part in zip(LINES, parts, strict=True)]


def list_all_words() -> list[str]:
    """All texts of words that ``LINES`` and the names of the videos have, each once."""
    names = ["a one", "a b two", "b three", "b été", "six"]
    lines = [line for lines in LINES.values() for line in lines] + names
    return sorted({word for line in lines for word in list_index_words(line)})


def find_exactly(store: IndexStore, query: np.ndarray, count: int) -> tuple[list, list]:
    with VideoIndex(store) as index, index.reading() as (_, snapshot):
        ids, scores, _ = find_nearest(snapshot, query, count, exact=True)
        return ids.tolist(), scores.tolist()


def read_states(reader: StoreReader) -> tuple:
    """What a commit has of its videos, entries and words."""
    videos = {video.video: video.id for video in reader.read_videos().values()}
    entries = [entry for video in videos.values() for entry in reader.list_entries(video)]
    return videos, entries, sorted(text for _, text, _ in reader.read_words())


def test_where_no_index_is_none_is_read(store, location):
    assert store.read_meta() is None and store.location == location
    with pytest.raises(IndexFolderError), store.reading():
        pass


def test_an_empty_index_is_one(store):
    create(store)
    meta = store.read_meta()
    assert (meta["width"], meta["num_rows"], meta["leaves_out"]) == (WIDTH, 0, [])
    assert meta["windows"] == [10, 5] and meta["model"] == MODEL
    with store.reading() as reader:
        assert reader.meta == meta and reader.has_reduced
        assert read_states(reader) == ({}, [], [])
        assert len(reader.read_ids()) == len(reader.read_dead_rows()) == 0
        vectors = reader.open_vectors()
        assert (vectors.num_rows, vectors.width, vectors.num_frames) == (0, WIDTH, None)
        assert vectors.score_together([made_embeddings(1)[0]])[0].shape == (0,)
    store.check_completely()
    assert not store.verify()


def test_videos_are_added_replaced_and_dropped_in_one_commit(store):
    create(store)
    videos = make_videos()
    add(store, *videos[:3])
    with store.reading() as reader:
        before, entries, _ = read_states(reader)
        commits = reader.meta["commits"]
    assert list(before) == ["a/one.mp4", "a/b/two.mp4", "b/three.mp4"]
    assert [entry for entry, *_ in entries] == sorted(entry for entry, *_ in entries)
    other = made_video("a/one.mp4", ["something new"], made_embeddings(2, 7))
    add(store, other, videos[3], drop=[before["b/three.mp4"]])
    with store.reading() as reader:
        after, entries, words = read_states(reader)
        assert reader.meta["commits"] > commits
        assert set(after) == {"a/one.mp4", "a/b/two.mp4", "b/été.mp4"}
        assert after["a/b/two.mp4"] == before["a/b/two.mp4"]
        assert min(after["a/one.mp4"], after["b/été.mp4"]) > max(before.values())
        assert len(entries) == 2 + 2 + 4 and "something" in words
        assert [line.text for line in reader.read_video_tracks(after["a/one.mp4"])] == [
            "a one", "something new",
        ]  # fmt: skip
        alive = np.setdiff1d(np.arange(len(reader.read_ids())), reader.read_dead_rows())
        assert sorted(reader.read_ids()[alive]) == sorted(entry for entry, *_ in entries)
    store.check_completely()


def test_rows_are_those_of_the_entries(store):
    create(store, num_frames=0)
    videos = make_videos()
    add(store, *videos)
    add(store, drop=[1])
    wanted = {}  # entry -> video, start, end, its vector
    number = 1
    for video_id, video in enumerate(videos, 1):
        for entry in video.entries:
            if video_id > 1:
                wanted[number] = video_id, entry.start_s, entry.end_s, entry.embeddings[EMBEDDINGS]
            number += 1
    with store.reading() as reader:
        ids, table, vectors = reader.read_ids(), reader.read_entry_table(), reader.open_vectors()
        alive = np.setdiff1d(np.arange(len(ids)), reader.read_dead_rows())
        assert vectors.num_rows == len(ids) and set(ids[alive].tolist()) == set(wanted)
        windows = vectors.read_windows(alive)
        for row, vector in zip(alive.tolist(), windows, strict=True):
            found = table.videos[row], table.starts[row], table.ends[row]
            assert found == wanted[int(ids[row])][:3]
            np.testing.assert_array_equal(vector, wanted[int(ids[row])][3])
        within = ids[reader.find_rows_within("a")].tolist()
        assert sorted(within) == [entry for entry, one in wanted.items() if one[0] in (1, 2)]
        assert sorted(ids[reader.find_rows_within("a/b")].tolist()) == sorted(within)
        assert not len(reader.find_rows_within("a/one")) and not len(reader.find_rows_within("A"))


@pytest.mark.parametrize("vectors", ["windows", "frames"])
def test_the_nearest_are_exact(store, vectors):
    create(store, **({"num_frames": 0} if vectors == "frames" else {}))
    videos = make_videos()
    add(store, *videos)
    windows = np.concatenate([[e.embeddings[EMBEDDINGS] for e in v.entries] for v in videos])
    frames = [
        made_frames(entry.embeddings[EMBEDDINGS], number).astype(np.float32)
        for video in videos
        for number, entry in enumerate(video.entries)
    ]
    for query in made_embeddings(5, seed=1):
        scores = windows @ query
        if vectors == "frames":
            scores = (scores + np.array([(own @ query).max() for own in frames])) / 2
        order = np.argsort(-scores)[:6]
        ids, found = find_exactly(store, query, 6)
        assert ids == (order + 1).tolist()
        np.testing.assert_allclose(found, scores[order], atol=1e-6)
        with store.reading() as reader:
            read, rows = reader.open_vectors(), np.array([3, 0, 14])
            assert read.num_frames == (None if vectors == "windows" else sum(map(len, frames)))
            np.testing.assert_allclose(read.score_rows(query, rows), scores[rows], atol=1e-6)
            for one, other in zip(read.score_together([query, -query]), (1, -1), strict=True):
                if vectors == "windows":
                    np.testing.assert_allclose(one, other * scores, atol=1e-6)
            taken = read.take(rows)
            np.testing.assert_allclose(taken.score_all(query), scores[rows], atol=1e-6)
            best = read.find_best_frame(query, 14)
            if vectors == "windows":
                assert best is None
                continue
            cosines = frames[14] @ query
            assert abs(best.cosine - cosines.max()) < 1e-3
            assert best.time_s == 20.0 + 0.25 * int(np.argmax(cosines))
    add(store, drop=[5])
    assert max(find_exactly(store, query, 15)[0]) == 10


def test_vectors_without_a_part(store):
    create(store, leaves_out=["ocr", "vision"])
    rows = made_embeddings(4)
    apart = {part: made_embeddings(4, 1 + seed) for seed, part in enumerate(("ocr", "vision"))}
    video = made_video("a.mp4", [], rows)
    for number, entry in enumerate(video.entries):
        entry.embeddings |= {WITHOUT[part]: array[number] for part, array in apart.items()}
    add(store, video)
    query = made_embeddings(1, 5)[0]
    with store.reading() as reader:
        vectors = reader.open_vectors()
        assert sorted(vectors.parts) == ["ocr", "vision"]
        for part, wanted in apart.items():
            found = vectors.score_all_without(part, query)
            np.testing.assert_allclose(found, wanted @ query, atol=1e-6)
            chosen = np.array([2, 0])
            np.testing.assert_array_equal(vectors.read_without(part, chosen), wanted[chosen])


def test_an_index_of_words_only(store):
    create(store, None)
    videos = make_videos()
    for entry in (entry for video in videos for entry in video.entries):
        entry.embeddings.clear()
    add(store, *videos)
    assert store.read_meta().get("width") is None
    with VideoIndex(store) as index:
        assert [hit.id for hit in index.search("museum", mode="keyword")] == [11, 12, 13, 14, 15]
        with index.reading() as (reader, _):
            assert reader.open_vectors().width == 0


def test_an_index_of_nearest_neighbours(store):
    pytest.importorskip("faiss")
    create(store)
    rows = made_embeddings(480)
    videos = [made_video(f"{i}.mp4", [], rows[40 * i : 40 * i + 40]) for i in range(12)]
    add(store, *videos[:10])
    with store.locking(), store.open_writer() as writer:
        assert writer.build_ann(min_vectors=100) >= 0.95
        assert writer.meta["ann"]["num_rows"] == 400
    add(store, *videos[10:], drop=[1])
    alive = np.arange(40, 480)
    with VideoIndex(store) as index, index.reading() as (_, snapshot):
        candidates = snapshot.vectors.find_candidates(rows[200], 50)
        assert len(set(candidates.tolist())) == len(candidates)
        assert set(range(401, 481)) <= set(snapshot.ids[candidates].tolist())  # not covered
        shares = []
        for row in range(40, 480, 20):
            wanted = alive[np.argsort(-(rows[alive] @ rows[row]))[:10]] + 1
            found, scores, _ = find_nearest(snapshot, rows[row], 200)
            np.testing.assert_allclose(scores, rows[found - 1] @ rows[row], atol=1e-6)
            shares.append(len({*wanted.tolist()} & {*found[:10].tolist()}) / 10)
        assert np.mean(shares) >= 0.95
    with store.locking(), store.open_writer() as writer:
        assert writer.build_ann(min_vectors=100) >= 0.95  # anew


def test_words_that_contain_a_text(store):
    create(store)
    add(store, *make_videos())
    with store.reading() as reader:
        words = reader.read_words()
        assert sorted(text for _, text, _ in words) == list_all_words()
        assert all((form or text) == reduce_word(text) for _, text, form in words)
        asked = ["cas", "casino", "re16", "re-16", "ote", "muller", "müller", "e", "o", "st", "3.5"]
        for text, limit in product([*asked, "art", "zzz", '"', "caf", "555"], (500, 2)):
            reduced = reduce_word(text)
            parts = [part for part in (text, reduced) if len(part) >= 3]
            if len(text) < 3:
                fits = [w for w in words if (w[1] == text if len(text) == 1 else text in w[1])]
            else:
                fits = [w for w in words if any(p in f for p in parts for f in w[1:] if f)]
            fits.sort(key=lambda word: (len(word[2] or word[1]), word[0]))
            found = reader.find_words_containing(text, reduced, False, limit)
            assert [tuple(word) for word in found] == fits[:limit], text
        for text in ("京", "東京", "三丁", "丁三", "三丁目"):
            found = reader.find_words_containing(text, text, True, 10)
            of_words = {word: list_pieces(reduce_word(word[1])) for word in words}
            if len(text) < 3:
                fits = [w for w, own in of_words.items() if any(p.startswith(text) for p in own)]
            else:
                fits = [word for word in words if text in (word[2] or word[1])]
            assert {word[0] for word in found} == {word[0] for word in fits}, text


def test_words_that_have_pieces(store):
    create(store)
    add(store, *make_videos())
    pieces = ["東京", "京都", "都庁", "新宿", "丁目"]
    with store.reading() as reader:
        words = reader.read_words()
        for least in (1, 2, 3, 4):
            fits = [
                word for word in words
                if len(set(list_pieces(reduce_word(word[1]))) & set(pieces)) >= least
            ]  # fmt: skip
            fits.sort(key=lambda word: (len(word[1]), word[0]))
            found = reader.find_words_with_pieces(pieces, least, 10)
            assert [tuple(word) for word in found] == fits
        assert len(reader.find_words_with_pieces(pieces, 1, 1)) == 1


def test_places_of_words(store):
    create(store)
    add(store, *make_videos())
    with store.reading() as reader:
        names = set(reader.read_name_lines().tolist())
        assert len(names) == 5 and sorted(names) == reader.read_name_lines().tolist()
        places: dict[str, list[tuple[int, int]]] = {}  # by the lines themselves
        texts = reader.read_lines(range(1, 100))
        for video in reader.read_videos():
            for entry, *_ in reader.list_entries(video):
                shown = {track.text for track in reader.read_tracks(entry)}
                for number, line in texts.items():
                    if line.text in shown:
                        for word in list_index_words(line.text):
                            places.setdefault(word, []).append((entry, number))
        numbers = {text: number for number, text, _ in reader.read_words()}
        postings = reader.read_postings(list(numbers.values()))
        for text, number in numbers.items():
            found = list(zip(*(part.tolist() for part in postings[number]), strict=True))
            assert found == sorted(places[text]) and postings[number].entries.dtype == np.int64
        both = reader.find_lines_with_words(["casino", "hotel"])
        wanted = sorted(set(places["casino"]) & set(places["hotel"]))
        assert list(zip(*(part.tolist() for part in both), strict=True)) == wanted and wanted
        assert not len(reader.find_lines_with_words(["casino", "nowhere"]).entries)
        pieces = [[numbers["ca"]], [numbers["sino"], numbers["hotel"]]]
        assert reader.find_together(pieces, 100) == set(places["ca"]) & set(places["sino"])
        assert reader.find_together(pieces, 2) == set()
        assert reader.find_together([[numbers["ca"]], []], 100) == set()


def test_entries_and_videos_by_id_and_path(store):
    create(store)
    videos = make_videos()
    add(store, *videos)
    unknown = (0, -1, 99, 2**63, 10**30)
    with store.reading() as reader:
        found = reader.read_videos()
        assert [video.video for video in found.values()] == list(LINES) and list(found) == [*found]
        for number, video in found.items():
            assert reader.read_video(number) == reader.find_video(video.video) == video
            assert (video.duration_s, video.width, video.height) == (10.0, 64, 48)
            assert video.modified_s == 2e-9
        known = reader.read_known_videos()
        assert {name: one.id for name, one in known.items()} == {
            video.video: number for number, video in found.items()
        }
        assert known["six.mp4"].stamp == ContentStamp(1, 2, "3")
        assert known["six.mp4"].ocr_stamp is None
        assert reader.list_entries(3) == [(4, 0.0, 10.0), (5, 5.0, 15.0), (6, 10.0, 20.0)]
        entries = reader.read_entries([5, 15, *unknown])
        assert set(entries) == {5, 15}
        assert (entries[5].video, entries[5].start_s, entries[5].end_s) == ("b/three.mp4", 5, 15)
        for number in unknown:
            assert reader.read_video(number) is None
        assert reader.find_video("a/One.mp4") is None and reader.list_entries(99) == []
        assert reader.read_thumbnail(1) == b"jpeg"
        with pytest.raises(MissingFileError):
            reader.read_thumbnail(99)
    with VideoIndex(store) as index:
        for method in (index.entry, index.video, index.tracks, index.read_thumbnail):
            for number in unknown:
                with pytest.raises(UnknownEntryError, match=f"^{number}: the index has no such"):
                    method(number)


def test_lines_of_text(store):
    create(store, None)
    nowhere = np.zeros((0, 5), np.float32)
    boxes = np.array([(1.0, *BOX), (2.0, *BOX)], np.float32)
    tracks = [
        NewTrack("read late", 0.75, 7.0, 8.0, boxes, (1,)),
        NewTrack("said", 0.9, 1.0, 9.0, nowhere, (0, 1), "spoken"),
        NewTrack("read early", 0.96, 2.0, 3.0, boxes, (0,)),
        NewTrack("a longer line", 0.95, 2.0, 3.0, boxes, (0,)),
        NewTrack("x" * 41, 1.0, 2.0, 3.0, boxes, (0,)),
    ]
    entries = [NewEntry(0.0, 5.0, b"1"), NewEntry(5.0, 10.0, b"2")]
    video = NewVideo("a/b.mp4", ContentStamp(1, 2, "3"), None, 10.0, 64, 48, entries, tracks)
    silent = replace(video, path="c.mp4", entries=[NewEntry(0.0, 5.0, b"3")], tracks=[])
    add(store, video, silent)
    with store.reading() as reader:
        lines = reader.read_lines(range(-3, 20))
        assert {line.text: line.kind for line in lines.values()} == {
            "read late": "read", "said": "spoken", "read early": "read", "a longer line": "read",
            "x" * 41: "read", "a b": "name", "c": "name",
        }  # fmt: skip
        (late,) = (line for line in lines.values() if line.text == "read late")
        assert (late.start_s, late.end_s) == (7.0, 8.0) and not late.is_former
        np.testing.assert_array_equal(late.boxes, boxes)
        assert [track.text for track in reader.read_tracks(2)] == ["a b", "said", "read late"]
        of_video = reader.read_video_tracks(1)
        assert [track.text for track in of_video] == [
            "a b", "said", "read early", "a longer line", "x" * 41, "read late",
        ]  # fmt: skip
        assert of_video[1].box is None and of_video[1].boxes == ()
        assert of_video[2].score == 0.96 and of_video[2].box == BOX
        assert [time for time, _ in of_video[2].boxes] == [1.0, 2.0]
        assert reader.find_videos_with_text() == {1}
        assert reader.read_clear_lines(1, 0.8, 40, 50) == ["a longer line", "read early"]
        assert reader.read_clear_lines(1, 0.5, 40, 1) == ["a longer line"]
        assert reader.read_latest_lines(0.8, 3) == [
            (1, "x" * 41, "read"), (1, "a longer line", "read"), (1, "read early", "read"),
        ]  # fmt: skip
        assert len(reader.read_latest_lines(0.8, 50)) == 4
    with store.locking(), store.open_writer() as writer:
        assert [line.text for line in writer.read_lines(1)] == [
            "read late", "read early", "a longer line", "x" * 41,
        ]  # fmt: skip
        assert writer.read_starts(1) == [0.0, 5.0]
        assert writer.read_entries() == {
            1: [KnownEntry(1, 0.0), KnownEntry(2, 5.0)], 2: [KnownEntry(3, 0.0)],
        }  # fmt: skip


@pytest.mark.parametrize(("query", "kind", "videos"), [
    ("casino", "exact", {"a/one.mp4", "a/b/two.mp4", "b/three.mp4", "b/été.mp4", "six.mp4"}),
    ("RE16", "variant", {"a/one.mp4"}),
    ("musuem", "fuzzy", {"six.mp4"}),
    ("photografies", "fuzzy", {"six.mp4"}),
    ("phtographie", "fuzzy", {"six.mp4"}),
    ("muse", "prefix", {"six.mp4"}),
    ("oyal", "substring", {"a/one.mp4"}),
    ('"museum of art"', "exact", {"six.mp4"}),
    ("5550123", "pieces", {"b/été.mp4"}),
    ("東京", "prefix", {"b/three.mp4"}),
    ("three", "exact", {"b/three.mp4"}),
    ("nowhere", None, set()),
])  # fmt: skip
def test_words_are_found_as_they_match(store, query, kind: MatchKind | None, videos):
    create(store)
    add(store, *make_videos())
    with VideoIndex(store) as index:
        hits = index.search(query, k=50, mode="keyword")
        assert {hit.video for hit in hits} == videos
        assert not videos or hits[0].words[0].kind == kind
        found = index.search_videos(query, mode="keyword")
        assert {one.video.video for one in found.videos} == videos


def test_rankings_of_words_are_those_of_a_folder(store, tmp_path):
    """However the commits were made, scores, words and order are the same."""
    videos = make_videos()
    create(store)
    add(store, replace(videos[4], tracks=videos[0].tracks), *videos[:2])
    add(store, *videos[2:4])
    add(store, videos[4])
    add(store, drop=[2])
    add(store, videos[0])
    with closing(open_store(tmp_path / "reference")) as reference:
        create(reference)
        add(reference, *videos[1:], videos[0])

        queries = [word for word in list_all_words() if len(word) > 1]
        queries += [word[:-1] for word in queries] + [word[1:] for word in queries]
        queries += ["casino hotel", "hotel casino", '"casino hotel"', "museum art", "art of hotels"]

        def ask(asked: IndexStore) -> dict[str, list[tuple]]:
            with VideoIndex(asked) as index:
                hits = {query: index.search(query, k=50, mode="keyword") for query in queries}
            return {
                query: [(hit.video, hit.start_s, round(hit.score, 9), hit.words) for hit in own]
                for query, own in hits.items()
            }

        found = ask(store)
        assert found == ask(reference)
        assert sum(map(bool, found.values())) > 60


def test_filters(store):
    create(store)
    videos = make_videos()
    videos[1] = replace(videos[1], stamp=ContentStamp(1, 5 * 10**9, "5"), duration_s=99.0)
    videos[2] = replace(videos[2], tracks=[])
    add(store, *videos)
    with VideoIndex(store) as index:

        def ask(folder: str | None = None, **limits) -> set[str]:
            found = index.search_videos("", VideoFilter(**limits), folder=folder)
            return {hit.video.video for hit in found.videos}

        assert ask(has_text=False) == {"b/three.mp4"}
        assert ask(min_length_s=50) == ask(after_s=3) == {"a/b/two.mp4"}
        assert ask("a") == {"a/one.mp4", "a/b/two.mp4"} and ask("a", before_s=3) == {"a/one.mp4"}
        hits = index.search("hotel casino", mode="keyword", folder="b", k=50)
        assert {hit.video for hit in hits} == {"b/été.mp4"}
        assert [hit.video for hit in index.search("casino", mode="keyword", folder="a/b")] == [
            "a/b/two.mp4", "a/b/two.mp4",
        ]  # fmt: skip
        assert index.folders() == ["a", "a/b", "b"]


def test_what_is_known_of_videos_is_updated(store):
    create(store)
    videos = make_videos()
    add(store, *videos)
    stamp, document = ContentStamp(7, 8, "9"), ContentStamp(4, 5, "6")
    with store.locking(), store.open_writer() as writer:
        writer.update_stamps({2: (stamp, document)})
        writer.rename_videos({1: "six.mp4", 5: "a/one.mp4"})  # each the other's name
        other = made_video("b/three.mp4", ["quite another line"], made_embeddings(3))
        writer.replace_tracks(3, replace(other, stamp=stamp, ocr_stamp=document))
        writer.set_meta(exclude=["x"], windows=[4, 2])
        writer.set_meta(exclude=None, other={"a": [1]})
        known = writer.read_videos()
        assert known["six.mp4"].id == 1 and known["a/b/two.mp4"] == (2, stamp, document)
        assert "exclude" not in writer.meta and writer.meta["windows"] == [4, 2]
    assert store.read_meta()["other"] == {"a": [1]}
    with VideoIndex(store) as index:

        def ask(query: str) -> set[int]:
            return {hit.id for hit in index.search(query, mode="keyword", k=50)}

        assert ask("six") == {1} and ask('"a one"') == {11, 12, 13, 14, 15} == ask("museum")
        assert ask('"quite another line"') == {4, 5, 6}
        assert ask("lobby") == ask("東京都庁前") == set()
        assert index.video(3).video == "b/three.mp4" and index.video(3).modified_s == 8e-9
    store.check_completely()


def test_a_dry_run_writes_nothing(store, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("same.mp4", "changed.mp4", "gone.mp4"):
        (folder / name).write_bytes(name.encode())
    create(store, None, **Roots.of(folder).to_meta())
    entries = [NewEntry(0.0, 10.0, b"jpeg")]
    add(store, *(
        NewVideo(file.name, ContentStamp.of(file), None, 10.0, 64, 48, entries)
        for file in sorted(folder.iterdir())
    ))  # fmt: skip
    (folder / "gone.mp4").rename(folder / "moved.mp4")
    (folder / "changed.mp4").write_bytes(b"something else")
    (folder / "new.mp4").write_bytes(b"new")
    before = store.read_meta()
    plan = preview_update(folder, store.location, OcrSource())
    assert (plan.add, plan.update, plan.drop) == (["new.mp4"], ["changed.mp4"], [])
    assert plan.moved == {"moved.mp4": "gone.mp4"} and plan.num_same == 1
    assert store.read_meta() == before


def test_a_reader_sees_one_commit_while_others_are_made(store, location):
    create(store)
    videos = make_videos()
    add(store, *videos[:2])
    with store.reading() as reader:
        before, state = read_states(reader), reader.state
        vectors = reader.open_vectors()
        windows = np.array(vectors.read_windows(np.arange(3)))
        with closing(open_store(location)) as other:
            add(other, *videos[2:], drop=[1])
            with other.locking(), other.open_writer() as writer:
                writer.compact(0.0)
            with other.reading() as later:
                assert set(read_states(later)[0]) == set(list(LINES)[1:])
                assert later.state != state
        assert read_states(reader) == before and reader.state == state
        assert [line.text for line in reader.read_tracks(1)][1:] == LINES["a/one.mp4"]
        np.testing.assert_array_equal(vectors.read_windows(np.arange(3)), windows)
    with store.reading() as reader:
        assert set(read_states(reader)[0]) == set(list(LINES)[1:])
    store.close()
    with store.reading() as reader, store.reading() as second:
        assert reader.state == second.state


def test_searches_go_on_while_a_writer_commits(store, location):
    """Each finds all entries of a video or none, and their own vectors."""
    create(store)
    rows = made_embeddings(30)
    videos = [made_video(f"{n}.mp4", [f"word{n}"], rows[3 * n : 3 * n + 3]) for n in range(10)]
    add(store, *videos[:2])
    ended, seen, failed = threading.Event(), set(), []

    def search() -> None:
        try:
            with closing(open_store(location)) as own, VideoIndex(own) as index:
                while True:
                    is_last = ended.is_set()
                    counts = set()
                    for number in (1, 5, 9):
                        hits = index.search(f"word{number}", mode="keyword", k=50)
                        exact = [hit for hit in hits if hit.words[0].kind == "exact"]
                        counts.add(len(exact))
                        with index.reading() as (_, snapshot):
                            ids, scores, _ = find_nearest(snapshot, rows[3], 1, exact=True)
                            assert abs(scores[0] - 1) < 1e-5
                            seen.add(snapshot.num_entries)
                    assert counts <= {0, 3}
                    if is_last:
                        return
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for video in videos[2:]:
        add(store, video)
    ended.set()
    for thread in threads:
        thread.join()
    assert not failed and max(seen) == 30


def test_two_writers_keep_out_of_each_others_way(store, location):
    create(store)
    with store.locking(), closing(open_store(location)) as other:
        with pytest.raises(IndexFolderError), other.locking():
            pass
    add(store, *make_videos())
    assert store.read_meta()["commits"] >= 1


def test_a_commit_that_fails_is_none(store):
    create(store)
    videos = make_videos()
    add(store, *videos[:2])
    before = store.read_meta()
    broken = made_video("broken.mp4", ["words"], made_embeddings(2))
    broken.entries[1].embeddings.clear()
    with pytest.raises(Exception, match=EMBEDDINGS):
        add(store, videos[2], broken, drop=[1])
    assert store.read_meta() == before
    with store.reading() as reader:
        assert set(reader.read_known_videos()) == {"a/one.mp4", "a/b/two.mp4"}
    add(store, videos[2])
    store.check_completely()
    with store.reading() as reader:
        windows = reader.open_vectors().read_windows(np.arange(6))
        assert reader.read_ids().tolist()[:3] == [1, 2, 3] and len(reader.read_ids()) == 6
        wanted = [entry.embeddings[EMBEDDINGS] for video in videos[:3] for entry in video.entries]
        np.testing.assert_array_equal(windows, wanted)


def test_what_is_gone_leaves_nothing_behind(store):
    create(store, num_frames=0)
    add(store, *make_videos())
    add(store, drop=[2, 4])
    query = made_embeddings(1, 3)[0]
    before = find_exactly(store, query, 20)
    with store.locking(), store.open_writer() as writer:
        writer.compact(0.0)
        writer.remove_leftovers()
        assert writer.count_dead_rows() == 0
    assert find_exactly(store, query, 20) == before and len(before[0]) == 9
    with store.reading() as reader:
        assert len(reader.read_ids()) == 9
        texts = {text for _, text, _ in reader.read_words()}
        assert "hotel" in texts and not texts & {"café", "söhne", "3.5"}
        with pytest.raises(MissingFileError):
            reader.read_thumbnail(2)
    store.check_completely()
    assert not store.verify()


def test_another_model_takes_over(store):
    create(store)
    add(store, *make_videos())
    rows = made_embeddings(15, 9, 8)
    names = {"query_encoder_folder": "query_encoder-000002", "config_file": "config-000002.json"}
    values = names | {
        "width": 8, "leaves_out": [], "num_frames": None,
        "model": MODEL | {"name": "other"}, "query_encoder": "",
    }  # fmt: skip
    query = made_embeddings(1, 4)[0]
    before = find_exactly(store, query, 20)
    with store.reading() as reader:
        state = reader.state
    with store.locking(), store.open_writer() as writer:
        writer.begin_successor(values | {"generation": writer.next_generation()})
        writer.write_successor(
            [(i, NewEntry(0, 1, b"", {EMBEDDINGS: rows[i - 1]})) for i in (7, 8, 9, 10, 2)]
        )
    assert store.read_meta()["successor"]["num_rows"] == 5
    with store.reading() as reader:
        assert reader.state == state  # searches see no difference
    assert find_exactly(store, query, 20) == before
    with store.locking(), store.open_writer() as writer:
        writer.change_successor({"precision": "bf16"})
        writer.write_successor([(1, NewEntry(0, 1, b"", {EMBEDDINGS: rows[0]}))])
        assert writer.read_succeeded().tolist() == [7, 8, 9, 10, 2, 1]
        writer.switch_to_successor()
        assert "successor" not in writer.meta and writer.meta["precision"] == "bf16"
        writer.compact(0.0)
        writer.remove_leftovers()
        assert set(writer.read_videos()) == {"a/one.mp4", "b/été.mp4"}
    wanted = np.array([1, 7, 8, 9, 10])
    query = made_embeddings(1, 4, 8)[0]
    scores = rows[wanted - 1] @ query
    ids, found = find_exactly(store, query, 20)
    assert ids == wanted[np.argsort(-scores)].tolist()
    np.testing.assert_allclose(found, np.sort(scores)[::-1], atol=1e-6)
    with store.reading() as reader:
        assert reader.meta["model"]["name"] == "other" and reader.state != state
        assert reader.read_thumbnail(7) == b"jpeg"
    store.check_completely()


def test_files_of_a_model(store):
    """They are written to the work folder, and found wherever the index is opened."""
    from retrieval.index.checksums import FILES, hash_files
    from retrieval.index.layout import list_model_files

    names = {"query_encoder_folder": "query_encoder", "config_file": "config.json"}
    encoder = store.work_folder / "query_encoder"
    (encoder / "tokenizer").mkdir(parents=True)
    contents = {
        "config.json": b"{}", "query_encoder/model.safetensors": b"\0" * 99,
        "query_encoder/tokenizer/tokenizer.json": b"[]",
    }  # fmt: skip
    for name, content in contents.items():
        (store.work_folder / name).write_bytes(content)
    files = list_model_files(store.work_folder, names)
    names[FILES] = hash_files(store.work_folder, files)
    with store.locking():
        store.save_model_files(names)
        store.create(WIDTH, (), META | names)
    with closing(open_store(store.location)) as other:
        meta = other.read_meta()
        folder = other.open_model_folder(meta)
        assert {name: (folder / name).read_bytes() for name in contents} == contents
        assert other.find_model_damage(meta) == []
