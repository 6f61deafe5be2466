"""Snapshot of an index: one state of its arrays, and what searches look up in the database.

Shapes: N rows, E width of the common space, M found, W words.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

from retrieval.errors import UnknownEntryError
from retrieval.index.ann import AnnIndex
from retrieval.index.arrays import IDS, WITHOUT, map_array, map_vectors
from retrieval.index.writer import query_encoder_folder
from retrieval.results import Box, Entry, TextTrack, Video
from retrieval.search.calibration import MIN_ENTRIES, Calibration
from utils.batching import Batcher
from utils.errors import UserError

if TYPE_CHECKING:
    from retrieval.search.word_vectors import SimilarWords

MAX_CACHED = 4_000_000  # ids of entries, 8 bytes each
MAX_TOGETHER = 8  # queries that are compared with all vectors at a time
MAX_LETTERS = 32  # of a word that fuzzy search compares
_MAX_VALUES = 900  # of one statement, which SQLite limits


class Snapshot:
    """The arrays of one commit, and what searches have looked up in it.

    Any number of threads may use it at once, each with a connection of its own within a transaction
    that sees that commit. What one finds is kept for the others. No thread waits while another
    reads the database, except for the vocabulary, the FAISS index and the calibration, which are
    made once.

    Attributes:
        number: of the commit.
        model: identity of the model, see ``retrieval.index.identity``; None: words only.
        query_encoder: folder and checksum of its query encoder; None: words only.
        vectors: of all rows, mapped; dead rows are among them.
        embeddings: (N, E) float32 of length 1, those of the windows. Of an index of words only E is
            0.
        ids: (N,) int64: row -> entry.
        without: ``vision`` and ``ocr`` -> (N, E) float32 of length 1, where the model fuses.
        dead: rows of videos that are gone.
        num_entries: N without the dead ones.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], connection: sqlite3.Connection) -> None:
        self.folder, self.number = folder, meta["commits"]
        self.model: dict[str, Any] | None = meta.get("model")
        self.query_encoder: tuple[Path, str] | None = None
        if self.model is not None:
            self.query_encoder = query_encoder_folder(folder, meta), meta["query_encoder"]
        self._ann: dict[str, Any] | AnnIndex | None = meta.get("ann")
        self.vectors = map_vectors(folder, meta)
        self.embeddings = self.vectors.windows
        self.without = {part: map_array(folder, meta, WITHOUT[part]) for part in meta["leaves_out"]}
        self.ids = np.asarray(map_array(folder, meta, IDS))
        dead = connection.execute("SELECT row FROM dead_rows").fetchall()
        self.dead = np.array(dead, dtype=np.int64).ravel()
        self.num_entries = meta["num_rows"] - len(self.dead)
        self._scores = Batcher(self.vectors.score_together, MAX_TOGETHER)
        self._load_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._calibration: Calibration | None = None
        self._vocabulary: Vocabulary | None = None
        self._similar_words: SimilarWords | None = None
        self._entries: dict[int, NDArray] = {}
        self._num_cached = 0
        self._folders: dict[str, NDArray] = {}

    def score_all(self, query: NDArray) -> NDArray:
        """Return the score (N,) of every row, dead or alive, for a query (E,) of length 1.

        What takes time is to read the vectors; so they are read once for all threads that wait.
        """
        return self._scores.ask(query)

    def load_ann(self) -> AnnIndex | None:
        """Return the FAISS index, read when it is first needed; None where there is none."""
        with self._load_lock:
            if isinstance(self._ann, dict):
                self._ann = AnnIndex(self.folder / self._ann["file"], self._ann["num_rows"])
            return self._ann

    def load_calibration(self, unrelated: NDArray) -> Calibration | None:
        """Return what similarities say, made when it is first needed; None with too few entries.

        Args:
            unrelated: embeddings (U, E) of texts that have nothing to do with the videos.
        """
        if self.num_entries < MIN_ENTRIES:
            return None
        with self._load_lock:
            if self._calibration is None:
                alive = np.setdiff1d(np.arange(len(self.ids)), self.dead)
                self._calibration = Calibration(self.vectors, alive, unrelated)
            return self._calibration

    def load_vocabulary(self, connection: sqlite3.Connection) -> "Vocabulary":
        """Return the distinct words, read when they are first needed."""
        with self._load_lock:
            if self._vocabulary is None:
                rows = connection.execute("SELECT id, text FROM words").fetchall()
                self._vocabulary = Vocabulary(rows)
            return self._vocabulary

    def load_similar_words(self, connection: sqlite3.Connection) -> "SimilarWords":
        """Return the distinct words by their meaning, made when they are first needed.

        Raises ``UserError`` where the vectors are not installed.
        """
        from retrieval.search.word_vectors import SimilarWords

        words = self.load_vocabulary(connection).words
        with self._load_lock:
            if self._similar_words is None:
                self._similar_words = SimilarWords(words)
            return self._similar_words

    def find_entries(
        self, connection: sqlite3.Connection, words: Sequence[int]
    ) -> dict[int, NDArray]:
        """Return the ids of the entries that have each word, ascending."""
        with self._cache_lock:
            found = {word: self._entries[word] for word in words if word in self._entries}
        missing = [word for word in words if word not in found]
        if missing:
            fresh = read_postings(connection, missing)
            with self._cache_lock:
                self._entries |= fresh
                self._num_cached += sum(map(len, fresh.values()))
                if self._num_cached > MAX_CACHED:
                    self._entries, self._num_cached = {}, 0
            found |= fresh
        return found

    def find_rows(self, connection: sqlite3.Connection, folder: str) -> NDArray:
        """Return the rows (M,) of the entries in a folder and below; ``UserError`` without any."""
        if folder not in self._folders:
            inside = os.fsencode(folder.strip("/")) + b"/"
            rows = connection.execute(
                "SELECT entries.row FROM videos JOIN entries ON entries.video_id = videos.id "
                "WHERE videos.path >= ? AND videos.path < ?",
                (inside, inside[:-1] + b"0"),  # "0" comes after "/"
            ).fetchall()
            if not rows:
                raise UserError(f"{folder}: the index has no video in such a folder")
            self._folders[folder] = np.array(rows, dtype=np.int64).ravel()
        return self._folders[folder]

    def find_rows_of(self, ids: NDArray) -> NDArray:
        """Return the rows (M,) of entries (M,) of the index; later entries have later rows."""
        return np.searchsorted(self.ids, ids)


