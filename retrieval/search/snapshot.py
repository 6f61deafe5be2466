"""Snapshot of an index: one state of its arrays, and what searches look up in the database.

Shapes: N rows, E width of the common space, M found, W words.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

from retrieval.errors import UnknownEntryError
from retrieval.index.ann import AnnIndex
from retrieval.index.arrays import IDS, WITHOUT, map_array, map_vectors
from retrieval.index.database import read_version
from retrieval.index.layout import query_encoder_folder
from retrieval.index.records import EntryTable, Line, Postings
from retrieval.results import Box, Entry, TextTrack, Video
from retrieval.search.calibration import MIN_ENTRIES, Calibration
from retrieval.search.misreading import MIN_ALIKE, fold_lookalikes
from utils.batching import Batcher
from utils.errors import UserError
from utils.unicode_text import compose

if TYPE_CHECKING:
    from retrieval.search.word_vectors import SimilarWords

MAX_CACHED = 4_000_000  # places of words, 16 bytes each
MAX_KEPT = 4_000_000  # numbers of what terms match, 8 bytes each
MAX_TOGETHER = 8  # queries that are compared with all vectors at a time
MAX_LETTERS = 32  # of a word that fuzzy search compares, or that is looked for in pieces
MAX_CUTS = 50  # ways to cut a word into pieces: those whose shortest piece is the longest
_MAX_LISTED = 1000  # of them, of which these are chosen
_MAX_VALUES = 900  # of one statement, which SQLite limits

Kept = TypeVar("Kept")


class Snapshot:
    """The arrays of one commit, and what searches have looked up in it.

    Any number of threads may use it at once, each with a connection of its own within a transaction
    that sees that commit. What one finds is kept for the others. No thread waits while another
    reads the database, except for the vocabulary, the FAISS index and the calibration, which are
    made once.

    Attributes:
        number: of the commit.
        meta: the values of the table ``meta``.
        model: identity of the model, see ``retrieval.index.identity``; None: words only.
        query_encoder: folder and checksum of its query encoder; None: words only.
        vectors: of all rows, mapped; dead rows are among them.
        embeddings: (N, E) float32 of length 1, those of the windows. Of an index of words only E is
            0.
        ids: (N,) int64: row -> entry.
        without: ``vision`` and ``ocr`` -> (N, E) float32 of length 1, where the model fuses.
        dead: rows of videos that are gone.
        num_entries: N without the dead ones.
        has_reduced: whether it has the reduced forms of words (``retrieval.index.words``).
    """

    def __init__(self, folder: Path, meta: dict[str, Any], connection: sqlite3.Connection) -> None:
        self.folder, self.number, self.meta = folder, meta["commits"], meta
        self.model: dict[str, Any] | None = meta.get("model")
        self.query_encoder: tuple[Path, str] | None = None
        if self.model is not None:
            self.query_encoder = query_encoder_folder(folder, meta), meta["query_encoder"]
        self._ann: dict[str, Any] | AnnIndex | None = meta.get("ann")
        self.vectors = map_vectors(folder, meta)
        self.embeddings = self.vectors.windows
        self.without = {part: map_array(folder, meta, WITHOUT[part]) for part in meta["leaves_out"]}
        self.ids = np.asarray(map_array(folder, meta, IDS))
        # A model that came later has embedded the videos in another order, perhaps.
        is_sorted = bool((np.diff(self.ids) > 0).all())
        self._by_id = None if is_sorted else np.argsort(self.ids)
        dead = connection.execute("SELECT row FROM dead_rows").fetchall()
        self.dead = np.array(dead, dtype=np.int64).ravel()
        self.num_entries = meta["num_rows"] - len(self.dead)
        self.has_reduced = read_version(connection) >= 4
        self._scores = Batcher(self.vectors.score_together, MAX_TOGETHER)
        self._load_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._calibration: Calibration | None = None
        self._vocabulary: Vocabulary | None = None
        self._similar_words: SimilarWords | None = None
        self._postings: dict[int, Postings] = {}
        self._num_cached = 0
        self._kept: dict[Hashable, Any] = {}
        self._num_kept = 0
        self._names: NDArray | None = None
        self._table: EntryTable | None = None
        self._videos: dict[int, Video] | None = None
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
                self._ann = AnnIndex(self.folder, self._ann)
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
                reduced = connection.execute(
                    "SELECT id, reduced FROM words WHERE reduced IS NOT NULL"
                )
                self._vocabulary = Vocabulary(rows, dict(reduced))
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

    def load_names(self, connection: sqlite3.Connection) -> NDArray:
        """Return the ids (M,) of the lines that are names of videos, ascending."""
        with self._load_lock:
            if self._names is None:
                rows = connection.execute("SELECT id FROM tracks WHERE kind = 'name' ORDER BY id")
                self._names = np.array(rows.fetchall(), dtype=np.int64).ravel()
            return self._names

    def load_table(self, connection: sqlite3.Connection) -> EntryTable:
        """Return where the entry of each row is, read when it is first needed."""
        with self._load_lock:
            if self._table is None:
                rows = connection.execute("SELECT row, video_id, start_s, end_s FROM entries")
                found = np.array(rows.fetchall(), dtype=np.float64).reshape(-1, 4)
                columns = np.zeros((3, len(self.ids)))
                columns[:, found[:, 0].astype(np.int64)] = found[:, 1:].T
                self._table = EntryTable(columns[0].astype(np.int64), columns[1], columns[2])
            return self._table

    def load_videos(self, connection: sqlite3.Connection) -> dict[int, Video]:
        """Return the videos by id, read when they are first needed."""
        with self._load_lock:
            if self._videos is None:
                self._videos = read_videos(connection)
            return self._videos

    def find_postings(
        self, connection: sqlite3.Connection, words: Sequence[int]
    ) -> dict[int, Postings]:
        """Return where each word stands."""
        with self._cache_lock:
            found = {word: self._postings[word] for word in words if word in self._postings}
        missing = [word for word in words if word not in found]
        if missing:
            fresh = read_postings(connection, missing)
            with self._cache_lock:
                self._postings |= fresh
                self._num_cached += sum(len(postings.entries) for postings in fresh.values())
                if self._num_cached > MAX_CACHED:
                    self._postings, self._num_cached = {}, 0
            found |= fresh
        return found

    def keep(self, key: Hashable, make: Callable[[], Kept], measure: Callable[[Kept], int]) -> Kept:
        """Return what ``make`` returns, made once for each key as long as there is room.

        Args:
            measure: how many numbers it holds.
        """
        with self._cache_lock:
            if key in self._kept:
                return self._kept[key]
        made = make()
        with self._cache_lock:
            self._num_kept += 1 + measure(made)
            if self._num_kept > MAX_KEPT:
                self._kept, self._num_kept = {}, 0
            self._kept[key] = made
        return made

    def find_rows(self, connection: sqlite3.Connection, folder: str) -> NDArray:
        """Return the rows (M,) of the entries in a folder and below; ``UserError`` without any."""
        if folder not in self._folders:
            inside = os.fsencode(self.spell_folder(connection, folder))
            rows = connection.execute(
                "SELECT entries.row FROM videos JOIN entries ON entries.video_id = videos.id "
                "WHERE videos.path >= ? AND videos.path < ?",
                (inside + b"/", inside + b"0"),  # "0" comes after "/"
            ).fetchall()
            self._folders[folder] = np.array(rows, dtype=np.int64).ravel()
        return self._folders[folder]

    def spell_folder(self, connection: sqlite3.Connection, folder: str) -> str:
        """Return a folder of videos as the index spells it; ``UserError`` where it has none.

        One that is spelled as asked for comes first, then one of another normal form of Unicode.
        """
        asked = folder.strip("/")
        names = [video.video for video in self.load_videos(connection).values()]
        spellings = [(str, f"{asked}/"), (compose, f"{compose(asked)}/")]
        for spell, start in spellings:
            found = next((name for name in names if spell(name).startswith(start)), None)
            if found is not None:
                return "/".join(found.split("/")[: start.count("/")])
        raise UserError(f"{folder}: the index has no video in such a folder")

    def find_rows_of(self, ids: NDArray) -> NDArray:
        """Return the rows (M,) of entries (M,) of the index."""
        if self._by_id is None:  # mostly: later entries have later rows
            return np.searchsorted(self.ids, ids)
        return self._by_id[np.searchsorted(self.ids, ids, sorter=self._by_id)]


def select_in(
    connection: sqlite3.Connection, query: str, values: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query that ends with a column, for these values of the column."""
    for first in range(0, len(values), _MAX_VALUES):
        part = values[first : first + _MAX_VALUES]
        yield from connection.execute(f"{query} IN ({', '.join('?' * len(part))})", part)


