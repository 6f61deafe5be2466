"""Retrieval metrics of a similarity matrix: recall at K, median and mean rank.

A rank starts at 1. Equal scores share the mean of their ranks, so a constant matrix is chance.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from base.registry import METRICS

RECALL_AT = (1, 5, 10, 50)


@METRICS.register("t2v_metrics")
def t2v_metrics(similarity: NDArray, video_of_query: ArrayLike | None = None) -> dict[str, float]:
    """Metrics of finding a query's video.

    Args:
        similarity: (Q, V), queries by videos, finite.
        video_of_query: (Q,) column of each query's video; default: Q / V queries a video,
            those of one video side by side.

    Returns:
        ``R1``, ``R5``, ``R10``, ``R50`` in per cent, ``MedR``, ``MeanR`` and
        ``geometric_mean_R1-R5-R10``.

    Raises:
        ValueError: the shapes do not fit, or a score is not finite.
    """
    similarity, truth = _checked(similarity, video_of_query)
    return summary(ranks_of(similarity, truth))


@METRICS.register("v2t_metrics")
def v2t_metrics(similarity: NDArray, video_of_query: ArrayLike | None = None) -> dict[str, float]:
    """Metrics of finding a video's query: the best ranked of its queries counts.

    Arguments, result and errors are those of ``t2v_metrics``; videos without a query are left out.
    """
    similarity, truth = _checked(similarity, video_of_query)
    own = similarity[np.arange(len(truth)), truth]
    ranks = np.empty(len(truth))
    columns = similarity.T
    for query, video in enumerate(truth):
        ranks[query] = _rank(columns[video], own[query])
    best = np.full(similarity.shape[1], np.inf)
    np.minimum.at(best, truth, ranks)
    return summary(best[np.isfinite(best)])


def ranks_of(similarity: NDArray, target: NDArray) -> NDArray:
    """Return the mean rank (Q,) of column ``target[q]`` within row q; ranks start at 1."""
    own = similarity[np.arange(len(target)), target]
    return np.array([_rank(row, score) for row, score in zip(similarity, own, strict=True)])


def summary(ranks: NDArray) -> dict[str, float]:
    """Turn ranks into the metrics."""
    metrics = {f"R{k}": 100.0 * float(np.mean(_found(ranks, k))) for k in RECALL_AT}
    metrics["MedR"] = float(np.median(ranks))
    metrics["MeanR"] = float(np.mean(ranks))
    product = metrics["R1"] * metrics["R5"] * metrics["R10"]
    metrics["geometric_mean_R1-R5-R10"] = float(np.cbrt(product))
    return metrics


def _found(ranks: NDArray, k: int) -> NDArray:
    """Which ranks are within the first K.

    A rank shared at the border (5.5 for K = 5) counts, as published; the first place must be held
    alone, so that equal scores never pass for a hit.
    """
    return ranks == 1 if k == 1 else ranks < k + 1


def _rank(scores: NDArray, own: float) -> float:
    """The mean rank of ``own`` among ``scores``, of which it is one."""
    ahead = np.count_nonzero(scores > own)
    equal = np.count_nonzero(scores == own)
    return ahead + (equal + 1) / 2


def _checked(similarity: ArrayLike, video_of_query: ArrayLike | None) -> tuple[NDArray, NDArray]:
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"a similarity matrix has two dimensions, not shape {similarity.shape}")
    if not np.isfinite(similarity).all():
        raise ValueError("the similarity matrix holds scores that are not finite")
    queries, videos = similarity.shape
    if video_of_query is None:
        if queries % videos:
            raise ValueError(
                f"{queries} queries are no multiple of {videos} videos: give video_of_query"
            )
        return similarity, np.repeat(np.arange(videos), queries // videos)
    truth = np.asarray(video_of_query)
    whole = truth.shape == (queries,) and truth.dtype.kind in "iu"
    if not whole or truth.min() < 0 or truth.max() >= videos:
        raise ValueError(f"video_of_query must hold {queries} columns of 0 … {videos - 1}")
    return similarity, truth
