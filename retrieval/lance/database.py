"""LanceDB database of an index: how it is opened, its tables, and its errors.

A table is a folder of files that are never changed; each write adds a version, of which a reader
sees one. The tables lie beside each other in the index's folder, on a local disk or in object
storage, where LanceDB takes keys and endpoints from the environment (``AWS_*``, ``GOOGLE_*``).
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import DamagedIndexError, IndexFolderError
from utils.errors import UserError, shorten
from utils.optional import import_optional

if TYPE_CHECKING:
    import pyarrow as pa

PURPOSE = "an index in LanceDB"
SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
# A request that is not answered is given up, and repeated a few times: a command ends in any case.
_WAITING = {
    "connect_timeout": "5s",
    "timeout": "60s",
    "client_max_retries": "3",
    "client_retry_timeout": "20",
}
# The same of the first request, for LanceDB makes several of it: whether there is an answer at all.
FIRST_WAITING = _WAITING | {"timeout": "5s", "client_max_retries": "1"}
# What LanceDB says where storage can't be reached, or doesn't let us.
_UNREACHABLE = re.compile(
    "connect|timed? ?out|dns|RetryError|TokenRequest|dispatch failure|HTTP error|HttpError|"
    "generic (s3|gcs|microsoftazure) error",
    re.I,
)
_FORBIDDEN = re.compile(
    "forbidden|unauthori[sz]ed|(access|permission) ?denied|signature|credential|status: 40[13]",
    re.I,
)
_CONFLICT = re.compile("conflict|concurrent (transaction|writer)|preempted", re.I)
_FULL = re.compile("no space|disk quota|read-only file system", re.I)
_NO_BUCKET = re.compile("NoSuchBucket|bucket does not exist", re.I)
_GONE = re.compile("not found|no longer exists|does not exist|NoSuchKey", re.I)
_SOURCE = re.compile(r",? *(?:/[\w./+-]+|[\w-]+)/src/[\w./-]+:\d+(?::\d+)?")  # of LanceDB's code


class DamagedStoreError(DamagedIndexError):
    """Something in an index in LanceDB is not what was written there."""

    def __init__(self, location: str, file: str, what: str) -> None:
        UserError.__init__(
            self,
            f"{location}: {file}: {what}; the index is damaged: put it back from a copy, or remove "
            "it and make it anew",
        )
        self.folder, self.file, self.what = location, file, what


class GoneVersionError(DamagedStoreError):
    """A file or a version that a commit names is not there; perhaps it was cleaned up."""


def report_other_writer(location: str) -> IndexFolderError:
    """Return the error where two write to one index."""
    return IndexFolderError(
        f"{location}: another index.py is writing to it; nothing of what either has finished is "
        "lost: wait until it has ended, and run the command again"
    )


def explain(location: str, name: str, error: Exception) -> IndexFolderError:
    """Return the error for the user where LanceDB can't read or write a table."""
    said = _SOURCE.sub("", " ".join(str(error).split()))
    short = shorten(said, 300)
    if _CONFLICT.search(said):
        return report_other_writer(location)
    if _FULL.search(said):
        return IndexFolderError(
            f"{location}: can't be written ({short}); what was finished before is kept: free some "
            "space, or give access, and run the command again"
        )
    if _NO_BUCKET.search(said):
        return IndexFolderError(f"{location}: there is no such bucket; make it, or correct the URL")
    if _FORBIDDEN.search(said):
        return IndexFolderError(
            f"{location}: access is refused ({short}); give keys in the environment (docs/lance.md)"
        )
    if _UNREACHABLE.search(said):
        return IndexFolderError(
            f"{location}: can't be reached ({short}); check the URL, the network, and the "
            "environment (docs/lance.md), and run the command again"
        )
    kind = GoneVersionError if _GONE.search(said) else DamagedStoreError
    return kind(location, f"{name}.lance", f"can't be read ({short})")


class Database:
    """The tables of one place; any thread may use it. Raises ``UserError`` without LanceDB.

    Args:
        address: an absolute path, or a URL of object storage.
        location: the same as the user gave it, for messages.
    """

    def __init__(self, address: str, location: str) -> None:
        # Otherwise it warns of every table that it makes.
        os.environ.setdefault("LANCEDB_LOG", "error")
        lancedb = import_optional("lancedb", PURPOSE)
        self.location = location
        options: dict[str, str] | None = None
        with self._explaining("index"):
            if SCHEME.match(address):
                endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
                more = {"allow_http": "true"} if (endpoint or "").startswith("http://") else {}
                options = _WAITING | more
                first = lancedb.connect(address, storage_options=FIRST_WAITING | more)
                first.list_tables(limit=1)
            self._connection = lancedb.connect(address, storage_options=options)

    @contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (RuntimeError, ValueError, OSError) as error:  # LanceDB has no errors of its own
            raise explain(self.location, name, error) from error

    def list_names(self) -> list[str]:
        """Return the names of the tables that there are."""
        with self._explaining("index"):
            names: list[str] = []
            token = None
            while True:
                found = self._connection.list_tables(page_token=token, limit=1000)
                names += found.tables
                token = found.page_token
                if not token:
                    return names

    def has(self, name: str) -> bool:
        """Whether there is a table of this name."""
        return name in self.list_names()

    def create(self, name: str, schema: "pa.Schema") -> "Table":
        """Make an empty table, in the place of one of this name."""
        with self._explaining(name):
            created = self._connection.create_table(name, schema=schema, mode="overwrite")
            return Table(self, name, created)

    def open(self, name: str, version: int | None = None) -> "Table":
        """Open a table at a version; None: at the last one, and to be written to."""
        with self._explaining(name):
            table = self._connection.open_table(name)
            if version is not None:
                table.checkout(version)
            return Table(self, name, table)

    def drop(self, name: str) -> None:
        """Remove a table, if it is there."""
        with self._explaining(name):
            self._connection.drop_table(name, ignore_missing=True)


