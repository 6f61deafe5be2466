"""Writing to an index: each change is made completely or not at all.

Shapes: N rows (one an entry), E width of the common space.
"""

import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from retrieval.errors import DamagedIndexError, IndexFolderError
from retrieval.index import checksums, database
from retrieval.index.ann import write_ann
from retrieval.index.arrays import (
    CHECKSUMS,
    FRAME_COUNTS,
    FRAME_TIMES,
    FRAMES,
    IDS,
    append_rows,
    array_file,
    copy_rows,
    create_array,
    hash_rows,
    keeps_frames,
    list_arrays,
    list_vectors,
    map_array,
    map_vectors,
)
from retrieval.index.integrity import (
    ID,
    SETTINGS,
    check_opening,
    hash_settings,
    hash_thumbnail,
    read_settings,
)
from retrieval.index.layout import (
    QUERY_ENCODER,
    THUMBNAILS,
    config_file,
    list_model_files,
    query_encoder_folder,
    thumbnail_file,
)
from retrieval.index.records import KnownEntry, KnownLine, KnownVideo, NewEntry, NewVideo, Stamps
from retrieval.index.store import MAX_DEAD, MIN_VECTORS
from utils.files import (
    FileLockedError,
    lock_file,
    remove_path,
    remove_temporary_files,
    sync_file,
    write_json,
)

LOCK = "index.lock"
REPAIRED = "repaired"  # folder of the database that a repair makes
# Values of ``meta`` that say what an index holds, and not how it was made.
_CONTENT = {
    "commits", "generation", "num_rows", "successor", "ann",
    checksums.ARRAYS, checksums.TABLES, checksums.VALUES,
}  # fmt: skip


def read_index_meta(out: Path) -> dict[str, Any] | None:
    """Return the values of the table ``meta`` of an index; None where there is none as yet.

    Raises:
        IndexFolderError: the folder holds something else, or an index that can't be read.
    """
    begun = (out / LOCK).exists()
    if (out / database.DATABASE).exists() and not (begun and _is_unfinished(out)):
        with database.open_database(out) as connection:
            return database.read_meta(connection)
    if begun and any((out / THUMBNAILS).glob("*/*")):  # they come after the database
        raise DamagedIndexError(out, database.DATABASE, "is gone")
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out}: holds something else than an index; name another --out")
    return None


def _is_unfinished(out: Path) -> bool:
    """Whether the making of the index was stopped before its database was complete."""
    try:
        with closing(sqlite3.connect(out / database.DATABASE)) as connection:
            return connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
    except database.READ_ERRORS:
        return False


@contextmanager
def lock_index(folder: Path) -> Iterator[None]:
    """Keep other writers out of an index folder; raises ``IndexFolderError`` where one is there."""
    try:
        with lock_file(folder / LOCK, wait=False):
            yield
    except FileLockedError:
        raise IndexFolderError(
            f"{folder}: another index.py is writing to it; wait until it has ended"
        ) from None


