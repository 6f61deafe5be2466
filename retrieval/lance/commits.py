"""Commits of an index in LanceDB, which has transactions over one table only.

A writer first writes all tables, each of which gets new versions, and then the commit: the one row
of the table ``commits``, which names the version of each table that counts. So a reader sees one
state, and what a writer that was killed has left is named by no commit. The row is replaced only
where it is still that of the commit before: of two writers one fails, and nothing of the other is
lost.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from retrieval.errors import IndexFolderError
from retrieval.lance.database import DamagedStoreError, Database, quote, report_other_writer

COMMITS = "commits"
FORMAT_VERSION = 1  # of the tables


@dataclass(frozen=True)
class TableState:
    """Which version of a table counts."""

    version: int
    rows: int
    since_s: float  # when the commit that wrote it was begun, by the clock; the version is later


@dataclass(frozen=True)
class Commit:
    """One state of an index.

    Attributes:
        number: from 1; each commit has the next one.
        identity: of the index, by which another one at the same place is told.
        tables: by name.
        next_ids: what the next video, entry, line and word is given.
        retired: tables that are not searched any more -> since when, by the clock.
        may_have_unused_words: whether lines are gone, and perhaps words that no other line has.
        optimized_from: the next entry when the tables were optimized.
    """

    number: int
    identity: str
    meta: dict[str, Any]
    tables: dict[str, TableState] = field(default_factory=dict)
    next_ids: dict[str, int] = field(default_factory=dict)
    retired: dict[str, float] = field(default_factory=dict)
    may_have_unused_words: bool = False
    optimized_from: int = 1
    format: int = FORMAT_VERSION

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Commit":
        """Read what ``dump`` has made; raises ``ValueError``, ``TypeError`` or ``KeyError``."""
        values = json.loads(text)
        tables = {name: TableState(**state) for name, state in values.pop("tables").items()}
        return cls(tables=tables, **values)


class CommitLog:
    """The commits of an index; any thread may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.open(COMMITS)
        self._last: tuple[int, Commit] | None = None  # the version of the table, and its row

    @staticmethod
    def create(database: Database, first: Commit) -> None:
        """Write the first commit of an index, whose tables are there."""
        import pyarrow as pa

        schema = pa.schema([("number", pa.int64()), ("record", pa.string())])
        table = database.create(COMMITS, schema)
        row = {"number": [first.number], "record": [first.dump()]}
        table.append(pa.table(row, schema=schema))

    def read_newest(self) -> Commit | None:
        """Return the last commit; None where the making of the index was stopped before it."""
        version = self._table.follow()
        last = self._last
        if last is not None and last[0] == version:
            return last[1]
        rows = self._table.read(["number", "record"]).to_pylist()
        if not rows:
            return None
        location = self._database.location
        try:
            (row,) = rows
            wanted = json.loads(row["record"])["format"]
            if wanted > FORMAT_VERSION:
                raise IndexFolderError(
                    f"{location}: is an index of format {wanted} in LanceDB, from a newer version "
                    f"of this project; this one reads format {FORMAT_VERSION}: update the project, "
                    "or make the index anew"
                )
            commit = Commit.parse(row["record"])
        except IndexFolderError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            what = f"its row can't be read ({error})"
            raise DamagedStoreError(location, f"{COMMITS}.lance", what) from error
        self._last = version, commit
        return commit

    def append(self, commit: Commit) -> None:
        """Let a commit count; raises ``IndexFolderError`` where another writer has been faster."""
        record = commit.dump()
        values = {"number": commit.number, "record": record}
        try:
            num_replaced = self._table.replace(f"number = {commit.number - 1}", values)
        except IndexFolderError:
            # The answer may have been lost, and not the commit.
            if not self._holds(record):
                raise
            return
        if num_replaced != 1:
            raise report_other_writer(self._database.location)

    def _holds(self, record: str) -> bool:
        try:
            self._table.follow()
            return self._table.count(f"record = {quote(record)}") == 1
        except IndexFolderError:
            return False

    def optimize(self, kept_s: float) -> None:
        """Remove what is older than so many seconds."""
        from datetime import datetime, timezone

        self._table.optimize(datetime.fromtimestamp(time.time() - kept_s, timezone.utc))
