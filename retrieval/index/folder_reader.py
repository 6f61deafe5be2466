"""Reading an index folder: all that searches, updates and exports look up in its database."""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingFileError
from retrieval.index import database
from retrieval.index.checksums import VALUES
from retrieval.index.layout import thumbnail_file
from retrieval.index.mapped_vectors import MappedVectors
from retrieval.index.records import EntryTable, KnownVideo, Line, Postings
from retrieval.index.store import Word
from retrieval.results import Box, Entry, TextTrack, TrackKind, Video
from utils.files import open_resolved

_MAX_VALUES = 900  # of one statement, which SQLite limits
_AFTER_ALL = "\U0010ffff"  # comes after all texts that begin with the same
_TRIGRAM = 3
_VIDEO = "SELECT id, path, duration_s, width, height, stamp FROM videos"
_WORD = "SELECT words.id, words.text, words.reduced FROM"


class FolderReader:
    """A connection to the database of an index folder, used for one transaction after another.

    What a lookup returns is said by ``retrieval.index.store.StoreReader``.

    Attributes:
        identity: what tells the file of the database from others.
        vectors: those of the commit that is read.
    """

    meta: dict[str, Any]
    state: object
    has_reduced: bool
    vectors: MappedVectors

    def __init__(self, folder: Path, identity: tuple[int, int] | None) -> None:
        self.folder, self.identity = folder, identity
        self.connection = database.connect(folder)

    def begin(self) -> None:
        """Begin a transaction, which sees the last commit."""
        self.connection.execute("BEGIN")
        self.meta = database.read_meta(self.connection)
        # Of another index, too, although it may have as many commits; what is embedded for the
        # model that comes next is none of a search's business.
        self.state = self.identity, {**self.meta, "successor": None, VALUES: None}
        self.has_reduced = database.read_version(self.connection) >= 4

    def open_vectors(self) -> MappedVectors:
        """Return the vectors, which are mapped already."""
        return self.vectors

    # Entries and videos

    def read_ids(self) -> NDArray:
        """Return the entry (N,) of each row."""
        return self.vectors.ids

    def read_dead_rows(self) -> NDArray:
        """Return the rows (M,) of videos that are gone."""
        return self._read_column("SELECT row FROM dead_rows")

    def read_entry_table(self) -> EntryTable:
        """Return where the entry of each row is."""
        rows = self.connection.execute("SELECT row, video_id, start_s, end_s FROM entries")
        found = np.array(rows.fetchall(), dtype=np.float64).reshape(-1, 4)
        columns = np.zeros((3, self.vectors.num_rows))
        columns[:, found[:, 0].astype(np.int64)] = found[:, 1:].T
        return EntryTable(columns[0].astype(np.int64), columns[1], columns[2])

    def find_rows_within(self, folder: str) -> NDArray:
        """Return the rows (M,) of the entries in a folder and below."""
        inside = os.fsencode(folder)
        return self._read_column(
            "SELECT entries.row FROM videos JOIN entries ON entries.video_id = videos.id "
            "WHERE videos.path >= ? AND videos.path < ?",
            (inside + b"/", inside + b"0"),  # "0" comes after "/"
        )

    def read_videos(self) -> dict[int, Video]:
        """Return all videos by id."""
        rows = self.connection.execute(f"{_VIDEO} ORDER BY id")
        return {row[0]: _make_video(*row) for row in rows}

    def read_known_videos(self) -> dict[str, KnownVideo]:
        """Return all videos by path, with their stamps."""
        return database.read_videos(self.connection)

    def read_video(self, video_id: int) -> Video | None:
        """Return a video, where there is one."""
        if not _is_id(video_id):
            return None
        row = self.connection.execute(f"{_VIDEO} WHERE id = ?", (video_id,)).fetchone()
        return None if row is None else _make_video(*row)

    def find_video(self, path: str) -> Video | None:
        """Return the video with this path, where there is one."""
        row = self.connection.execute(f"{_VIDEO} WHERE path = ?", (os.fsencode(path),)).fetchone()
        return None if row is None else _make_video(*row)

    def read_entries(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return entries by their ids."""
        columns = "SELECT entries.id, path, start_s, end_s, duration_s, width, height FROM entries "
        columns += "JOIN videos ON videos.id = entries.video_id WHERE entries.id"
        return {
            number: Entry(number, os.fsdecode(path), *values)
            for number, path, *values in self._select_in(columns, ids)
        }

    def list_entries(self, video_id: int) -> list[tuple[int, float, float]]:
        """Return id, start and end of each entry of a video."""
        query = "SELECT id, start_s, end_s FROM entries WHERE video_id = ? ORDER BY id"
        return self.connection.execute(query, (video_id,)).fetchall()

    def read_thumbnail(self, entry_id: int) -> bytes:
        """Return the picture of an entry."""
        file = thumbnail_file(Path(os.path.realpath(self.folder)), entry_id)
        if not os.path.isfile(file):
            raise MissingFileError(
                f"{file}: the thumbnail is missing; index.py --repair makes it anew"
            )
        try:
            with open_resolved(file) as opened:
                return opened.readall()
        except OSError as error:
            raise MissingFileError(f"{file.name}: can't be read ({error.strerror})") from error

    # Words

    def read_words(self) -> list[Word]:
        """Return all distinct words."""
        rows = self.connection.execute("SELECT id, text FROM words").fetchall()  # by their index
        reduced = dict(
            self.connection.execute("SELECT id, reduced FROM words WHERE reduced IS NOT NULL")
        )
        return [(number, text, reduced.get(number)) for number, text in rows]

    def find_words_containing(
        self, text: str, reduced: str, by_pieces: bool, limit: int
    ) -> list[Word]:
        """Return the words that contain a text, shortest first."""
        shortest = "ORDER BY length(ifnull(words.reduced, words.text)) LIMIT ?"
        if by_pieces and len(reduced) < _TRIGRAM:
            rows = self.connection.execute(
                f"{_WORD} words WHERE id IN "
                f"(SELECT word_id FROM pieces WHERE piece >= ? AND piece < ?) {shortest}",
                (reduced, reduced + _AFTER_ALL, limit),
            )
        elif len(text) == 1 and text.isascii():
            rows = self.connection.execute(f"{_WORD} words WHERE text = ?", (text,))
        elif len(text) < _TRIGRAM:  # too short for the index of trigrams
            statement = f"{_WORD} words WHERE instr(text, ?) {shortest}"
            rows = self.connection.execute(statement, (text, limit))
        else:
            parts = {part for part in (text, reduced) if len(part) >= _TRIGRAM}
            wanted = " OR ".join('"' + part.replace('"', '""') + '"' for part in parts)
            rows = self.connection.execute(
                f"{_WORD} words_fts JOIN words ON words.id = words_fts.rowid "
                f"WHERE words_fts MATCH ? {shortest}",
                (wanted, limit),
            )
        return rows.fetchall()

    def find_words_with_pieces(self, pieces: Sequence[str], least: int, limit: int) -> list[Word]:
        """Return the words that have at least ``least`` of these pieces, shortest first."""
        return self.connection.execute(
            f"{_WORD} words WHERE id IN (SELECT word_id FROM pieces "
            f"WHERE piece IN ({_list_marks(pieces)}) GROUP BY word_id HAVING COUNT(*) >= ?) "
            "ORDER BY length(text) LIMIT ?",
            (*pieces, least, limit),
        ).fetchall()

    def read_postings(self, words: Sequence[int]) -> dict[int, Postings]:
        """Return where each word stands."""
        query = "SELECT entry_id, track_id FROM postings WHERE word_id = ? "
        query += "ORDER BY entry_id, track_id"
        return {word: _make_postings(self.connection.execute(query, (word,))) for word in words}

    def find_together(self, pieces: Sequence[Sequence[int]], most: int) -> set[tuple[int, int]]:
        """Return the places where a word of each list of words stands."""
        chosen = [f"word_id IN ({', '.join(map(str, words))})" for words in pieces]
        counts = [
            self.connection.execute(
                f"SELECT COUNT(*) FROM (SELECT 1 FROM postings WHERE {of_piece} LIMIT ?)",
                (most + 1,),
            ).fetchone()[0]
            for of_piece in chosen
        ]
        if min(counts) > most:
            return set()
        rarest = counts.index(min(counts))
        others = "".join(
            " AND EXISTS (SELECT 1 FROM postings AS other WHERE other.entry_id = own.entry_id "
            f"AND other.track_id = own.track_id AND other.{of_piece})"
            for number, of_piece in enumerate(chosen)
            if number != rarest
        )
        statement = f"SELECT entry_id, track_id FROM postings AS own WHERE {chosen[rarest]}{others}"
        return set(self.connection.execute(statement))

    def find_lines_with_words(self, words: Sequence[str]) -> Postings:
        """Return the places of lines that have all of these words."""
        of_word = (
            "SELECT entry_id, track_id FROM postings "
            "WHERE word_id = (SELECT id FROM words WHERE text = ?)"
        )
        statement = " INTERSECT ".join([of_word] * len(words))
        return _make_postings(self.connection.execute(statement, words))

    # Lines of text

    def read_lines(self, ids: Sequence[int]) -> dict[int, Line]:
        """Return lines of text by their ids."""
        columns = "SELECT id, text, start_s, end_s, kind, boxes FROM tracks WHERE id"
        return {
            track: Line(*values, _read_boxes(blob), not self.has_reduced)
            for track, *values, blob in self._select_in(columns, ids)
        }

    def read_name_lines(self) -> NDArray:
        """Return the ids (M,) of the lines that are names of videos."""
        return self._read_column("SELECT id FROM tracks WHERE kind = 'name' ORDER BY id")

    def read_tracks(self, entry_id: int) -> list[TextTrack]:
        """Return the lines that are seen or said within an entry, and its video's name."""
        return self._read_tracks(
            "id IN (SELECT track_id FROM postings WHERE entry_id = ?)", entry_id
        )

    def read_video_tracks(self, video_id: int) -> list[TextTrack]:
        """Return all lines of a video, and its name."""
        return self._read_tracks("video_id = ?", video_id)

    def find_videos_with_text(self) -> frozenset[int]:
        """Return the ids of the videos in which anything is read or said."""
        rows = self.connection.execute("SELECT DISTINCT video_id FROM tracks WHERE kind != 'name'")
        return frozenset(video for (video,) in rows)

    def read_clear_lines(
        self, video_id: int, min_score: float, max_letters: int, limit: int
    ) -> list[str]:
        """Return lines that were read with confidence in a video, the best first."""
        rows = self.connection.execute(
            "SELECT text FROM tracks WHERE video_id = ? AND kind = 'read' AND score >= ? "
            "AND length(text) <= ? ORDER BY round(score, 1) DESC, length(text) DESC, id LIMIT ?",
            (video_id, min_score, max_letters, limit),
        )
        return [text for (text,) in rows]

    def read_latest_lines(self, min_score: float, limit: int) -> list[tuple[int, str, TrackKind]]:
        """Return video, text and kind of the last lines that are read or said with confidence."""
        return self.connection.execute(
            "SELECT video_id, text, kind FROM tracks WHERE score >= ? AND kind != 'name' "
            "ORDER BY id DESC LIMIT ?",
            (min_score, limit),
        ).fetchall()

    def _read_tracks(self, condition: str, value: int) -> list[TextTrack]:
        rows = self.connection.execute(
            "SELECT text, score, start_s, end_s, boxes, kind FROM tracks "
            f"WHERE {condition} ORDER BY start_s, id",
            (value,),
        )
        tracks = []
        for *values, blob, kind in rows:
            boxes = _read_boxes(blob)
            timed = tuple((time, Box(*corners)) for time, *corners in boxes.tolist())
            mean = Box(*boxes[:, 1:].mean(axis=0).tolist()) if len(boxes) else None
            tracks.append(TextTrack(*values, mean, timed, kind))
        return tracks

    def _read_column(self, query: str, values: Sequence[Any] = ()) -> NDArray:
        """Return the integers (M,) that a query of one column finds."""
        rows = self.connection.execute(query, values).fetchall()
        return np.array(rows, dtype=np.int64).ravel()

    def _select_in(self, query: str, values: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that ends with a column of ids, for these ids."""
        values = [value for value in values if _is_id(value)]
        for first in range(0, len(values), _MAX_VALUES):
            part = values[first : first + _MAX_VALUES]
            yield from self.connection.execute(f"{query} IN ({_list_marks(part)})", part)


def _is_id(value: int) -> bool:
    return abs(value) < 1 << 63  # SQLite has no larger numbers


def _list_marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _make_video(number: int, path: bytes, *values: Any) -> Video:
    *size, stamp = values
    return Video(number, os.fsdecode(path), *size, json.loads(stamp).get("mtime_ns", 0) / 1e9)


def _make_postings(rows: sqlite3.Cursor) -> Postings:
    places = np.array(rows.fetchall(), dtype=np.int64).reshape(-1, 2)
    return Postings(*np.ascontiguousarray(places.T))


def _read_boxes(blob: bytes) -> NDArray:
    """Return time and corners (F, 5) of a line on each frame."""
    return np.frombuffer(blob, dtype=np.float32).reshape(-1, 5)