class IndexWriter:
    """Writes to an index folder that is locked by ``lock_index``; a ``with`` block closes it.

    ``meta`` has the values of the table ``meta``, as of now. Its ``successor``, where there is one,
    has those that another model's embeddings bring with them, and ``num_rows``, how many of them
    are there already: see ``begin_successor``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = database.connect(folder, writing=True)
        with ExitStack() as stack:
            stack.enter_context(closing(self._database))
            try:
                check_opening(folder, database.read_meta(self._database), self._database)
            except database.READ_ERRORS as error:
                raise database.explain_read_error(folder, error) from error
            is_upgraded = database.upgrade_database(self._database)
            self.meta = database.read_meta(self._database)
            self._settings = read_settings(folder)
            self._recorder = checksums.ChecksumRecorder(self._database)
            if is_upgraded or checksums.TABLES not in self.meta:
                self._add_checksums()
            stack.pop_all()

    @staticmethod
    def create(
        folder: Path,
        width: int | None,
        leaves_out: Sequence[str],
        meta: dict[str, Any],
    ) -> None:
        """Make an empty index in a folder that exists and is locked; the database comes last.

        Args:
            width: E; None: without embeddings.
            leaves_out: ``vision`` and ``ocr``, where embeddings without them are kept, too.
            meta: further values; ``num_frames`` is 0 where the vectors of frames are kept, too.
        """
        counts = {"generation": 1, "num_rows": 0, "commits": 0}
        meta = meta | counts | {"width": width, "leaves_out": list(leaves_out)}
        for name, (dtype, row, _) in list_arrays(meta).items():
            create_array(array_file(folder, name, 1), dtype, row)
        database.create_database(folder, meta)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def read_videos(self) -> dict[str, KnownVideo]:
        """Return the videos of the index by path."""
        return database.read_videos(self._database)

    def read_entries(self) -> dict[int, list[KnownEntry]]:
        """Return the entries of each video (by id), in their order."""
        return database.read_entries(self._database)

    def read_starts(self, video_id: int) -> list[float]:
        """Return when the entries of a video begin, in their order, in seconds."""
        query = "SELECT start_s FROM entries WHERE video_id = ? ORDER BY id"
        return [start_s for (start_s,) in self._database.execute(query, (video_id,))]

    def read_lines(self, video_id: int) -> list[KnownLine]:
        """Return the lines of text of a video."""
        return database.read_lines(self._database, video_id)

    def update_stamps(self, stamps: dict[int, Stamps]) -> None:
        """Write new stamps of videos (by id) whose content is unchanged."""
        with self._transaction():
            database.update_stamps(self._database, stamps)

    def rename_videos(self, names: Mapping[int, str]) -> None:
        """Give videos (by id) other paths; their entries stay as they are."""
        with self._transaction():
            database.rename_videos(self._database, names)

    def replace_tracks(self, video_id: int, video: NewVideo) -> None:
        """Give a video that is known other lines of text; its entries stay as they are."""
        with self._transaction():
            database.replace_tracks(self._database, video_id, video)

    def set_meta(self, **values: Any) -> None:
        """Set values of the table ``meta``; None deletes one."""
        with self._transaction():
            database.write_meta(self._database, values)

    def write(self, videos: Sequence[NewVideo], drop: Sequence[int] = ()) -> None:
        """Add or replace videos (by path), and drop others (by id), in one commit.

        Raises:
            OSError, sqlite3.Error: something can't be written; the index is as it was.
        """
        before = database.find_videos(self._database, [video.path for video in videos])
        drop = [*drop, *before]
        num_rows = self.meta["num_rows"]
        with self._transaction():
            gone = [
                entry for video in drop for entry in database.delete_video(self._database, video)
            ]
            entries: list[tuple[int, NewEntry]] = []
            for video in videos:
                entries += database.insert_video(self._database, video, num_rows + len(entries))
            database.write_meta(self._database, self._write_files(entries))
        for entry in gone:
            thumbnail_file(self.folder, entry).unlink(missing_ok=True)

    def count_dead_rows(self) -> int:
        """Return how many rows belong to videos that are gone."""
        return self._database.execute("SELECT COUNT(*) FROM dead_rows").fetchone()[0]

    def compact(self, max_dead: float = MAX_DEAD) -> bool:
        """Drop dead rows where they are more than this share; returns whether they were.

        The arrays are written anew under other names, so that readers keep what they have mapped.
        """
        num_rows, new = self.meta["num_rows"], self.next_generation()
        if self.count_dead_rows() <= max_dead * num_rows:
            return False
        dead = self._database.execute("SELECT row FROM dead_rows").fetchall()
        alive = np.setdiff1d(np.arange(num_rows), np.array(dead, dtype=np.int64).ravel())
        kept = {"num_rows": alive}
        frames = map_vectors(self.folder, self.meta).frames
        if frames is not None:
            kept["num_frames"] = frames.list_frames(alive)
        sums = {
            name: copy_rows(self.folder, self.meta, name, new, kept[kind.counted])
            for name, kind in list_arrays(self.meta).items()
        }
        moved = ((new, int(row)) for new, row in enumerate(alive) if new != row)
        with self._transaction():
            execute = self._database.execute
            execute("DELETE FROM dead_rows")
            # In ascending order, so that a row is free when an entry is given it.
            self._database.executemany("UPDATE entries SET row = ? WHERE row = ?", moved)
            execute("DELETE FROM words WHERE id NOT IN (SELECT word_id FROM postings)")
            execute("DELETE FROM pieces WHERE word_id NOT IN (SELECT id FROM words)")
            execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
            counts = {counted: len(rows) for counted, rows in kept.items()}
            values = {"generation": new, "ann": None, checksums.ARRAYS: sums}
            database.write_meta(self._database, counts | values)
        return True

    def next_generation(self) -> int:
        """Return the number of the next generation of arrays."""
        used = self.meta["generation"], (self.meta.get("successor") or {}).get("generation", 0)
        return max(used) + 1

    def begin_successor(self, values: dict[str, Any]) -> None:
        """Begin a generation of embeddings by another model, beside those that are searched.

        Args:
            values: what is to be set in ``meta`` when they take over: ``generation``, that of
                ``next_generation``, ``width``, ``leaves_out``, and all that is the model's; also
                ``num_frames``, 0, or None without frame vectors.
        """
        successor = values | {"num_rows": 0, checksums.ARRAYS: {}}
        for name, (dtype, row, _) in list_arrays(successor).items():
            create_array(array_file(self.folder, name, successor["generation"]), dtype, row)
            successor[checksums.ARRAYS][name] = 0
        with self._transaction(is_seen=False):
            database.write_meta(self._database, {"successor": successor})

    def read_succeeded(self) -> NDArray:
        """Return the entries (N,) that the successor has embeddings of, by its rows."""
        successor = self.meta["successor"]
        return np.asarray(map_array(self.folder, successor, IDS))

    def change_successor(self, values: dict[str, Any]) -> None:
        """Set values that a successor brings with it, whose embeddings stay as they are."""
        with self._transaction(is_seen=False):
            database.write_meta(self._database, {"successor": self.meta["successor"] | values})

    def write_successor(self, entries: Sequence[tuple[int, NewEntry]]) -> None:
        """Give the successor embeddings of entries (by id) that the index has."""
        successor = self.meta["successor"]
        thumbnails = [hash_thumbnail(thumbnail_file(self.folder, entry)) for entry, _ in entries]
        counts = self._append_rows(successor, entries, thumbnails)
        with self._transaction(is_seen=False):
            database.write_meta(self._database, {"successor": successor | counts})

    def switch_to_successor(self) -> None:
        """Let the successor's embeddings take over, in one commit.

        Entries stay what they are. Videos that it has no embeddings of, of every entry, are gone.
        """
        entries, execute = self.read_succeeded(), self._database.execute
        rows = execute("SELECT id, video_id FROM entries").fetchall()
        has_row = set(entries.tolist())
        gone: list[int] = []
        with self._transaction():
            for video in sorted({video for entry, video in rows if entry not in has_row}):
                gone += database.delete_video(self._database, video)
            # The rows of both generations overlap, and no two entries may have the same one.
            execute("UPDATE entries SET row = -1 - id")
            execute("DELETE FROM dead_rows")
            known = {entry for entry, _ in rows} - set(gone)
            for row, entry in enumerate(entries.tolist()):
                if entry in known:
                    execute("UPDATE entries SET row = ? WHERE id = ?", (row, entry))
                else:
                    execute("INSERT INTO dead_rows VALUES (?)", (row,))
            taken = self.meta["successor"] | {"successor": None, "ann": None}
            database.write_meta(self._database, taken)
        for entry in gone:
            thumbnail_file(self.folder, entry).unlink(missing_ok=True)

    def build_ann(self, min_vectors: int = MIN_VECTORS) -> float:
        """Make a FAISS index of all vectors; readers find it when it is complete.

        Returns and raises as ``retrieval.index.store.StoreWriter.build_ann``.
        """
        found, recall = write_ann(self.folder, self.meta, min_vectors)
        self.set_meta(ann=found)
        return recall

    def remove_leftovers(self) -> None:
        """Remove the files of older generations, and those of a writer that was killed."""
        ann, successor = self.meta.get("ann"), self.meta.get("successor")
        kept = {self.folder / ann["file"]} if ann else set()
        for meta in (self.meta, *([successor] if successor else [])):
            generation = meta["generation"]
            kept |= {array_file(self.folder, name, generation) for name in list_arrays(meta)}
            kept |= {query_encoder_folder(self.folder, meta), config_file(self.folder, meta)}
        for path in set(self.folder.glob(f"{QUERY_ENCODER}*")) - kept:
            shutil.rmtree(path, ignore_errors=True)
        rows = self._database.execute("SELECT id FROM entries")
        kept |= {thumbnail_file(self.folder, entry) for (entry,) in rows}
        for pattern in ("*-??????.npy", "config*.json", "ann-*.faiss", "thumbnails/*/*"):
            for path in set(self.folder.glob(pattern)) - kept:
                remove_path(path)
        remove_temporary_files(self.folder)
        shutil.rmtree(self.folder / REPAIRED, ignore_errors=True)

    def _write_settings(self, meta: dict[str, Any]) -> None:
        """Keep a copy of how the index was made, where that has changed."""
        settings = {key: value for key, value in meta.items() if key not in _CONTENT}
        if "num_frames" in settings:
            settings["num_frames"] = 0
        if settings != self._settings:
            kept = {"settings": settings, "checksum": hash_settings(settings)}
            write_json(self.folder / SETTINGS, kept, durable=True)
            self._settings = settings

    def _write_files(self, entries: Sequence[tuple[int, NewEntry]]) -> dict[str, Any]:
        """Write the entries' thumbnails and embeddings to the disk; returns what ``meta`` gets."""
        if not entries:
            return {}
        for entry_id, entry in entries:
            file = thumbnail_file(self.folder, entry_id)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.thumbnail)  # nobody reads it before the commit
            sync_file(file)
        thumbnails = [zlib.crc32(entry.thumbnail) for _, entry in entries]
        return self._append_rows(self.meta, entries, thumbnails)

    def _append_rows(
        self,
        meta: dict[str, Any],
        entries: Sequence[tuple[int, NewEntry]],
        thumbnails: Sequence[int],
    ) -> dict[str, Any]:
        """Write the entries' rows behind those of a generation, whose ``meta`` is given.

        Args:
            thumbnails: their checksums.

        Returns:
            What its ``meta`` gets: the numbers of its rows, and their checksums.
        """
        kinds, counts = list_arrays(meta), _count_rows(meta, entries)
        rows = {
            name: _collect_rows(name, entries).astype(kind.dtype, copy=False)
            for name, kind in kinds.items()
            if name != CHECKSUMS
        }
        vectors = hash_rows({name: rows[name] for name in list_vectors(meta)}, len(entries))
        rows[CHECKSUMS] = np.column_stack([vectors, np.array(thumbnails, dtype=np.uint32)])
        sums = dict(meta[checksums.ARRAYS])
        for name, kind in kinds.items():
            path = array_file(self.folder, name, meta["generation"])
            append_rows(path, meta[kind.counted], rows[name])
            sums[name] = checksums.hash_array(rows[name], sums[name])
        return counts | {checksums.ARRAYS: sums}

    def _add_checksums(self) -> None:
        """Give an index of an earlier release its checksums: from now on it is as it is now."""
        values: dict[str, Any] = {ID: self.meta.get(ID) or secrets.token_hex(8)}
        for meta in filter(None, (self.meta, self.meta.get("successor"))):
            sums = self._hash_generation(meta)
            if meta is self.meta:
                values |= sums
            else:
                values["successor"] = meta | sums
        with self._transaction(is_seen=False, anew=True):
            database.write_meta(self._database, values)

    def _hash_generation(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Write the checksums of a generation's rows; returns what its ``meta`` gets."""
        arrays = {
            name: map_array(self.folder, meta, name)
            for name in list_arrays(meta)
            if name != CHECKSUMS
        }
        vectors = {name: arrays[name] for name in list_vectors(meta)}
        sums = np.zeros((meta["num_rows"], 2), dtype=np.uint32)
        sums[:, 0] = hash_rows(vectors, len(sums))
        for row, entry in enumerate(arrays[IDS].tolist()):
            sums[row, 1] = hash_thumbnail(thumbnail_file(self.folder, entry))
        path = array_file(self.folder, CHECKSUMS, meta["generation"])
        create_array(path, sums.dtype, sums.shape[1:])
        append_rows(path, 0, sums)
        found = {
            name: checksums.hash_array(rows) for name, rows in (arrays | {CHECKSUMS: sums}).items()
        }
        files = list_model_files(self.folder, meta) if meta.get("model") is not None else []
        return {
            checksums.ARRAYS: found,
            checksums.FILES: checksums.hash_files(self.folder, files),
        }

    @contextmanager
    def _transaction(self, is_seen: bool = True, anew: bool = False) -> Iterator[None]:
        """Commit what a ``with`` block writes.

        Args:
            is_seen: whether searches see a difference, and have to look at everything again.
            anew: whether the checksums of tables are computed of all rows.
        """
        self._recorder.reset()
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            meta = database.read_meta(self._database)
            if anew:
                tables = self._recorder.finish_anew()
            else:
                tables = self._recorder.finish(meta[checksums.TABLES])
            values = {"commits": meta["commits"] + is_seen, checksums.TABLES: tables}
            database.write_meta(self._database, values)
            values = {checksums.VALUES: checksums.hash_values(self._database)}
            database.write_meta(self._database, values)
            self._write_settings(database.read_meta(self._database))
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk ends it by itself
                self._database.execute("ROLLBACK")
            raise
        self.meta = database.read_meta(self._database)


def _count_rows(meta: dict[str, Any], entries: Sequence[tuple[int, NewEntry]]) -> dict[str, int]:
    """Return the numbers of rows of a generation, whose ``meta`` is given, with new entries."""
    counts = {"num_rows": meta["num_rows"] + len(entries)}
    if keeps_frames(meta):
        counts["num_frames"] = meta["num_frames"] + _count_frames(entries)
    return counts


def _count_frames(entries: Sequence[tuple[int, NewEntry]]) -> int:
    """Return how many frames new entries have, each of them with a time and a vector."""
    counts = [len(entry.frame_times) for _, entry in entries]
    if 0 in counts or counts != [len(entry.embeddings[FRAMES]) for _, entry in entries]:
        raise ValueError("an entry has no frames, or not as many vectors as times")
    return sum(counts)


def _collect_rows(name: str, entries: Sequence[tuple[int, NewEntry]]) -> NDArray:
    """Return what an array gets of new entries."""
    if name == IDS:
        return np.array([entry_id for entry_id, _ in entries])
    if name == FRAME_COUNTS:
        return np.array([len(entry.embeddings[FRAMES]) for _, entry in entries])
    if name == FRAME_TIMES:
        return np.concatenate([entry.frame_times for _, entry in entries])
    rows = [entry.embeddings[name] for _, entry in entries]
    return np.concatenate(rows) if name == FRAMES else np.array(rows)
