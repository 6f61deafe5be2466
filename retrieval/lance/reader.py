"""Reading one commit of an index in LanceDB: see ``retrieval.index.store.StoreReader``.

Shapes: N rows (one an entry, by id), P places of a word, K asked for.
"""

import json
import os
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingFileError
from retrieval.index.records import EntryTable, KnownVideo, Line, Postings
from retrieval.index.store import Word
from retrieval.lance.database import list_in, quote
from retrieval.lance.schema import (
    ENTRIES,
    LINES,
    POSTINGS,
    WORDS,
    parse_stamp,
    read_lists,
)
from retrieval.lance.vectors import LanceVectors, ResidentVectors
from retrieval.lance.view import CommitView
from retrieval.results import Box, Entry, TextTrack, TrackKind, Video

if TYPE_CHECKING:
    import pyarrow as pa

_TRIGRAM = 3
_MOST_NAMED = 2000  # ids that one condition names
_LATEST = 4096  # lines that are looked through at a time for the last ones


class LanceReader:
    """A commit, read by one thread at a time.

    Args:
        meta: of the commit, which may differ from the view's where the tables don't.
    """

    has_reduced = True

    def __init__(self, view: CommitView, meta: dict[str, Any], resident: ResidentVectors) -> None:
        self._view, self.meta, self._resident = view, meta, resident
        self.state: object = view

    def open_vectors(self) -> LanceVectors:
        """Return the vectors, which stay those of this commit."""
        return LanceVectors(self._view, self._resident)

    def read_ids(self) -> NDArray:
        """Return the entry (N,) int64 of each row, ascending."""
        return self._view.entries.ids

    def read_dead_rows(self) -> NDArray:
        """Return no rows: those of videos that are gone are deleted at once."""
        return np.zeros(0, dtype=np.int64)

    def read_entry_table(self) -> EntryTable:
        """Return where the entry of each row is."""
        entries = self._view.entries
        return EntryTable(entries.videos, entries.starts, entries.ends)

    def find_rows_within(self, folder: str) -> NDArray:
        """Return the rows (M,) int64 of the entries in a folder and below."""
        start = os.fsencode(folder) + b"/"
        videos = self._view.videos
        inside = [path.startswith(start) for path in videos["path"].to_pylist()]
        ids = videos["id"].to_numpy()[np.array(inside, dtype=bool)]
        return np.flatnonzero(np.isin(self._view.entries.videos, ids))

    def read_videos(self) -> dict[int, Video]:
        """Return all videos by id, ascending."""
        return {video.id: video for video in _build_videos(self._view.videos)}

    def read_known_videos(self) -> dict[str, KnownVideo]:
        """Return all videos by path, with their stamps."""
        return list_known_videos(self._view.videos)

    def read_video(self, video_id: int) -> Video | None:
        """Return a video; None where there is no such one."""
        videos = self._view.videos
        ids = videos["id"].to_numpy()
        row = int(np.searchsorted(ids, video_id)) if abs(video_id) < 1 << 62 else len(ids)
        if row == len(ids) or ids[row] != video_id:
            return None
        return _build_videos(videos.slice(row, 1))[0]

    def find_video(self, path: str) -> Video | None:
        """Return the video with this path; None where there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        videos = self._view.videos
        found = pc.index(videos["path"], pa.scalar(os.fsencode(path), pa.binary())).as_py()
        return None if found < 0 else _build_videos(videos.slice(found, 1))[0]

    def read_entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return entries by their ids."""
        entries = self._view.entries
        wanted = np.array([entry for entry in ids if abs(entry) < 1 << 62], dtype=np.int64)
        rows, found = entries.find_rows(np.unique(wanted))
        if not len(rows):
            return {}
        videos = self._view.videos
        places, inverse = np.unique(
            np.searchsorted(videos["id"].to_numpy(), entries.videos[rows]), return_inverse=True
        )
        of_rows = _build_videos(videos.take(places))
        return {
            entry: Entry(
                entry, video.video, start, end, video.duration_s, video.width, video.height
            )
            for entry, start, end, video in zip(
                found.tolist(),
                entries.starts[rows].tolist(),
                entries.ends[rows].tolist(),
                (of_rows[place] for place in inverse.tolist()),
                strict=True,
            )
        }

    def list_entries(self, video_id: int) -> list[tuple[int, float, float]]:
        """Return id, start and end of each entry of a video, by id."""
        entries = self._view.entries
        rows = np.flatnonzero(entries.videos == video_id)
        columns = entries.ids[rows], entries.starts[rows], entries.ends[rows]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def count_videos(self) -> int:
        """Return how many videos there are."""
        return self._view.videos.num_rows

    def read_words(self) -> list[Word]:
        """Return all distinct words, by id."""
        found = self._view.open(WORDS).read(["id", "text", "reduced"]).sort_by("id")
        return list(zip(*(column.to_pylist() for column in found.columns), strict=True))

    def find_words_containing(
        self, text: str, reduced: str, by_pieces: bool, limit: int
    ) -> list[Word]:
        """Return the words that contain a text; see the protocol for which."""
        if by_pieces and len(reduced) < _TRIGRAM:
            # All of a text of such a script are pieces: where it stands, one begins with it.
            where = _contain_reduced(reduced)
        elif len(text) == 1 and text.isascii():
            where = f"text = {quote(text)}"
        elif len(text) < _TRIGRAM:
            where = f"contains(text, {quote(text)})"
        else:
            parts = sorted({part for part in (text, reduced) if len(part) >= _TRIGRAM})
            columns = [f"contains({c}, {quote(p)})" for p in parts for c in ("text", "reduced")]
            where = " OR ".join(columns)
        return self._find_words(where, limit, by_reduced=True)

    def find_words_with_pieces(self, pieces: Sequence[str], least: int, limit: int) -> list[Word]:
        """Return the words whose reduced forms have at least ``least`` of these pieces."""
        if not pieces:
            return []
        any_of = " OR ".join(map(_contain_reduced, pieces))
        found = self._find_words(any_of, None, by_reduced=False)
        forms = ((word, word[1] if word[2] is None else word[2]) for word in found)
        enough = [word for word, form in forms if sum(p in form for p in pieces) >= least]
        return enough[:limit]

    def _find_words(self, where: str, limit: int | None, by_reduced: bool) -> list[Word]:
        """Return the words that fit a condition, the shortest first, then by id."""
        found = self._view.open(WORDS).read(["id", "text", "reduced"], where)
        words = list(zip(*(column.to_pylist() for column in found.columns), strict=True))

        def order(word: Word) -> tuple[int, int]:
            form = word[1] if word[2] is None or not by_reduced else word[2]
            return len(form), word[0]

        return sorted(words, key=order)[:limit]

    def read_postings(self, words: Sequence[int]) -> dict[int, Postings]:
        """Return where each word (by id) stands: by entry, then by line."""
        found = self._read_places("word_id", words)
        order = np.lexsort((found[2], found[1], found[0]))
        of_word, entries, lines = (column[order] for column in found)
        firsts = np.searchsorted(of_word, words, side="left")
        stops = np.searchsorted(of_word, words, side="right")
        return {
            word: Postings(entries[first:stop], lines[first:stop])
            for word, first, stop in zip(words, firsts, stops, strict=True)
        }

    def _read_places(
        self, column: str, values: Sequence[int], more: str = ""
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return words, entries and lines (P,) of the places that have these in a column."""
        table, parts = self._view.open(POSTINGS), []
        for first in range(0, len(values), _MOST_NAMED):
            where = list_in(column, values[first : first + _MOST_NAMED]) + more
            parts.append(table.read(["word_id", "entry_id", "line_id"], where))
        columns = [
            np.concatenate([np.zeros(0, np.int64), *(part[name].to_numpy() for part in parts)])
            for name in ("word_id", "entry_id", "line_id")
        ]
        return columns[0], columns[1], columns[2]

    def find_together(self, pieces: Sequence[Sequence[int]], most: int) -> set[tuple[int, int]]:
        """Return the (entry, line) places where a word of each list of words stands."""
        if not all(pieces):
            return set()
        table = self._view.open(POSTINGS)
        counts = [table.count(list_in("word_id", words)) for words in pieces]
        order = sorted(range(len(pieces)), key=counts.__getitem__)
        if counts[order[0]] > most:
            return set()
        places: set[tuple[int, int]] | None = None
        for number in order:
            more = ""
            if places is not None:
                if not places:
                    break
                if counts[number] > most:
                    more = f" AND {list_in('entry_id', sorted({entry for entry, _ in places}))}"
            _, entries, lines = self._read_places("word_id", pieces[number], more)
            own = set(zip(entries.tolist(), lines.tolist(), strict=True))
            places = own if places is None else places & own
        return places or set()

    def find_lines_with_words(self, words: Sequence[str]) -> Postings:
        """Return the places (P,) of lines that have all of these words, by entry, then by line."""
        distinct = list(dict.fromkeys(words))
        texts = ", ".join(map(quote, distinct))
        found = self._view.open(WORDS).read(["id"], f"text IN ({texts})")["id"].to_pylist()
        nothing = np.zeros(0, dtype=np.int64)
        if len(found) < len(distinct):
            return Postings(nothing, nothing)
        places = self.find_together([[word] for word in found], most=np.iinfo(np.int64).max)
        columns = np.array(sorted(places), dtype=np.int64).reshape(-1, 2).T
        return Postings(*np.ascontiguousarray(columns))

    def read_lines(self, ids: Sequence[int]) -> dict[int, Line]:
        """Return lines of text by their ids."""
        columns = ["id", "text", "start_s", "end_s", "kind", "boxes"]
        found = {}
        for part in self._read_lines(columns, ids):
            values = (part[name].to_pylist() for name in columns[:-1])
            rows = zip(*values, read_lists(part["boxes"], 5), strict=True)
            found |= {line: Line(*own) for line, *own in rows}
        return found

    def _read_lines(self, columns: Sequence[str], ids: Sequence[int]) -> "list[pa.Table]":
        table = self._view.open(LINES)
        return [
            table.read(columns, list_in("id", ids[first : first + _MOST_NAMED]))
            for first in range(0, len(ids), _MOST_NAMED)
        ]

    def read_name_lines(self) -> NDArray:
        """Return the ids (M,) int64 of the lines that are names of videos, ascending."""
        found = self._view.open(LINES).read(["id"], "kind = 'name'")
        return np.sort(found["id"].to_numpy())

    def read_tracks(self, entry_id: int) -> list[TextTrack]:
        """Return the lines that are seen or said within an entry, and its video's name."""
        if abs(entry_id) >= 1 << 62:
            return []
        found = self._view.open(POSTINGS).read(["line_id"], f"entry_id = {entry_id}")
        lines = np.unique(found["line_id"].to_numpy()).tolist()
        return _build_tracks(self._read_lines(_TRACK_COLUMNS, lines))

    def read_video_tracks(self, video_id: int) -> list[TextTrack]:
        """Return all lines of a video, and its name, by time, then by id."""
        where = f"video_id = {video_id}"
        return _build_tracks([self._view.open(LINES).read(_TRACK_COLUMNS, where)])

    def find_videos_with_text(self) -> frozenset[int]:
        """Return the ids of the videos in which anything is read or said."""
        videos: set[int] = set()
        for batch in self._view.open(LINES).scan(["video_id"], "kind != 'name'", rows=1 << 16):
            videos.update(np.unique(batch.column("video_id").to_numpy()).tolist())
        return frozenset(videos)

    def read_clear_lines(
        self, video_id: int, min_score: float, max_letters: int, limit: int
    ) -> list[str]:
        """Return lines that were read in a video with at least this confidence, clearest first."""
        where = f"video_id = {video_id} AND kind = 'read' AND score >= {min_score}"
        found = self._view.open(LINES).read(["id", "text", "score"], where).to_pylist()
        found = [line for line in found if len(line["text"]) <= max_letters]
        found.sort(key=lambda line: (-_round(line["score"]), -len(line["text"]), line["id"]))
        return [line["text"] for line in found[:limit]]

    def read_latest_lines(self, min_score: float, limit: int) -> list[tuple[int, str, TrackKind]]:
        """Return video, text and kind of the last lines that are read or said, the last first."""
        table, last = self._view.open(LINES), self._view.commit.next_ids[LINES]
        found: list[dict[str, Any]] = []
        size = max(_LATEST, limit)
        while last > 1 and len(found) < limit:
            first = max(1, last - size)
            where = f"id >= {first} AND id < {last} AND score >= {min_score} AND kind != 'name'"
            part = table.read(["id", "video_id", "text", "kind"], where).sort_by("id")
            found += reversed(part.to_pylist())
            last, size = first, 4 * size
        return [(line["video_id"], line["text"], line["kind"]) for line in found[:limit]]

    def read_thumbnail(self, entry_id: int) -> bytes:
        """Return the picture of an entry, a JPEG; raises ``MissingFileError``."""
        found = []
        if abs(entry_id) < 1 << 62:
            table = self._view.open(ENTRIES)
            found = table.read(["thumbnail"], f"id = {entry_id}")["thumbnail"].to_pylist()
        if not found or not found[0]:
            raise MissingFileError(
                f"{self._view.database.location}: the thumbnail of entry {entry_id} is missing"
            )
        return found[0]


_TRACK_COLUMNS = ["id", "text", "score", "start_s", "end_s", "kind", "boxes"]


def _build_tracks(parts: "Sequence[pa.Table]") -> list[TextTrack]:
    """Return lines by time, then by id."""
    rows = []
    for part in parts:
        values = (part[name].to_pylist() for name in _TRACK_COLUMNS[:-1])
        rows += zip(*values, read_lists(part["boxes"], 5), strict=True)
    tracks = []
    for _, text, score, start_s, end_s, kind, boxes in sorted(
        rows, key=lambda row: (row[3], row[0])
    ):
        timed = tuple((time, Box(*corners)) for time, *corners in boxes.tolist())
        mean = Box(*boxes[:, 1:].mean(axis=0).tolist()) if len(boxes) else None
        tracks.append(TextTrack(text, score, start_s, end_s, mean, timed, kind))
    return tracks


def _build_videos(rows: "pa.Table") -> list[Video]:
    columns = ("id", "path", "duration_s", "width", "height", "stamp")
    values = (rows[name].to_pylist() for name in columns)
    return [
        Video(number, os.fsdecode(path), *size, json.loads(stamp).get("mtime_ns", 0) / 1e9)
        for number, path, *size, stamp in zip(*values, strict=True)
    ]


def list_known_videos(rows: "pa.Table") -> dict[str, KnownVideo]:
    """Return videos, given as rows of their table, by path."""
    values = (rows[name].to_pylist() for name in ("id", "path", "stamp", "ocr_stamp"))
    return {
        os.fsdecode(path): KnownVideo(number, parse_stamp(stamp), parse_stamp(ocr))
        for number, path, stamp, ocr in zip(*values, strict=True)
    }


def _contain_reduced(text: str) -> str:
    """Return the condition that the reduced form of a word contains a text."""
    return (
        f"(contains(reduced, {quote(text)}) OR (reduced IS NULL AND contains(text, {quote(text)})))"
    )


def _round(score: float) -> Decimal:
    """Return a confidence in tenths, by its decimals: 0.85 is 0.9."""
    return Decimal(repr(score)).quantize(Decimal("0.1"), ROUND_HALF_UP)