def read_postings(connection: sqlite3.Connection, words: Sequence[int]) -> dict[int, Postings]:
    """Read where each word (by its id) stands."""
    query = "SELECT entry_id, track_id FROM postings WHERE word_id = ? ORDER BY entry_id, track_id"
    found = {}
    for word in words:
        rows = np.array(connection.execute(query, (word,)).fetchall(), dtype=np.int64)
        found[word] = Postings(*np.ascontiguousarray(rows.reshape(-1, 2).T))
    return found


def read_lines(connection: sqlite3.Connection, tracks: Sequence[int]) -> dict[int, Line]:
    """Read lines of text by their ids."""
    columns = "SELECT id, text, start_s, end_s, kind, boxes FROM tracks WHERE id"
    is_former = read_version(connection) < 4
    return {
        track: Line(*values, np.frombuffer(blob, dtype=np.float32).reshape(-1, 5), is_former)
        for track, *values, blob in select_in(connection, columns, tracks)
    }


def read_videos(connection: sqlite3.Connection) -> dict[int, Video]:
    """Return all videos by id, in the order in which they came."""
    rows = connection.execute(
        "SELECT id, path, duration_s, width, height, stamp FROM videos ORDER BY id"
    )
    return {
        number: Video(number, os.fsdecode(path), *size, json.loads(stamp).get("mtime_ns", 0) / 1e9)
        for number, path, *size, stamp in rows
    }


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


