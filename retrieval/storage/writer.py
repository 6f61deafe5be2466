"""Changes of an index, each of them whole or not made at all.

Shapes: E width of the common space.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from retrieval.errors import IndexFolderError
from retrieval.storage import arrays, database
from retrieval.storage.contents import NewEntry, NewVideo, Stamp, stamp_text
from retrieval.storage.layout import (
    EMBEDDINGS,
    IDS,
    LOCK,
    WITHOUT,
    array_file,
    thumbnail_file,
)
from retrieval.storage.rows import KnownVideo, add_video, drop_video, known_videos

# Rows of videos that are gone are skipped by a search; beyond this share they are dropped.
MOST_DEAD = 0.25


class IndexWriter:
    """Writes to an index folder that is ``locked``; a ``with`` block ends it.

    Attributes:
        folder: the index.
        meta: what is kept by name, as of now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = database.connect(folder, writing=True)
        self.meta = database.read_meta(self._database)
        self.array_names = (EMBEDDINGS, *(WITHOUT[name] for name in self.meta["leaves_out"]))

    @staticmethod
    def create(folder: Path, width: int, leaves_out: Sequence[str], meta: dict[str, Any]) -> None:
        """Make an empty index in a folder that is there and locked; the database comes last.

        Args:
            folder: holds no index yet.
            width: E.
            leaves_out: ``vision`` and ``ocr``, where embeddings without them are kept, too.
            meta: what else is kept by name.
        """
        for name in (EMBEDDINGS, *(WITHOUT[part] for part in leaves_out)):
            arrays.create(array_file(folder, name, 1), np.float32, width)
        arrays.create(array_file(folder, IDS, 1), np.int64, None)
        own = {"generation": 1, "num_rows": 0, "commits": 0, "width": width}
        database.create(folder, meta | own | {"leaves_out": list(leaves_out)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def videos(self) -> dict[str, KnownVideo]:
        """Return the videos of the index by path."""
        return known_videos(self._database)

    def touch(self, stamps: dict[int, tuple[Stamp, Stamp | None]]) -> None:
        """Note new times of videos (by id) whose content is what it was."""
        with self._transaction():
            for video, (stamp, ocr) in stamps.items():
                values = stamp_text(stamp), stamp_text(ocr), video
                self._database.execute(
                    "UPDATE videos SET stamp = ?, ocr_stamp = ? WHERE id = ?", values
                )

    def set_meta(self, **values: Any) -> None:
        """Keep values by name; None takes one away."""
        with self._transaction():
            database.write_meta(self._database, values)
        self.meta = database.read_meta(self._database)

    def write(self, videos: Sequence[NewVideo], drop: Sequence[int] = ()) -> None:
        """Add videos, in place of those of the same path, and drop others (by id), at once.

        Raises:
            OSError, sqlite3.Error: something can't be written; the index is as it was.
        """
        before = {path: known.id for path, known in self.videos().items()} if videos else {}
        drop = [*drop, *(before[video.path] for video in videos if video.path in before)]
        with self._transaction():
            gone = [entry for video in drop for entry in drop_video(self._database, video)]
            entries: list[tuple[int, NewEntry]] = []
            for video in videos:
                entries += add_video(self._database, video, self.meta["num_rows"] + len(entries))
            self._append(entries)
            num_rows = self.meta["num_rows"] + len(entries)
            database.write_meta(self._database, {"num_rows": num_rows})
        self.meta = database.read_meta(self._database)
        for entry in gone:
            thumbnail_file(self.folder, entry).unlink(missing_ok=True)

    def num_dead(self) -> int:
        """Return how many rows belong to no video any more."""
        return self._database.execute("SELECT COUNT(*) FROM dead_rows").fetchone()[0]

    def compact(self, most_dead: float = MOST_DEAD) -> bool:
        """Drop dead rows where they are more than this share; returns whether it was so.

        The arrays are written anew under other names, so that readers keep what they have.
        """
        num_rows, old = self.meta["num_rows"], self.meta["generation"]
        if self.num_dead() <= most_dead * num_rows:
            return False
        dead = self._database.execute("SELECT row FROM dead_rows").fetchall()
        alive = np.setdiff1d(np.arange(num_rows), np.array(dead, dtype=np.int64).ravel())
        names = {name: (np.float32, self.meta["width"]) for name in self.array_names}
        names[IDS] = (np.int64, None)
        for name, (dtype, width) in names.items():
            source = arrays.mapped(array_file(self.folder, name, old), dtype, num_rows, width)
            _copy_rows(source, alive, array_file(self.folder, name, old + 1), width)
        moved = ((new, int(row)) for new, row in enumerate(alive) if new != row)
        with self._transaction():  # in ascending order: no row is taken when it is given
            self._database.execute("DELETE FROM dead_rows")
            self._database.executemany("UPDATE entries SET row = ? WHERE row = ?", moved)
            self._database.execute(
                "DELETE FROM words WHERE id NOT IN (SELECT word_id FROM postings)"
            )
            self._database.execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
            changed = {"generation": old + 1, "num_rows": len(alive), "ann": None}
            database.write_meta(self._database, changed)
        self.meta = database.read_meta(self._database)
        return True

    def remove_leftovers(self) -> None:
        """Remove the files of older generations, and of a writer that was killed."""
        generation, ann = self.meta["generation"], self.meta.get("ann")
        kept = {array_file(self.folder, n, generation).name for n in (*self.array_names, IDS)}
        kept |= {ann["file"]} if ann else set()
        for pattern in ("*-??????.npy", "ann-*.faiss", ".*.tmp"):
            for path in self.folder.glob(pattern):
                if path.name not in kept:
                    path.unlink(missing_ok=True)
        rows = self._database.execute("SELECT id FROM entries")
        pictures = {thumbnail_file(self.folder, number) for (number,) in rows}
        for path in self.folder.glob("thumbnails/*/*"):
            if path not in pictures:
                path.unlink(missing_ok=True)

    def _append(self, entries: Sequence[tuple[int, NewEntry]]) -> None:
        """Bring the entries' pictures and embeddings to the disk."""
        if not entries:
            return
        num_rows, generation = self.meta["num_rows"], self.meta["generation"]
        for number, entry in entries:
            _write_synced(thumbnail_file(self.folder, number), entry.thumbnail)
        for name in self.array_names:
            rows = np.stack([entry.embeddings[name] for _, entry in entries])
            path = array_file(self.folder, name, generation)
            arrays.append(path, num_rows, rows.astype(np.float32))
        ids = np.array([number for number, _ in entries], dtype=np.int64)
        arrays.append(array_file(self.folder, IDS, generation), num_rows, ids)

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


def _copy_rows(source: NDArray, rows: NDArray, target: Path, width: int | None) -> None:
    arrays.create(target, source.dtype, width)
    for first in range(0, len(rows), 65536):
        part = rows[first : first + 65536]
        arrays.append(target, first, np.asarray(source[part]))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one that writes to a folder; ends with the block, or with the process.

    Raises:
        IndexFolderError: another process is.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise IndexFolderError(
            f"{folder}: another index.py is writing to it; wait until it has ended"
        ) from None
    finally:
        os.close(lock)


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
