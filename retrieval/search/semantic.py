"""Semantic search: the entries whose vectors are nearest to the query's.

Exact search is one matrix product over all vectors. An index of nearest neighbours, where
``index.py --ann`` has made one, proposes candidates, which are then compared exactly, as are all
entries that came after it was made. An entry's score is the cosine of its window's embedding, or
the mean of that and its best frame's: see ``retrieval.index.vectors``.

Shapes: N rows, E width of the common space, M found.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.search.snapshot import Snapshot


class Nearest(NamedTuple):
    """The nearest entries, nearest first, then by id."""

    ids: NDArray  # (M,) int64
    scores: NDArray  # (M,) float32
    all_scores: NDArray | None  # (N,) of all rows, where all were compared


def find_nearest(
    snapshot: Snapshot,
    query: NDArray,
    count: int,
    rows: NDArray | None = None,
    exact: bool = False,
    seen: NDArray | None = None,
) -> Nearest:
    """Return the nearest entries.

    Args:
        query: (E,) of length 1.
        rows: the only ones to compare; None: all.
        exact: do without the index of nearest neighbours.
        seen: (E,), a part of the query that is compared with the embeddings without OCR words; the
            index of nearest neighbours, which does not have these, is then left aside.
    """
    vectors = snapshot.vectors
    if rows is None and not exact and seen is None:
        candidates = vectors.find_candidates(query, count)
        rows = None if candidates is None else np.setdiff1d(candidates, snapshot.dead)
    all_scores = None
    if rows is None:
        all_scores = scores = snapshot.score_all(query)
        if seen is not None:
            scores += vectors.score_all_without("ocr", seen)
        scores[snapshot.dead] = -np.inf
        ids = snapshot.ids
    else:
        rows = np.sort(rows)
        scores = vectors.score_rows(query, rows)
        if seen is not None:
            scores += vectors.read_without("ocr", rows) @ seen
        ids = snapshot.ids[rows]
    count = min(count, snapshot.num_entries)
    if count < len(scores):
        largest = np.argpartition(-scores, count)[:count]
        ids, scores = ids[largest], scores[largest]
    order = np.lexsort((ids, -scores))
    return Nearest(ids[order], scores[order], all_scores)
