"""Content of an index for an export, video by video: the one place that asks the index for it.

Shapes: N entries, E width of the common space, F frames.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.export.schema import VectorKinds
from retrieval.index.records import ContentStamp
from retrieval.index.store import StoreReader
from retrieval.index.words import fold_formerly, get_words, list_index_words
from retrieval.results import TextTrack, Video
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
    vectors = snapshot.vectors
    return VectorKinds(vectors.width, frozenset(vectors.parts), vectors.num_frames is not None)


def read_videos(reader: StoreReader, snapshot: Snapshot) -> Iterator[ExportedVideo]:
    """Yield the videos of one commit, by id; the lines of one of them are in memory at a time.

    Raises ``DamagedIndexError``.
    """
    snapshot.vectors.check()
    stamps = {known.id: known.stamp for known in reader.read_known_videos().values()}
    for video in reader.read_videos().values():
        entries = reader.list_entries(video.id)
        lines = reader.read_video_tracks(video.id)
        positions = defaultdict(list)
        for position, line in enumerate(lines):
            positions[line].append(position)
        places = []
        for entry, *_ in entries:
            seen: Counter[TextTrack] = Counter()  # lines that are equal stand for one another
            for line in reader.read_tracks(entry):
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
        vectors = snapshot.vectors
        taken = vectors.take(rows)
        arrays = {"vector": taken.windows}
        arrays |= {f"without_{part}": vectors.read_without(part, rows) for part in vectors.parts}
        frames = taken.frames
        of_frames = (None,) * 3 if frames is None else (frames.vectors, frames.times, frames.counts)
        yield ExportedVectors(ids, arrays, *of_frames)
