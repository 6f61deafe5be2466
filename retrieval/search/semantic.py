"""Semantic search: the entries whose embeddings are nearest to the query's.

Exact search is one matrix product over the file of the embeddings. A FAISS index, where
``index.py --ann`` has made one, proposes candidates, which are then compared exactly, as are all
entries that came after it was made.

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
        exact: do without the FAISS index.
    """
    ann = snapshot.load_ann() if rows is None and not exact else None
    if ann is not None:
        newer = np.arange(ann.num_rows, len(snapshot.ids))
        rows = np.setdiff1d(np.concatenate([ann.find_rows(query, count), newer]), snapshot.dead)
    if rows is None:
        embeddings = np.asarray(snapshot.embeddings)  # slices of the map itself are slow
        cosines = np.empty(len(embeddings), dtype=np.float32)
        for first in range(0, len(embeddings), CHUNK):
            part = slice(first, first + CHUNK)
            np.dot(embeddings[part], query, out=cosines[part])
        cosines[snapshot.dead] = -np.inf
        ids = snapshot.ids
    else:
        rows = np.sort(rows)
        cosines = snapshot.embeddings[rows] @ query
        ids = snapshot.ids[rows]
    count = min(count, snapshot.num_entries)
    if count < len(cosines):
        largest = np.argpartition(-cosines, count)[:count]
        ids, cosines = ids[largest], cosines[largest]
    order = np.lexsort((ids, -cosines))
    return ids[order], cosines[order]
