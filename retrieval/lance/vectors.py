"""Vectors of an index in LanceDB, and how near a query is to them.

Those that are compared with every query are kept in memory where they have room there
(``MAX_RESIDENT`` bytes); of the next commit only the new ones are read. Otherwise they are read
from storage for each query, a part at a time. With an index of nearest neighbours a query reads its
candidates alone, unless the vectors are in memory by an exact one. Either way they are multiplied
as those of a folder are (``retrieval.index.vectors``).

Shapes: N rows, E width of the common space, K asked for.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.arrays import keeps_frames
from retrieval.index.vectors import BestFrame, EntryVectors, FrameVectors, multiply_rows
from retrieval.lance.database import DamagedStoreError, Table
from retrieval.lance.schema import PARTS, WINDOW, name_vectors, read_flat, read_vectors
from retrieval.lance.view import CommitView
from utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY_VARIABLE = "TEXTVR_VECTORS_GB"  # of memory that the vectors of an index may take
MAX_RESIDENT = 2 << 30  # bytes of vectors that are kept in memory
# Partitions of the index of nearest neighbours that a query looks into. Of the 1,000 of a million
# vectors 64 have 0.97 of its ten nearest, 256 have 0.995.
PROBES = 256
_ROWS = 4096  # that are read at a time
_MOST_TAKEN = 0.5  # share of the rows from which on all are read, which is faster
WINDOW_INDEX, FRAME_INDEX = "ann_windows", "ann_frames"


def get_max_resident() -> int:
    """Return how many bytes of vectors are kept in memory; raises ``UserError``."""
    given = os.environ.get(MEMORY_VARIABLE)
    try:
        return MAX_RESIDENT if not given else int(float(given) * (1 << 30))
    except (ValueError, OverflowError) as error:
        raise UserError(f'{MEMORY_VARIABLE} is "{given}"; give a number of GiB') from error


class Resident(NamedTuple):
    """The vectors of all rows of a commit, in memory."""

    table: str  # where they come from
    ids: NDArray  # (N,) int64, ascending
    vectors: EntryVectors


class ResidentVectors:
    """What is in memory of the last commit that was searched, for the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Resident | None = None

    def load(self, reader: "LanceVectors") -> EntryVectors:
        """Return all vectors of a commit; those that were there already are not read again."""
        with self._lock:
            last = self._last
            if last is None or last.table != reader.table_name:
                vectors = reader.read_all()
            elif np.array_equal(last.ids, reader.ids):
                vectors = last.vectors
            else:
                vectors = _update_vectors(last, reader)
            self._last = Resident(reader.table_name, reader.ids, vectors)
            return vectors

    def clear(self) -> None:
        """Release the memory."""
        with self._lock:
            self._last = None


def _update_vectors(last: Resident, reader: "LanceVectors") -> EntryVectors:
    """Return the vectors of a commit by those of an earlier one, whose entries have not changed."""
    is_new = ~np.isin(reader.ids, last.ids, assume_unique=True)
    if is_new.mean() > _MOST_TAKEN:
        return reader.read_all()
    kept = np.searchsorted(last.ids, reader.ids[~is_new])
    parts = [last.vectors, reader.read_rows(np.flatnonzero(is_new))]
    # Where each row is in both parts, one after the other.
    places = np.empty(len(reader.ids), dtype=np.int64)
    places[~is_new], places[is_new] = kept, len(last.ids) + np.arange(is_new.sum())
    return join_vectors(parts).take(places)


def join_vectors(parts: Sequence[EntryVectors]) -> EntryVectors:
    """Return vectors, one after the other."""
    windows = np.concatenate([part.windows for part in parts])
    frames = [part.frames for part in parts if part.frames is not None]
    if not frames:
        return EntryVectors(windows)
    columns = zip(*((part.vectors, part.times, part.counts) for part in frames), strict=True)
    return EntryVectors(windows, FrameVectors(*(np.concatenate(column) for column in columns)))