def spell_video(connection: sqlite3.Connection, name: str) -> str:
    """Return a video's path as the index spells it; as asked for where it has no such video."""
    known = "SELECT 1 FROM videos WHERE path = ?"
    if name.isascii() or connection.execute(known, (os.fsencode(name),)).fetchone():
        return name
    names = (os.fsdecode(path) for (path,) in connection.execute("SELECT path FROM videos"))
    return next((other for other in names if compose(other) == compose(name)), name)


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


def read_entries(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Entry]:
    """Return entries of the index by their ids."""
    columns = "SELECT entries.id, path, start_s, end_s, duration_s, width, height FROM entries "
    columns += "JOIN videos ON videos.id = entries.video_id WHERE entries.id"
    return {
        number: Entry(number, os.fsdecode(path), *values)
        for number, path, *values in select_in(connection, columns, ids)
    }


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
    """The distinct words of an index, given as (id, folded text), for fuzzy search.

    Args:
        reduced: their reduced forms by id, where these are not their texts.
    """

    def __init__(
        self, words: Sequence[tuple[int, str]], reduced: Mapping[int, str] | None = None
    ) -> None:
        self.words = [word for word in words if len(word[1]) <= MAX_LETTERS]
        self._reduced = reduced or {}
        texts = [text for _, text in self.words]
        self._lengths = np.array([len(text) for text in texts], dtype=np.int16)
        self._letters = _list_letters(texts)
        self._alike: dict[str, list[int]] = {}  # what look-alikes share -> positions of the words
        forms = [self._reduced.get(*word) for word in self.words]
        self._forms = set(forms)
        for position, form in enumerate(forms):
            for key in {fold_lookalikes(form), fold_lookalikes(texts[position])}:
                self._alike.setdefault(key, []).append(position)

    def find_same(self, reduced: str) -> list[tuple[int, str]]:
        """Return (id, word) of the words with this reduced form."""
        if reduced not in self._forms:
            return []
        found = [self.words[position] for position in self._alike[fold_lookalikes(reduced)]]
        return [word for word in found if self._reduced.get(*word) == reduced]

    def find_lookalikes(self, text: str, reduced: str) -> list[tuple[int, str]]:
        """Return (id, word) of the other words that are the same but for letters that look alike.

        See ``retrieval.search.misreading``.
        """
        if len(reduced) < MIN_ALIKE:
            return []
        keys = {fold_lookalikes(reduced), fold_lookalikes(text)}
        found = [self.words[position] for key in keys for position in self._alike.get(key, ())]
        return [word for word in found if word[1] != text and " " not in word[1]]

    def list_cuts(self, reduced: str, most: int) -> list[tuple[str, ...]]:
        """Return ways to cut a reduced word into 2 … ``most`` words, by their reduced forms.

        More than two words have two letters each at least.
        """
        if len(reduced) > MAX_LETTERS:
            return []
        has_digits = any(map(str.isdecimal, reduced))
        cuts = [
            pieces
            for pieces in islice(self._cut(reduced, most), _MAX_LISTED)
            if len(pieces) == 2 or (len(pieces) > 2 and (has_digits or min(map(len, pieces)) > 1))
        ]
        return sorted(cuts, key=lambda pieces: (-min(map(len, pieces)), len(pieces)))[:MAX_CUTS]

    def _cut(self, text: str, most: int) -> Iterator[tuple[str, ...]]:
        forms = self._forms
        if text in forms:
            yield (text,)
        for end in range(1, len(text) if most > 1 else 0):
            if text[:end] in forms:
                for rest in self._cut(text[end:], most - 1):
                    yield text[:end], *rest

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