def select_in(
    connection: sqlite3.Connection, query: str, values: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query that ends with a column, for these values of the column."""
    for first in range(0, len(values), _MAX_VALUES):
        part = values[first : first + _MAX_VALUES]
        yield from connection.execute(f"{query} IN ({', '.join('?' * len(part))})", part)


def read_postings(connection: sqlite3.Connection, words: Sequence[int]) -> dict[int, NDArray]:
    """Read the ids of the entries that have each word (by its id), ascending."""
    query = "SELECT DISTINCT entry_id FROM postings WHERE word_id = ? ORDER BY entry_id"
    found = {word: connection.execute(query, (word,)).fetchall() for word in words}
    return {word: np.array(rows, dtype=np.int64).ravel() for word, rows in found.items()}


def read_entry(connection: sqlite3.Connection, entry_id: int) -> tuple[Entry, int]:
    """Return an entry and the row of its embedding; raises ``UnknownEntryError``."""
    found = None
    if isinstance(entry_id, int) and abs(entry_id) < 1 << 63:  # SQLite has no larger numbers
        found = connection.execute(
            "SELECT path, start_s, end_s, duration_s, width, height, row FROM entries "
            "JOIN videos ON videos.id = entries.video_id WHERE entries.id = ?",
            (entry_id,),
        ).fetchone()
    if found is None:
        raise UnknownEntryError(f"{entry_id}: the index has no such entry (any more); search again")
    path, *values, row = found
    return Entry(entry_id, os.fsdecode(path), *values), row


def read_video(connection: sqlite3.Connection, column: str, value: int | bytes) -> Video:
    """Return the video of an ``id`` or a ``path``; raises ``UnknownEntryError``."""
    assert column in ("id", "path")
    found = None
    if isinstance(value, bytes) or abs(value) < 1 << 63:  # SQLite has no larger numbers
        found = connection.execute(
            f"SELECT id, path, duration_s, width, height, stamp FROM videos WHERE {column} = ?",
            (value,),
        ).fetchone()
    if found is None:
        name = os.fsdecode(value) if isinstance(value, bytes) else value
        raise UnknownEntryError(f"{name}: the index has no such video (any more); search again")
    video_id, path, *values, stamp = found
    modified_s = json.loads(stamp)["mtime_ns"] / 1e9
    return Video(video_id, os.fsdecode(path), *values, modified_s)


def read_tracks(connection: sqlite3.Connection, entry_id: int) -> list[TextTrack]:
    """Return the lines that are seen or said within an entry, by time, and its video's name."""
    return _read_tracks(
        connection, "id IN (SELECT track_id FROM postings WHERE entry_id = ?)", entry_id
    )


def read_video_tracks(connection: sqlite3.Connection, video_id: int) -> list[TextTrack]:
    """Return all lines of a video, by time, and its name."""
    return _read_tracks(connection, "video_id = ?", video_id)


def _read_tracks(connection: sqlite3.Connection, condition: str, value: int) -> list[TextTrack]:
    rows = connection.execute(
        "SELECT text, score, start_s, end_s, boxes, kind FROM tracks "
        f"WHERE {condition} ORDER BY start_s, id",
        (value,),
    )
    tracks = []
    for *values, blob, kind in rows:
        boxes = np.frombuffer(blob, dtype=np.float32).reshape(-1, 5)  # time and corners
        timed = tuple((time, Box(*corners)) for time, *corners in boxes.tolist())
        mean = Box(*boxes[:, 1:].mean(axis=0).tolist()) if len(boxes) else None
        tracks.append(TextTrack(*values, mean, timed, kind))
    return tracks


class Vocabulary:
    """The distinct words of an index, given as (id, folded text), for fuzzy search."""

    def __init__(self, words: Sequence[tuple[int, str]]) -> None:
        self.words = [word for word in words if len(word[1]) <= MAX_LETTERS]
        texts = [text for _, text in self.words]
        self._lengths = np.array([len(text) for text in texts], dtype=np.int16)
        self._letters = _list_letters(texts)

    def find_similar(self, text: str, max_distance: int) -> list[tuple[int, str, int]]:
        """Return (id, word, distance) of the words at a distance of 1 … ``max_distance``.

        The edit distance counts other, missing and extra letters, and neighbours that are swapped
        (optimal string alignment).
        """
        if not max_distance or not self.words or len(text) > MAX_LETTERS:
            return []
        # Their lengths and letters exclude most words, before edit distances are computed.
        near = np.abs(self._lengths - len(text)) <= max_distance
        # An edit takes one letter out of the set of letters, puts one in, or both.
        other = _list_letters([text])[0] ^ self._letters
        near &= np.bitwise_count(other) <= 2 * max_distance
        found = []
        for position in np.flatnonzero(near):
            word_id, word = self.words[position]
            distance = OSA.distance(text, word, score_cutoff=max_distance)
            if 0 < distance <= max_distance:
                found.append((word_id, word, distance))
        return found


def _list_letters(texts: Sequence[str]) -> NDArray:
    """Return (W,) uint64: which letters each text has, by code modulo 64."""
    if not texts:
        return np.zeros(0, dtype=np.uint64)
    codes = np.array(texts, dtype=f"<U{MAX_LETTERS}").view("<u4").reshape(len(texts), MAX_LETTERS)
    bits = np.left_shift(np.uint64(1), (codes % 64).astype(np.uint64))
    return np.bitwise_or.reduce(np.where(codes > 0, bits, np.uint64(0)), axis=1)
