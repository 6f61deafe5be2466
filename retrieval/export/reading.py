"""Content of an index for an export, video by video: the one place that asks the index for it.

Shapes: N entries, E width of the common space, F frames.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.export.schema import VectorKinds
from retrieval.index import database
from retrieval.index.integrity import VectorCheck
from retrieval.index.records import ContentStamp
from retrieval.index.words import fold_formerly, get_words, list_index_words
from retrieval.results import TextTrack, Video
from retrieval.search import snapshot as lookups
from retrieval.search.snapshot import Snapshot

_ROWS = 1024  # whose vectors are read at a time


@dataclass(frozen=True)
class ExportedVideo:
    """A video with all that an index knows of it, but for its vectors.

    Attributes:
        entries: id, start and end of each.
        lines: by time.
        words: of each line its distinct words, with their reduced forms (None: not known).
        places: (entry, position of a line) of each line that is seen or said in an entry.
    """

    video: Video
    stamp: ContentStamp
    entries: list[tuple[int, float, float]]
    lines: list[TextTrack]
    words: list[dict[str, str | None]]
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class ExportedVectors:
    """The vectors of some entries; what is of frames is None where the index has none of them."""

    ids: NDArray  # (N,)
    arrays: dict[str, NDArray]  # name of the column -> (N, E) float32
    frames: NDArray | None  # (F, E) float16, entry by entry
    frame_times: NDArray | None  # (F,) seconds
    frame_counts: NDArray | None  # (N,)


def describe_vectors(snapshot: Snapshot) -> VectorKinds:
    """Return which vectors an index has."""
    width = snapshot.embeddings.shape[1]
    has_frames = snapshot.vectors.frames is not None
    return VectorKinds(width, frozenset(snapshot.without), has_frames)


def read_videos(connection: sqlite3.Connection, snapshot: Snapshot) -> Iterator[ExportedVideo]:
    """Yield the videos of one commit, by id; the lines of one of them are in memory at a time.

    Raises ``DamagedIndexError``.
    """
    VectorCheck(snapshot.folder).check(snapshot.meta)
    stamps = {known.id: known.stamp for known in database.read_videos(connection).values()}
    for video in lookups.read_videos(connection).values():
        query = "SELECT id, start_s, end_s FROM entries WHERE video_id = ? ORDER BY id"
        entries = connection.execute(query, (video.id,)).fetchall()
        lines = lookups.read_video_tracks(connection, video.id)
        positions = defaultdict(list)
        for position, line in enumerate(lines):
            positions[line].append(position)
        places = []
        for entry, *_ in entries:
            seen: Counter[TextTrack] = Counter()  # lines that are equal stand for one another
            for line in lookups.read_tracks(connection, entry):
                places.append((entry, positions[line][seen[line]]))
                seen[line] += 1
        words = [_list_words(line.text, snapshot.has_reduced) for line in lines]
        yield ExportedVideo(video, stamps[video.id], entries, lines, words, places)


def _list_words(text: str, has_reduced: bool) -> dict[str, str | None]:
    """Return the words by which the index has a line."""
    if has_reduced:
        return list_index_words(text)
    return dict.fromkeys(map(fold_formerly, get_words(text)))


def read_vectors(snapshot: Snapshot, entries: Sequence[int]) -> Iterator[ExportedVectors]:
    """Yield the vectors of entries (by id), a part at a time."""
    for first in range(0, len(entries), _ROWS):
        ids = np.array(entries[first : first + _ROWS], dtype=np.int64)
        rows = snapshot.find_rows_of(ids)
        vectors = snapshot.vectors.take(rows)
        arrays = {"vector": vectors.windows}
        arrays |= {f"without_{part}": array[rows] for part, array in snapshot.without.items()}
        frames = vectors.frames
        of_frames = (None,) * 3 if frames is None else (frames.vectors, frames.times, frames.counts)
        yield ExportedVectors(ids, arrays, *of_frames)
