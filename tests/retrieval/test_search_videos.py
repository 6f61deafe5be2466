"""Results by video: each once, with its moments; filters, orders, pages."""

import json
from datetime import datetime

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index import database
from retrieval.index.arrays import EMBEDDINGS
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest
from retrieval.search.videos import VideoFilter, run_video_search
from tests.retrieval.made_index import add, create, made_embeddings, made_video, remove_checksums
from utils.errors import UserError

WIDTH = 64
DAY_S = 86400


def spotted(text: str, *times: float) -> tuple[str, np.ndarray]:
    """A line that moves to the right, and is spotted at these times."""
    boxes = [(time, 0.1 + time / 100, 0.2, 0.3 + time / 100, 0.3) for time in times]
    return text, np.array(boxes, dtype=np.float32)


def long_video(name: str, length_s: float, *lines, changed_day: int = 1, seed: int = 0) -> NewVideo:
    """Windows of 10 s every 5 s; lines as of ``spotted``, or (text, start, end) of what is said."""
    starts = np.arange(0, max(1.0, length_s - 5), 5.0)
    rows = made_embeddings(len(starts), seed, WIDTH)
    spans = [(start, min(start + 10, length_s)) for start in starts.tolist()]
    entries = [
        NewEntry(*span, b"jpeg", {EMBEDDINGS: row}) for span, row in zip(spans, rows, strict=True)
    ]
    tracks = []
    for line in lines:
        boxes = line[1] if len(line) == 2 else np.zeros((0, 5), np.float32)
        first, last = (float(boxes[0, 0]), float(boxes[-1, 0])) if len(boxes) else line[1:]
        shown = tuple(
            number for number, (start, end) in enumerate(spans)
            if (any(start <= time < end for time in boxes[:, 0]) if len(boxes)
                else first < end and last > start)
        )  # fmt: skip
        kind = "read" if len(boxes) else "spoken"
        tracks.append(NewTrack(line[0], 0.9, first, last, boxes, shown, kind))
    stamp = ContentStamp(1, changed_day * DAY_S * 10**9, "3")
    return NewVideo(name, stamp, None, length_s, 640, 360, entries, tracks)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library") / "i"
    create(folder, WIDTH)
    add(
        folder,
        long_video("talks/apple.mp4", 31, spotted("The new iPod nano", 7.4, 8, 8.6),
                   spotted("iPod", 22, 23), ("now the iPod plays", 22.5, 24.0),
                   spotted("casino", 12.5, 13), changed_day=3, seed=1),
        long_video("talks/b.mp4", 12, spotted("nothing to see", 1, 2), changed_day=5, seed=2),
        long_video("street/casino.mp4", 9, changed_day=4, seed=3),
        long_video("street/c.mp4", 65, spotted("CASINO ROYALE", *np.arange(3.0, 60.0)),
                   changed_day=2, seed=4),
        *(long_video(f"other/{i:02}.mp4", 5 + i, changed_day=10 + i, seed=10 + i)
          for i in range(15)),
    )  # fmt: skip
    with VideoIndex.open(folder) as opened:
        yield opened


def test_a_video_is_found_once_and_plays_from_where_its_line_begins(index):
    found = index.search_videos("ipod", mode="keyword")
    assert (found.num_with_words, found.num_likely, found.num_videos) == (1, 1, 1)
    (hit,) = found.videos
    assert hit.video.video == "talks/apple.mp4" and hit.has_words and hit.likely is None
    # Seconds 7.4 and 22: the line is in three windows, and what is said at 22.5 too near.
    assert sorted(moment.time_s for moment in hit.moments) == pytest.approx([7.4, 22.0])
    assert hit.num_moments == 2
    first = next(moment for moment in hit.moments if moment.time_s < 10)
    assert (
        first.words[0].text == "The new iPod nano" and first.start_s <= first.time_s < first.end_s
    )
    assert first.box.left == pytest.approx(0.1 + 0.074) and first.box.right == pytest.approx(0.374)
    second = next(moment for moment in hit.moments if moment.time_s > 10)
    assert {word.track_kind for word in second.words} == {"read", "spoken"}


