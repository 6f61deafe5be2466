"""Two lists become one: weighted reciprocal-rank fusion (Cormack, Clarke, Büttcher 2009)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

OFFSET = 60  # the paper's k: how little the very first ranks stand out


def ranks_of(ids: NDArray, scores: NDArray) -> dict[int, int]:
    """Return entry -> rank from 1; equal scores share the best of their ranks.

    Args:
        ids: (N,) best first.
        scores: (N,) descending.
    """
    first = np.concatenate([[True], scores[1:] != scores[:-1]]) if len(scores) else scores
    ranks = np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0)) + 1
    return dict(zip(ids.tolist(), ranks.tolist(), strict=True))


def fuse(
    lists: Mapping[str, Mapping[int, int]], weights: Mapping[str, float]
) -> list[tuple[int, float]]:
    """Return (entry, score) of every entry of the lists, best first, then by entry.

    Args:
        lists: name -> entry -> rank.
        weights: of each list; a score is the sum of weight / (``OFFSET`` + rank).
    """
    scores: dict[int, float] = {}
    for name, ranks in lists.items():
        for entry, rank in ranks.items():
            scores[entry] = scores.get(entry, 0.0) + weights[name] / (OFFSET + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
