"""View of an index in LanceDB: its tables as one commit has them, and what is read of them once.

Any thread may use it. Shapes: N rows (one an entry, by id), V videos, E width of the common space.
"""

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.lance.commits import Commit
from retrieval.lance.database import Database, GoneVersionError, Table
from retrieval.lance.schema import ENTRIES, VIDEOS

if TYPE_CHECKING:
    import pyarrow as pa


class EntryColumns(NamedTuple):
    """Where the entry of each row is: (N,) each, by id."""

    ids: NDArray  # int64
    videos: NDArray  # int64 ids
    starts: NDArray  # float64, seconds
    ends: NDArray

    def find_rows(self, ids: NDArray) -> tuple[NDArray, NDArray]:
        """Return the rows (M,) of those of some entries (K,) that there are, and their ids (M,)."""
        rows = np.searchsorted(self.ids, ids)
        found = rows < len(self.ids)
        found[found] = self.ids[rows[found]] == ids[found]
        return rows[found], ids[found]


class CommitView:
    """The tables of a commit, opened when they are first needed."""

    def __init__(self, database: Database, commit: Commit) -> None:
        self.database, self.commit = database, commit
        self._lock = threading.RLock()
        self._tables: dict[str, Table] = {}
        self._entries: EntryColumns | None = None
        self._videos: pa.Table | None = None

    def open(self, name: str) -> Table:
        """Return a table as the commit has it; raises ``DamagedStoreError``."""
        with self._lock:
            if name not in self._tables:
                state = self.commit.tables[name]
                self._tables[name] = self.database.open(name, state.version)
                if (found := self._tables[name].count()) != state.rows:
                    del self._tables[name]
                    what = f"has {found} rows and not {state.rows}"
                    raise GoneVersionError(self.database.location, f"{name}.lance", what)
            return self._tables[name]

    @property
    def entries(self) -> EntryColumns:
        """Where the entries are."""
        with self._lock:
            if self._entries is None:
                found = self.open(ENTRIES).read(["id", "video_id", "start_s", "end_s"])
                columns = [column.to_numpy() for column in found.columns]
                order = np.argsort(columns[0], kind="stable")  # mostly as it is
                self._entries = EntryColumns(*(column[order] for column in columns))
            return self._entries

    @property
    def videos(self) -> "pa.Table":
        """All videos, by id."""
        with self._lock:
            if self._videos is None:
                table = self.open(VIDEOS)
                columns = ["id", "path", "stamp", "ocr_stamp", "duration_s", "width", "height"]
                self._videos = table.read(columns).sort_by("id").combine_chunks()
            return self._videos
