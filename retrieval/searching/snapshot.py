"""One state of an index, as a search sees it.

Shapes: N rows, E width of the common space.
"""

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.searching.ann import AnnIndex
from retrieval.searching.vocabulary import Vocabulary
from retrieval.storage import arrays
from retrieval.storage.layout import EMBEDDINGS, IDS, WITHOUT, array_file
from utils.errors import UserError

MOST_CACHED = 4_000_000  # ids of entries, 8 bytes each


class Snapshot:
    """The arrays of one commit, and what searches have looked up in it.

    It is used within a transaction that sees that commit, by any number of threads.

    Attributes:
        number: of the commit.
        embeddings: (N, E) float32 of length 1, in the file; dead rows are among them.
        ids: (N,) int64: row -> entry.
        without: ``vision`` and ``ocr`` -> (N, E) float32 of length 1, where the model fuses.
        dead: rows of videos that are gone.
        num_entries: N without the dead ones.

    Raises:
        IndexFolderError: a file of it is missing or cut short.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], connection: sqlite3.Connection) -> None:
        num_rows, generation = meta["num_rows"], meta["generation"]
        self.folder, self.number = folder, meta["commits"]
        self._ann: dict[str, Any] | AnnIndex | None = meta.get("ann")

        def mapped(name: str) -> NDArray:
            path = array_file(folder, name, generation)
            return arrays.mapped(path, np.float32, num_rows, meta["width"])

        self.embeddings = mapped(EMBEDDINGS)
        self.without = {part: mapped(WITHOUT[part]) for part in meta["leaves_out"]}
        self.ids = np.asarray(
            arrays.mapped(array_file(folder, IDS, generation), np.int64, num_rows, None)
        )
        dead = connection.execute("SELECT row FROM dead_rows").fetchall()
        self.dead = np.array(dead, dtype=np.int64).ravel()
        self.num_entries = num_rows - len(self.dead)
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._entries: dict[int, NDArray] = {}
        self._num_cached = 0
        self._folders: dict[str, NDArray] = {}

    def ann_index(self) -> AnnIndex | None:
        """Return the FAISS index, read when it is first wanted; None where there is none.

        Raises:
            UserError: FAISS is not installed.
        """
        with self._lock:
            if isinstance(self._ann, dict):
                self._ann = AnnIndex(self.folder / self._ann["file"], self._ann["num_rows"])
            return self._ann

    def vocabulary(self, connection: sqlite3.Connection) -> Vocabulary:
        """Return the distinct words, read when they are first wanted."""
        with self._lock:
            if self._vocabulary is None:
                rows = connection.execute("SELECT id, text FROM words").fetchall()
                self._vocabulary = Vocabulary(rows)
            return self._vocabulary

    def entries_of(
        self, connection: sqlite3.Connection, words: Sequence[int]
    ) -> dict[int, NDArray]:
        """Return the ids of the entries that have each word, ascending."""
        with self._lock:
            missing = [word for word in words if word not in self._entries]
            for first in range(0, len(missing), 500):
                self._read_entries(connection, missing[first : first + 500])
            found = {word: self._entries[word] for word in words}
            if self._num_cached > MOST_CACHED:
                self._entries, self._num_cached = {}, 0
            return found

    def _read_entries(self, connection: sqlite3.Connection, words: Sequence[int]) -> None:
        places = ",".join("?" * len(words))
        rows = connection.execute(
            f"SELECT word_id, entry_id FROM postings WHERE word_id IN ({places})", words
        ).fetchall()
        pairs = np.array(rows, dtype=np.int64).reshape(-1, 2)
        for word in words:
            self._entries[word] = np.zeros(0, np.int64)
        starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
        for group in np.split(pairs, starts[1:]):
            if len(group):
                self._entries[int(group[0, 0])] = np.unique(group[:, 1])
        self._num_cached += len(pairs)

    def line(self, connection: sqlite3.Connection, track: int) -> str:
        """Return the text of a line."""
        row = connection.execute("SELECT text FROM tracks WHERE id = ?", (track,)).fetchone()
        return row[0]

    def rows_in(self, connection: sqlite3.Connection, folder: str) -> NDArray:
        """Return the rows (M,) of the entries in a folder and below.

        Raises:
            UserError: there is no video in it.
        """
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._read_rows(connection, folder)
            return self._folders[folder]

    @staticmethod
    def _read_rows(connection: sqlite3.Connection, folder: str) -> NDArray:
        inside = os.fsencode(folder.strip("/")) + b"/"
        rows = connection.execute(
            "SELECT entries.row FROM videos JOIN entries ON entries.video_id = videos.id "
            "WHERE videos.path >= ? AND videos.path < ?",
            (inside, inside[:-1] + b"0"),  # "0" comes after "/"
        ).fetchall()
        if not rows:
            raise UserError(f"{folder}: the index has no video in such a folder")
        return np.array(rows, dtype=np.int64).ravel()
