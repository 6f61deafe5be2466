"""Semantic search: the entries whose embeddings are nearest to the query's.

Exact is one matrix product over the file that holds the embeddings. A FAISS index, where
``index.py --ann`` has made one, proposes candidates, which are then compared exactly; entries that
came after it was made are all compared.

Shapes: N rows, E width of the common space, M found.
"""

import numpy as np
from numpy.typing import NDArray

from retrieval.search.snapshot import Snapshot

CHUNK = 65536  # rows of a product


def find_nearest(
    snapshot: Snapshot, query: NDArray, count: int, rows: NDArray | None = None, exact: bool = False
) -> tuple[NDArray, NDArray]:
    """Return ids (M,) and cosines (M,) of the nearest entries, nearest first, then by id.

    Args:
        query: (E,) of length 1.
        rows: the only ones to compare; None: all.
    """
    if rows is None and not exact:
        rows = _propose_rows(snapshot, query, count)
    if rows is None:
        cosines = _multiply(snapshot.embeddings, query)
        cosines[snapshot.dead] = -np.inf
        place = _find_largest(cosines, min(count, snapshot.num_entries))
    else:
        rows = np.sort(rows)
        cosines = snapshot.embeddings[rows] @ query
        place = _find_largest(cosines, count)
    ids = snapshot.ids[place if rows is None else rows[place]]
    order = np.lexsort((ids, -cosines[place]))
    return ids[order], cosines[place][order]


def _propose_rows(snapshot: Snapshot, query: NDArray, count: int) -> NDArray | None:
    """Return the rows that FAISS proposes, and those that it does not know; None without FAISS."""
    ann = snapshot.load_ann()
    if ann is None:
        return None
    newer = np.arange(ann.num_rows, len(snapshot.ids))
    rows = np.concatenate([ann.find_rows(query, count), newer])
    return np.setdiff1d(rows, snapshot.dead)


def _multiply(embeddings: NDArray, query: NDArray) -> NDArray:
    """Return (N,) products of all rows with a query, a chunk of rows at a time."""
    found = np.empty(len(embeddings), dtype=np.float32)
    plain = np.asarray(embeddings)  # the map itself would be asked about every slice
    for first in range(0, len(plain), CHUNK):
        part = slice(first, first + CHUNK)
        np.dot(plain[part], query, out=found[part])
    return found


def _find_largest(values: NDArray, count: int) -> NDArray:
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]
