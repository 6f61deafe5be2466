"""Overview of an index: its latest videos, what can be read in them, and words to search for."""

import sqlite3

from retrieval.index.words import get_words
from retrieval.results import ExampleWord, LatestVideo, LibraryOverview, TrackKind, Video
from retrieval.search.keyword import FUNCTION_WORDS
from retrieval.search.snapshot import Snapshot

NUM_LATEST = 12  # videos
NUM_LINES = 4  # of a video
NUM_EXAMPLES = 8
MIN_LETTERS = 4  # of an example
MIN_SCORE = 0.8  # confidence of its reading
_MAX_LENGTH = 40  # letters of a line that is shown
_NUM_SCANNED = 4000  # lines that examples are taken from, the latest


def describe_library(connection: sqlite3.Connection, snapshot: Snapshot) -> LibraryOverview:
    """Return the overview of an index, within a transaction that sees the snapshot."""
    videos = list(snapshot.load_videos(connection).values())
    videos.sort(key=lambda video: (-video.modified_s, video.id))
    latest = [LatestVideo(video, _pick_lines(connection, video)) for video in videos[:NUM_LATEST]]
    return LibraryOverview(
        num_videos=len(videos),
        num_entries=snapshot.num_entries,
        duration_s=sum(video.duration_s for video in videos),
        latest=tuple(latest),
        examples=_pick_examples(connection),
    )


def _pick_lines(connection: sqlite3.Connection, video: Video) -> tuple[str, ...]:
    """Return distinct lines of a video: those that were read best, then the longest."""
    rows = connection.execute(
        "SELECT text FROM tracks WHERE video_id = ? AND kind = 'read' AND score >= ? "
        "AND length(text) <= ? ORDER BY round(score, 1) DESC, length(text) DESC, id LIMIT 50",
        (video.id, MIN_SCORE, _MAX_LENGTH),
    )
    texts: dict[str, str] = {}
    for (text,) in rows:
        texts.setdefault(" ".join(get_words(text)), text)
    return tuple(text for folded, text in texts.items() if folded)[:NUM_LINES]


def _pick_examples(connection: sqlite3.Connection) -> tuple[ExampleWord, ...]:
    """Return words that were read or heard with confidence, those in most videos first."""
    rows = connection.execute(
        "SELECT video_id, text, kind FROM tracks WHERE score >= ? AND kind != 'name' "
        "ORDER BY id DESC LIMIT ?",
        (MIN_SCORE, _NUM_SCANNED),
    )
    videos: dict[tuple[str, TrackKind], set[int]] = {}
    for video, text, kind in rows:
        for word in get_words(text):
            if len(word) >= MIN_LETTERS and word.isalpha() and word not in FUNCTION_WORDS:
                videos.setdefault((word, kind), set()).add(video)
    ranked = sorted(videos, key=lambda one: (-len(videos[one]), -len(one[0]), one))
    first = {word: kind for word, kind in reversed(ranked)}  # of both kinds the more frequent one
    chosen = [one for one in ranked if first[one[0]] == one[1]]
    return tuple(ExampleWord(*one) for one in chosen[:NUM_EXAMPLES])
