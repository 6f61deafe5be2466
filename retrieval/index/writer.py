"""Changes of an index, each of them whole or not made at all.

Shapes: E width of the common space.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import Self

from retrieval.errors import IndexFolderError
from retrieval.index import database
from retrieval.index.arrays import append_rows, create_array, map_rows
from retrieval.index.database import ContentStamp, KnownVideo, NewEntry, NewVideo
from retrieval.index.layout import EMBEDDINGS, IDS, LOCK, WITHOUT, array_file, thumbnail_file
from utils.files import FileLockedError, lock_file, remove_temporary_files, sync_file

# Rows of videos that are gone are skipped by a search; beyond this share they are dropped.
MOST_DEAD = 0.25
_CHUNK = 65536  # rows copied at a time


@contextmanager
def lock_index(folder: Path) -> Iterator[None]:
    """Be the one that writes to a folder; ends with the block, or with the process.

    Raises:
        IndexFolderError: another process is.
    """
    try:
        with lock_file(folder / LOCK, wait=False):
            yield
    except FileLockedError:
        raise IndexFolderError(
            f"{folder}: another index.py is writing to it; wait until it has ended"
        ) from None


class IndexWriter:
    """Writes to an index folder that is locked by ``lock_index``; a ``with`` block ends it.

    Attributes:
        folder: the index.
        meta: what is kept by name, as of now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = database.connect(folder, writing=True)
        self.meta = database.read_meta(self._database)

    @staticmethod
    def create(folder: Path, width: int, leaves_out: Sequence[str], meta: dict[str, Any]) -> None:
        """Make an empty index in a folder that is there and locked; the database comes last.

        Args:
            leaves_out: ``vision`` and ``ocr``, where embeddings without them are kept, too.
        """
        own = {"generation": 1, "num_rows": 0, "commits": 0, "width": width}
        own["leaves_out"] = list(leaves_out)
        for name, (dtype, row_width) in _list_arrays(own).items():
            create_array(array_file(folder, name, 1), dtype, row_width)
        database.create_database(folder, meta | own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def read_videos(self) -> dict[str, KnownVideo]:
        """Return the videos of the index by path."""
        return database.read_videos(self._database)

    def update_stamps(self, stamps: dict[int, tuple[ContentStamp, ContentStamp | None]]) -> None:
        """Note new times of videos (by id) whose content is what it was."""
        with self._transaction():
            for video, (stamp, ocr) in stamps.items():
                database.update_stamps(self._database, video, stamp, ocr)

    def set_meta(self, **values: Any) -> None:
        """Keep values by name; None takes one away."""
        with self._transaction():
            database.write_meta(self._database, values)

    def write(self, videos: Sequence[NewVideo], drop: Sequence[int] = ()) -> None:
        """Add videos, in place of those of the same path, and drop others (by id), at once.

        Raises:
            OSError, sqlite3.Error: something can't be written; the index is as it was.
        """
        before = {path: known.id for path, known in self.read_videos().items()} if videos else {}
        drop = [*drop, *(before[video.path] for video in videos if video.path in before)]
        with self._transaction():
            gone = [
                entry for video in drop for entry in database.delete_video(self._database, video)
            ]
            entries: list[tuple[int, NewEntry]] = []
            for video in videos:
                first_row = self.meta["num_rows"] + len(entries)
                entries += database.insert_video(self._database, video, first_row)
            self._write_files(entries)
            num_rows = self.meta["num_rows"] + len(entries)
            database.write_meta(self._database, {"num_rows": num_rows})
        for entry in gone:
            thumbnail_file(self.folder, entry).unlink(missing_ok=True)

    def count_dead_rows(self) -> int:
        """Return how many rows belong to no video any more."""
        return self._database.execute("SELECT COUNT(*) FROM dead_rows").fetchone()[0]

    def compact(self, most_dead: float = MOST_DEAD) -> bool:
        """Drop dead rows where they are more than this share; returns whether it was so.

        The arrays are written anew under other names, so that readers keep what they have.
        """
        num_rows, old = self.meta["num_rows"], self.meta["generation"]
        if self.count_dead_rows() <= most_dead * num_rows:
            return False
        dead = self._database.execute("SELECT row FROM dead_rows").fetchall()
        alive = np.setdiff1d(np.arange(num_rows), np.array(dead, dtype=np.int64).ravel())
        for name, (dtype, width) in _list_arrays(self.meta).items():
            source = map_rows(array_file(self.folder, name, old), dtype, num_rows, width)
            _copy_rows(source, alive, array_file(self.folder, name, old + 1), width)
        moved = ((new, int(row)) for new, row in enumerate(alive) if new != row)
        with self._transaction():  # in ascending order: no row is taken when it is given
            execute = self._database.execute
            execute("DELETE FROM dead_rows")
            self._database.executemany("UPDATE entries SET row = ? WHERE row = ?", moved)
            execute("DELETE FROM words WHERE id NOT IN (SELECT word_id FROM postings)")
            execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
            changed = {"generation": old + 1, "num_rows": len(alive), "ann": None}
            database.write_meta(self._database, changed)
        return True

    def remove_leftovers(self) -> None:
        """Remove the files of older generations, and of a writer that was killed."""
        generation, ann = self.meta["generation"], self.meta.get("ann")
        kept = {array_file(self.folder, n, generation) for n in _list_arrays(self.meta)}
        kept |= {self.folder / ann["file"]} if ann else set()
        rows = self._database.execute("SELECT id FROM entries")
        kept |= {thumbnail_file(self.folder, number) for (number,) in rows}
        for pattern in ("*-??????.npy", "ann-*.faiss", "thumbnails/*/*"):
            for path in set(self.folder.glob(pattern)) - kept:
                path.unlink(missing_ok=True)
        remove_temporary_files(self.folder)

    def _write_files(self, entries: Sequence[tuple[int, NewEntry]]) -> None:
        """Bring the entries' pictures and embeddings to the disk."""
        if not entries:
            return
        for number, entry in entries:
            file = thumbnail_file(self.folder, number)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.thumbnail)  # no one looks at it before the commit
            sync_file(file)
        for name, (dtype, _) in _list_arrays(self.meta).items():
            rows = [number if name == IDS else entry.embeddings[name] for number, entry in entries]
            file = array_file(self.folder, name, self.meta["generation"])
            append_rows(file, self.meta["num_rows"], np.array(rows, dtype=dtype))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            commits = database.read_meta(self._database)["commits"]
            database.write_meta(self._database, {"commits": commits + 1})
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk ends it by itself
                self._database.execute("ROLLBACK")
            raise
        self.meta = database.read_meta(self._database)


def _list_arrays(meta: dict[str, Any]) -> dict[str, tuple[DTypeLike, int | None]]:
    """Return the arrays of an index: name -> kind of number, and numbers of a row."""
    names = (EMBEDDINGS, *(WITHOUT[part] for part in meta["leaves_out"]))
    return {name: (np.float32, meta["width"]) for name in names} | {IDS: (np.int64, None)}


def _copy_rows(source: NDArray, rows: NDArray, target: Path, width: int | None) -> None:
    create_array(target, source.dtype, width)
    for first in range(0, len(rows), _CHUNK):
        append_rows(target, first, np.asarray(source[rows[first : first + _CHUNK]]))
