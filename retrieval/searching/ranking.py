"""Two lists become one: weighted reciprocal-rank fusion (Cormack, Clarke, Büttcher 2009)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OFFSET = 60  # the paper's k: how little the very first ranks stand out


class Ranked(NamedTuple):
    """A list of entries.

    Attributes:
        ids: (N,) int64, best first.
        scores: (N,), descending.
        ranks: (N,) int64 from 1; equal scores share the best of their ranks.
    """

    ids: NDArray
    scores: NDArray
    ranks: NDArray

    def rank_of(self, entry: int) -> int | None:
        """Return the rank of an entry, or None where it is not in the list."""
        place = np.flatnonzero(self.ids == entry)
        return int(self.ranks[place[0]]) if len(place) else None


def ranked(ids: NDArray, scores: NDArray) -> Ranked:
    """Return a list with its ranks.

    Args:
        ids: (N,) best first.
        scores: (N,) descending.
    """
    is_first = np.diff(scores, prepend=np.inf) != 0
    ranks = np.maximum.accumulate(np.where(is_first, np.arange(1, len(ids) + 1), 0))
    return Ranked(ids, scores, ranks)


def fuse(lists: Sequence[Ranked], weights: Sequence[float]) -> Ranked:
    """Return every entry of the lists, best first, then by id.

    Args:
        lists: to be joined.
        weights: of each; a score is the sum of weight / (``OFFSET`` + rank).
    """
    ids, place = np.unique(np.concatenate([each.ids for each in lists]), return_inverse=True)
    parts = [w / (OFFSET + each.ranks) for each, w in zip(lists, weights, strict=True)]
    scores = np.bincount(place, weights=np.concatenate(parts), minlength=len(ids))
    order = np.lexsort((ids, -scores))
    return ranked(ids[order], scores[order])
