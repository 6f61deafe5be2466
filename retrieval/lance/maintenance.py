"""Upkeep of the tables of an index: what is merged, indexed, and removed.

Each commit adds a file to most tables, and versions of them. ``optimize`` merges the files and
removes versions from before ``KEPT_S`` seconds, so that readers that have one open keep it for so
long. What the last commit names is never removed, even while another writer is at work: versions
are removed only from before that commit's own.
"""

import time
from datetime import datetime, timezone

from retrieval.lance.commits import TableState
from retrieval.lance.database import PURPOSE, Table
from retrieval.lance.schema import LOOKED_UP, WORDS
from utils.optional import import_optional

KEPT_S = 1800.0  # of versions that are not searched any more
MIN_INDEXED = 10_000  # rows of a table; fewer are looked through in as little time
_MARGIN_S = 1.0


def choose_kept_from(state: TableState, kept_s: float) -> datetime:
    """Return the time from which on versions of a table are kept, by that which counts now."""
    kept_from = min(time.time() - kept_s, state.since_s - _MARGIN_S)
    return datetime.fromtimestamp(kept_from, timezone.utc)


def create_missing_indexes(table: Table, rows: int) -> None:
    """Give a table of many rows the indexes by which they are looked up, where it has none."""
    columns = LOOKED_UP.get(table.name)
    if columns is None or rows < MIN_INDEXED:
        return
    index = import_optional("lancedb.index", PURPOSE)
    there = table.list_indexes()
    for column in columns:
        if f"{column}_idx" not in there:
            table.create_index(column, index.BTree(), f"{column}_idx")
    for column in ("text", "reduced") if table.name == WORDS else ():
        if f"{column}_fm" not in there:  # of parts of words, exactly: an FM index
            table.create_index(column, index.Fm(), f"{column}_fm")