def test_a_line_that_is_long_in_the_picture_is_one_moment(index):
    found = index.search_videos("casino", mode="keyword")
    moments = {hit.video.video: hit.moments for hit in found.videos}
    assert [moment.time_s for moment in moments["street/c.mp4"]] == [3.0]
    assert [moment.time_s for moment in moments["talks/apple.mp4"]] == [12.5]
    # Of a name there is no time.
    (named,) = moments["street/casino.mp4"]
    assert (named.time_s, named.box, named.words[0].track_kind) == (0.0, None, "name")
    assert found.terms[0].num_videos == 3 and found.terms[0].kind == "exact"
    # A hit of a window says when the line is first seen within it.
    hits = {(hit.video, hit.start_s): hit for hit in index.search("royale", 20, "keyword")}
    assert hits["street/c.mp4", 0.0].moment_s == 3.0
    assert hits["street/c.mp4", 20.0].moment_s == 20.0
    assert hits["street/c.mp4", 20.0].moment_box.left == pytest.approx(0.3)


def test_terms_say_how_many_videos_have_them(index):
    found = index.search_videos('casino ipo zebra "to see"', mode="keyword")
    terms = {term.query: (term.num_videos, term.kind) for term in found.terms}
    assert terms == {
        "to see": (1, "exact"), "casino": (3, "exact"), "ipo": (1, "prefix"), "zebra": (0, None),
    }  # fmt: skip
    inside = index.search_videos("casino zebra", mode="keyword", folder="street")
    assert [term.num_videos for term in inside.terms] == [2, 0]


def search_by_look(index, query, text="zzz", mode="hybrid", **options):
    wanted = VideoFilter(**options)
    request = SearchRequest(text, 10, mode, None, False, False, 1.0)
    with index.reading() as (reader, snapshot):
        embedded = EmbeddedQuery(query, made_embeddings(64, 99, WIDTH))
        return run_video_search(reader, snapshot, request, embedded, wanted)


def test_looks_are_moments_that_do_not_overlap(index):
    row = made_embeddings(6, 1, WIDTH)  # those of talks/apple.mp4
    query = row[0] + row[1] + row[4]
    found = search_by_look(index, query / np.linalg.norm(query))
    first = found.videos[0]
    assert first.video.video == "talks/apple.mp4" and first.likely and not first.has_words
    assert first.z_score > 10 and found.num_with_words == 0
    assert found.num_likely == sum(hit.likely for hit in found.videos) < 4
    spans = [(moment.start_s, moment.end_s) for moment in first.moments]
    assert len(spans) == 2 and not (spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1])
    assert found.num_videos == 19 and len(found.videos) == 19
    assert all(len(hit.moments) == 1 for hit in found.videos[1:])
    # Where a line is matched in the same window, it is the moment.
    with_line = search_by_look(index, query / np.linalg.norm(query), "nano")
    assert 7.4 in [pytest.approx(moment.time_s) for moment in with_line.videos[0].moments]
    assert all(
        not moment.start_s <= 7.4 < moment.end_s or moment.time_s == pytest.approx(7.4)
        for moment in with_line.videos[0].moments
    )


def names(found) -> list[str]:
    return [hit.video.video for hit in found.videos]