class LanceVectors:
    """The vectors of one commit, as ``retrieval.index.store.VectorReader``.

    Attributes:
        ids: (N,) int64: row -> entry, ascending.
        table_name: of the table that has them.
    """

    def __init__(self, view: CommitView, resident: ResidentVectors) -> None:
        meta = view.commit.meta
        self._view, self._resident = view, resident
        self.ids = view.entries.ids
        self.width, self.num_rows = meta.get("width") or 0, len(self.ids)
        self.num_frames: int | None = meta.get("num_frames")
        self.parts: tuple[str, ...] = tuple(meta["leaves_out"]) if self.width else ()
        self._ann: dict[str, Any] | None = meta.get("ann")
        self.table_name = name_vectors(meta) or ""
        self._columns = [WINDOW]
        if keeps_frames(meta):
            self._columns += ["frames", "frame_times"]
        self._lock = threading.RLock()
        self._offsets: NDArray | None = None  # (N,) place of each row in a scan of the table
        self._all: EntryVectors | None = None
        self._taken: tuple[NDArray, EntryVectors] | None = None  # the last rows, ascending

    @property
    def _table(self) -> Table:
        return self._view.open(self.table_name)

    @property
    def _has_room(self) -> bool:
        """Whether all vectors may be kept in memory."""
        size = self.num_rows * self.width * 4 + (self.num_frames or 0) * self.width * 2
        return size <= get_max_resident()

    @property
    def _is_resident(self) -> bool:
        """Whether some rows are taken from memory: with an index only where all are there."""
        return self._has_room and (self._ann is None or self._all is not None)

    def check(self) -> None:
        """See that there are as many vectors as entries; raises ``DamagedStoreError``."""
        if self.width and self._table.count() != self.num_rows:
            what = f"has {self._table.count()} rows, and there are {self.num_rows} entries"
            raise DamagedStoreError(self._view.database.location, f"{self.table_name}.lance", what)

    def score_together(self, queries: Sequence[NDArray]) -> list[NDArray]:
        """Return the scores (N,) float32 of every row for each of some queries (E,)."""
        if self._has_room:
            return self._load().score_together(queries)
        scores = np.empty((len(queries), self.num_rows), dtype=np.float32)
        for rows, vectors in self._scan(self._columns):
            scores[:, rows] = np.stack(self._build(vectors).score_together(queries))
        return list(scores)

    def score_rows(self, query: NDArray, rows: NDArray) -> NDArray:
        """Return the scores (K,) float32 of some rows (K,) for a query (E,)."""
        if self._is_resident:
            return self._load().score_rows(query, rows)
        if len(rows) > _MOST_TAKEN * self.num_rows:
            return self.score_together([query])[0][rows]
        return self.take(rows).score_rows(query, np.arange(len(rows)))

    def score_all_without(self, part: str, query: NDArray) -> NDArray:
        """Return the products (N,) of a query (E,) with the windows without a part."""
        products = np.empty(self.num_rows, dtype=np.float32)
        for rows, found in self._scan([PARTS[part]]):
            vectors = read_vectors(found.column(PARTS[part]), self.width)
            products[rows] = multiply_rows(vectors, query[None])[0]
        return products

    def read_windows(self, rows: NDArray) -> NDArray:
        """Return the vectors (K, E) float32 of the windows of some rows (K,)."""
        if not self.width:
            return np.empty((len(rows), 0), dtype=np.float32)
        return self._load().windows[rows] if self._is_resident else self.take(rows).windows

    def read_without(self, part: str, rows: NDArray) -> NDArray:
        """Return those (K, E) float32 without a part."""
        chosen, places = np.unique(rows, return_inverse=True)
        found = self._read([PARTS[part]], chosen)
        return read_vectors(found.column(PARTS[part]), self.width)[places]

    def take(self, rows: NDArray) -> EntryVectors:
        """Return all vectors of some rows (K,), in memory."""
        if self._is_resident:
            return self._load().take(rows)
        chosen, places = np.unique(rows, return_inverse=True)
        with self._lock:
            taken = self._taken
        # Hits are looked at one by one after they were compared together.
        if taken is None or not np.isin(chosen, taken[0], assume_unique=True).all():
            taken = chosen, self.read_rows(chosen)
            with self._lock:
                self._taken = taken
        return taken[1].take(np.searchsorted(taken[0], chosen)[places])

    def find_best_frame(self, query: NDArray, row: int) -> BestFrame | None:
        """Return the best frame of a row, the first of equal ones; None without frame vectors."""
        if self.num_frames is None:
            return None
        return self.take(np.array([row])).find_best_frame(query, 0)

    def find_candidates(self, query: NDArray, count: int) -> NDArray | None:
        """Return distinct rows (K,) among which the nearest to a query (E,) should be; or None.

        The index of windows proposes up to ``count``, and that of frames as many; all rows that
        they do not cover follow.
        """
        if self._ann is None:
            return None
        table, query = self._table, np.asarray(query, dtype=np.float32)
        ids = [table.find_nearest(WINDOW, query, count, "dot", PROBES)]
        if self.num_frames is not None:
            ids.append(table.find_nearest("frames", query, count, "cosine", PROBES))
        covered = np.searchsorted(self.ids, self._ann["last_entry"], side="right")
        rows = np.searchsorted(self.ids, np.concatenate(ids))
        return np.union1d(rows, np.arange(covered, self.num_rows))

    def read_all(self) -> EntryVectors:
        """Read the vectors of all rows into memory."""
        if not self.width:
            return EntryVectors(np.empty((self.num_rows, 0), dtype=np.float32))
        windows = np.empty((self.num_rows, self.width), dtype=np.float32)
        order, frames = np.empty(self.num_rows, dtype=np.int64), []
        first = 0
        for rows, found in self._scan(self._columns):
            part = self._build(found)
            windows[rows] = part.windows
            order[first : first + len(rows)] = rows
            first += len(rows)
            if part.frames is not None:
                frames.append(part.frames)
        if not frames:
            return EntryVectors(windows, self._build_no_frames())
        columns = zip(*((part.vectors, part.times, part.counts) for part in frames), strict=True)
        joined = FrameVectors(*(np.concatenate(column) for column in columns))
        if (np.diff(order) < 0).any():
            joined = joined.take(np.argsort(order))
        return EntryVectors(windows, joined)

    def read_rows(self, rows: NDArray) -> EntryVectors:
        """Read the vectors of some rows (K,), ascending."""
        return self._build(self._read(self._columns, rows))

    def _load(self) -> EntryVectors:
        with self._lock:
            if self._all is None:
                self._all = self._resident.load(self)
            return self._all

    def _scan(self, columns: Sequence[str]) -> "Iterator[tuple[NDArray, pa.RecordBatch]]":
        """Yield the rows (K,) of a part of the table, and columns of it."""
        total = 0
        for batch in self._table.scan(["id", *columns], rows=_ROWS):
            yield self._find_rows(batch.column("id").to_numpy()), batch
            total += batch.num_rows
        if total != self.num_rows:
            self.check()
            raise AssertionError(f"{total} rows of {self.num_rows} were read")

    def _find_rows(self, ids: NDArray) -> NDArray:
        rows, found = self._view.entries.find_rows(ids)
        if len(found) != len(ids):
            what = "has vectors of entries that are not there"
            raise DamagedStoreError(self._view.database.location, f"{self.table_name}.lance", what)
        return rows

    def _read(self, columns: Sequence[str], rows: NDArray) -> "pa.Table | pa.RecordBatch":
        """Return columns of some rows (K,), ascending."""
        with self._lock:
            if self._offsets is None:
                found = self._find_rows(self._table.read(["id"])["id"].to_numpy())
                self._offsets = np.argsort(found)
            offsets = self._offsets[rows]
        order = np.argsort(offsets)
        found = self._table.take(["id", *columns], offsets[order])
        back = np.argsort(order)
        return found if (np.diff(back) > 0).all() else found.take(back)

    def _build(self, found: "pa.Table | pa.RecordBatch") -> EntryVectors:
        windows = read_vectors(found.column(WINDOW), self.width)
        if self.num_frames is None:
            return EntryVectors(windows)
        if not found.num_rows:
            return EntryVectors(windows, self._build_no_frames())
        counts, vectors = read_flat(found.column("frames"))
        _, times = read_flat(found.column("frame_times"))
        return EntryVectors(windows, FrameVectors(vectors.reshape(-1, self.width), times, counts))

    def _build_no_frames(self) -> FrameVectors | None:
        if self.num_frames is None:
            return None
        vectors = np.empty((0, self.width), dtype=np.float16)
        return FrameVectors(vectors, np.empty(0), np.empty(0, dtype=np.int32))