class Table:
    """One table at one version; whoever writes sees what it has written.

    Conditions are SQL of DataFusion. Rows come in the order in which they were written.
    """

    def __init__(self, database: Database, name: str, inner: Any) -> None:
        self._database, self.name, self._inner = database, name, inner

    def _explaining(self) -> Any:
        return self._database._explaining(self.name)

    @property
    def version(self) -> int:
        """Number of the version that is seen."""
        with self._explaining():
            return self._inner.version

    def read(self, columns: Sequence[str], where: str | None = None) -> "pa.Table":
        """Return columns of the rows that fit a condition."""
        with self._explaining():
            return self._query(columns, where).to_arrow()

    def scan(
        self, columns: Sequence[str], where: str | None = None, rows: int = 8192
    ) -> "Iterator[pa.RecordBatch]":
        """Yield columns of the rows that fit a condition, up to so many rows at a time."""
        with self._explaining():
            batches = iter(self._query(columns, where).to_batches(rows))
        while True:
            with self._explaining():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def stream(self, where: str) -> "pa.RecordBatchReader":
        """Return all columns of the rows that fit a condition, as another table is given them."""
        import pyarrow as pa

        schema = self._inner.schema
        return pa.RecordBatchReader.from_batches(schema, self.scan(schema.names, where, rows=1024))

    def _query(self, columns: Sequence[str], where: str | None) -> Any:
        query = self._inner.search().select(list(columns))
        return query if where is None else query.where(where)

    def take(self, columns: Sequence[str], offsets: NDArray) -> "pa.Table":
        """Return columns of the rows at these offsets (K,) of a scan, ascending, in their order."""
        with self._explaining():
            return self._inner.take_offsets(offsets.tolist()).select(list(columns)).to_arrow()

    def find_nearest(
        self, column: str, query: NDArray, count: int, metric: str, probes: int
    ) -> NDArray:
        """Return the ids (M,) of up to ``count`` rows near a query (E,), by an index of a column.

        Rows that the index doesn't cover are compared, too.
        """
        with self._explaining():
            search = self._inner.search(query, vector_column_name=column).distance_type(metric)
            found = search.nprobes(probes).limit(count).select(["id", "_distance"]).to_arrow()
            return found["id"].to_numpy()

    def count(self, where: str | None = None) -> int:
        """Return how many rows fit a condition; without one, that takes no time."""
        with self._explaining():
            return self._inner.count_rows(where)

    def count_fragments(self) -> int:
        """Return how many parts the table has been written in, since it was compacted."""
        with self._explaining():
            return self._inner.stats()["fragment_stats"]["num_fragments"]

    def follow(self) -> int:
        """See the last version from now on; returns its number."""
        with self._explaining():
            self._inner.checkout_latest()
            return self._inner.version

    def restore(self, version: int) -> None:
        """Make a former version the last one."""
        with self._explaining():
            self._inner.checkout(version)
            self._inner.restore()

    def append(self, rows: "pa.Table | pa.RecordBatchReader") -> None:
        """Write rows behind those that there are."""
        with self._explaining():
            self._inner.add(rows)

    def delete(self, where: str) -> None:
        """Delete the rows that fit a condition."""
        with self._explaining():
            self._inner.delete(where)

    def replace(self, where: str, values: dict[str, Any]) -> int:
        """Set values in the rows that fit a condition when it is done; returns how many did."""
        with self._explaining():
            return self._inner.update(where=where, values=values).rows_updated

    def list_indexes(self) -> dict[str, str]:
        """Return the kind of each index by its name."""
        with self._explaining():
            return {found.name: found.index_type for found in self._inner.list_indices()}

    def create_index(self, column: str, config: Any, name: str | None = None) -> None:
        """Make an index of a column, in the place of one of this name."""
        with self._explaining():
            self._inner.create_index(column, config=config, name=name or f"{column}_idx")

    def drop_index(self, name: str) -> None:
        """Remove an index."""
        with self._explaining():
            self._inner.drop_index(name)

    def optimize(self, kept_from: datetime) -> None:
        """Merge small files, bring indexes up to date, and remove versions from before a time."""
        with self._explaining():
            age = max(timedelta(seconds=1), datetime.now(timezone.utc) - kept_from)
            self._inner.optimize(cleanup_older_than=age)


def list_in(column: str, values: Sequence[int] | NDArray) -> str:
    """Return the condition that a column has one of these integers, of which there is one."""
    return f"{column} IN ({', '.join(map(str, np.asarray(values).tolist()))})"


def quote(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