def test_pages_are_parts_of_one_list(index):
    row = made_embeddings(1, 50, WIDTH)[0]
    whole = names(search_by_look(index, row, k=100))
    assert len(whole) == len(set(whole)) == 19
    pages = [names(search_by_look(index, row, k=5, offset=offset)) for offset in (0, 5, 10, 15, 20)]
    assert sum(pages, []) == whole and pages[-1] == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"sort": "newest"}, ["other/14.mp4", "other/13.mp4"]),
        ({"sort": "oldest"}, ["street/c.mp4", "talks/apple.mp4"]),
        ({"sort": "longest"}, ["street/c.mp4", "talks/apple.mp4"]),
        ({"sort": "shortest"}, ["other/00.mp4", "other/01.mp4"]),
        ({"sort": "name"}, ["other/00.mp4", "other/01.mp4"]),
        ({"after_s": 3 * DAY_S, "before_s": 5 * DAY_S}, ["street/casino.mp4", "talks/apple.mp4"]),
        ({"min_length_s": 31}, ["talks/apple.mp4", "street/c.mp4"]),
        ({"max_length_s": 5}, ["other/00.mp4"]),
        ({"has_text": True}, ["talks/b.mp4", "talks/apple.mp4", "street/c.mp4"]),
        ({"has_text": False, "sort": "name"}, ["other/00.mp4", "other/01.mp4"]),
    ],
)
def test_the_library_is_listed_by_filters_and_orders(index, options, found):
    listed = index.search_videos("", VideoFilter(**options))
    assert names(listed)[: len(found)] == found
    if "sort" not in options:
        assert len(listed.videos) == len(found) == listed.num_videos
    assert not any(hit.moments for hit in listed.videos)


def test_filters_and_orders_hold_for_a_query(index):
    found = index.search_videos("casino", VideoFilter(sort="newest"), "keyword")
    assert names(found) == ["street/casino.mp4", "talks/apple.mp4", "street/c.mp4"]
    found = index.search_videos("casino", VideoFilter(min_length_s=20), "keyword")
    assert {*names(found)} == {"talks/apple.mp4", "street/c.mp4"} and found.num_with_words == 2
    assert found.terms[0].num_videos == 2
    found = index.search_videos("casino", VideoFilter(max_length_s=1), "keyword")
    assert found.videos == () and (found.num_videos, found.num_with_words) == (0, 0)
    row = made_embeddings(1, 50, WIDTH)[0]
    assert len(search_by_look(index, row, min_length_s=20).videos) == 2
    assert search_by_look(index, row, max_length_s=1).videos == ()


def test_a_folder_lists_what_is_in_it(index):
    assert {*names(index.search_videos(folder="talks"))} == {"talks/apple.mp4", "talks/b.mp4"}
    with pytest.raises(UserError, match="nowhere: the index has no video in such a folder"):
        index.search_videos(folder="nowhere")
    with pytest.raises(UserError, match="the query is empty"):
        index.search_videos("")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sort": "size"}, 'order is "size"'), ({"k": 0}, "ask for one"), ({"offset": -1}, "from 0")],
)
def test_filters_that_can_not_be_met(options, message):
    with pytest.raises(UserError, match=message):
        VideoFilter(**options)


def test_an_overview_has_the_latest_videos_and_words_to_look_for(index):
    found = index.describe_library()
    assert (found.num_videos, found.num_entries) == (19, len(index))
    assert [one.video.video for one in found.latest][:2] == ["other/14.mp4", "other/13.mp4"]
    assert len(found.latest) == 12
    examples = {example.text: example.track_kind for example in found.examples}
    assert [*examples][0] == "casino" and examples["casino"] == "read"  # in two videos
    assert examples["plays"] == "spoken" and "the" not in examples


def test_an_index_of_an_earlier_release_is_searched_by_video(tmp_path):
    """Without a time of change, as made-up ones are, and without names."""
    create(tmp_path / "i")
    add(tmp_path / "i", made_video("a.mp4", ["casino"], made_embeddings(2)))
    remove_checksums(tmp_path / "i")
    connection = database.connect(tmp_path / "i", writing=True)
    connection.execute("UPDATE videos SET stamp = ?", (json.dumps({"size": 1}),))
    connection.close()
    with VideoIndex.open(tmp_path / "i") as index:
        (hit,) = index.search_videos("casino", mode="keyword").videos
        assert datetime.fromtimestamp(hit.video.modified_s).year in (1969, 1970)
        assert [moment.time_s for moment in hit.moments] == [0.5]
