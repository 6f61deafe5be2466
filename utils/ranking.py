"""Ranks of the right videos and queries in a similarity matrix, by blocks of rows.

Shapes: Q queries, V videos, P right pairs. A rank starts at 1. Equal scores share the mean of
their ranks, so a constant matrix is chance. Nothing here needs more memory than one block beside
the matrix, which may be mapped from its file (``np.load(..., mmap_mode="r")``), or be an object
that gives its shape, blocks and scores of pairs (``evaluation/similarity_blocks.py``).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL_AT = (1, 5, 10, 50)
GEOMETRIC_MEAN = "geometric_mean_R1-R5-R10"
# Key of a metric -> whether its least or its greatest value is best.
METRIC_DIRECTIONS = {f"R{k}": "max" for k in RECALL_AT}
METRIC_DIRECTIONS |= {"MedR": "min", "MeanR": "min", GEOMETRIC_MEAN: "max"}
METRIC_KEYS = tuple(METRIC_DIRECTIONS)
BLOCK_SCORES = 2**18  # scores a block: one of float32 and its comparisons stay in the cache
MOST_ROWS = 255  # of a block, so that a column's count fits a byte


def compute_t2v_ranks(similarity: NDArray, query: ArrayLike, video: ArrayLike) -> NDArray:
    """Rank each query's best right video among the videos that are wrong for it.

    Args:
        similarity: (Q, V), finite.
        query: (P,) rows of the right pairs, each pair once.
        video: (P,) their columns.

    Returns:
        (Q,) float64, 1 + wrong videos above + half of the equal ones; NaN: no right video.

    Raises:
        ValueError: the pairs do not fit, or a score is not finite.
    """
    query, video = _check_pairs(similarity, query, video)
    own, best = _find_best(similarity, query, video, query, similarity.shape[0])
    above, equal = np.zeros(len(best)), np.zeros(len(best))
    for rows, block in iterate_blocks(similarity):
        mark = best[rows, None].astype(block.dtype)
        above[rows] = np.count_nonzero(block > mark, axis=1)
        equal[rows] = np.count_nonzero(block == mark, axis=1)
    right = np.bincount(query[own == best[query]], minlength=len(best))
    return _compute_ranks(above, equal - right, np.bincount(query, minlength=len(best)) > 0)


def compute_v2t_ranks(
    similarity: NDArray, query: ArrayLike, video: ArrayLike, own_ties: bool = False
) -> NDArray:
    """Rank each video's best right query among the queries that are wrong for it.

    Args:
        own_ties: also count the further right queries that score the same as the best, as the
            published metric does.

    Returns:
        (V,) float64, 1 + wrong queries above + half of the equal ones; NaN: no right query.

    Raises:
        ValueError: the pairs do not fit, or a score is not finite.
    """
    query, video = _check_pairs(similarity, query, video)
    own, best = _find_best(similarity, query, video, video, similarity.shape[1])
    above, equal = np.zeros(len(best)), np.zeros(len(best))
    for _, block in iterate_blocks(similarity):
        mark = best.astype(block.dtype)
        above += np.add.reduce((block > mark).view(np.uint8), axis=0, dtype=np.uint8)
        equal += np.add.reduce((block == mark).view(np.uint8), axis=0, dtype=np.uint8)
    has_right = np.bincount(video, minlength=len(best)) > 0
    right = has_right if own_ties else np.bincount(video[own == best[video]], minlength=len(best))
    return _compute_ranks(above, equal - right, has_right)


def summarize_ranks(ranks: NDArray) -> dict[str, float]:
    """Turn ranks, at least one and none of them NaN, into the metrics.

    Returns:
        ``METRIC_KEYS`` -> value; recalls in per cent.
    """
    metrics = {f"R{k}": 100.0 * float(np.mean(is_recalled(ranks, k))) for k in RECALL_AT}
    metrics["MedR"] = float(np.median(ranks))
    metrics["MeanR"] = float(np.mean(ranks))
    product = metrics["R1"] * metrics["R5"] * metrics["R10"]
    metrics[GEOMETRIC_MEAN] = float(np.cbrt(product))
    return metrics


def is_recalled(ranks: NDArray, k: int) -> NDArray:
    """Say which ranks are within the first K.

    A rank shared at the border (5.5 for K = 5) counts, as published; the first place must be held
    alone, so that equal scores never pass for a hit.
    """
    return ranks == 1 if k == 1 else ranks < k + 1


def iterate_blocks(similarity: Any) -> Iterator[tuple[slice | NDArray, NDArray]]:
    """Yield the rows of each block and its scores, at least as wide as float32.

    Raises:
        ValueError: a score is not finite; the message names its place.
    """
    own_blocks = getattr(similarity, "iterate_blocks", None)
    for rows, block in _split_matrix(similarity) if own_blocks is None else own_blocks():
        if block.dtype == np.float16:  # exact, and compared much faster
            block = block.astype(np.float32)
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                "the similarity matrix holds scores that are not finite: "
                f"{block[row, column]} in row {np.arange(len(similarity))[rows][row]}, "
                f"column {column}"
            )
        yield rows, block


def _split_matrix(similarity: NDArray) -> Iterator[tuple[slice, NDArray]]:
    size = min(MOST_ROWS, max(1, BLOCK_SCORES // max(1, similarity.shape[1])))
    for start in range(0, len(similarity), size):
        rows = slice(start, min(start + size, len(similarity)))
        yield rows, np.asarray(similarity[rows])


def _check_pairs(
    similarity: NDArray, query: ArrayLike, video: ArrayLike
) -> tuple[NDArray, NDArray]:
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"a similarity matrix has two dimensions, not shape {similarity.shape}")
    pairs = np.asarray(query), np.asarray(video)
    for name, index, size in zip(("query", "video"), pairs, similarity.shape, strict=True):
        whole = index.ndim == 1 and len(index) and index.dtype.kind in "iu"
        if not whole or len(index) != len(pairs[0]) or index.min() < 0 or index.max() >= size:
            raise ValueError(f"right pairs: {name} must hold whole numbers of 0 … {size - 1}")
    places = pairs[0].astype(np.int64) * similarity.shape[1] + pairs[1]
    if len(np.unique(places)) < len(places):
        raise ValueError("right pairs: a pair occurs twice")
    return pairs


def _find_best(
    similarity: NDArray, query: NDArray, video: NDArray, group: NDArray, count: int
) -> tuple[NDArray, NDArray]:
    """The score (P,) of each pair and the best one (count,) of each group, 0 where it is empty."""
    own = np.asarray(similarity[query, video])
    if own.dtype == np.float16:  # as ``iterate_blocks`` gives it
        own = own.astype(np.float32)
    is_float = own.dtype.kind == "f"  # whole numbers stay what they are: a float rounds large ones
    best = np.full(count, -np.inf if is_float else np.iinfo(own.dtype).min, own.dtype)
    with np.errstate(invalid="ignore"):  # NaN: ``iterate_blocks`` tells its place
        np.maximum.at(best, group, own)
    best[np.bincount(group, minlength=count) == 0] = 0
    return own, best


def _compute_ranks(above: NDArray, equal: NDArray, known: NDArray) -> NDArray:
    return np.where(known, 1 + above + equal / 2, np.nan)
