"""Retrieval metrics of a similarity matrix: recall at K, median and mean rank.

A rank starts at 1. Equal scores share the mean of their ranks, so a constant matrix is chance.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from base.registry import METRICS
from utils.ranking import METRIC_DIRECTIONS, compute_t2v_ranks, compute_v2t_ranks, summarize_ranks


@METRICS.register("t2v_metrics", keys=METRIC_DIRECTIONS)
def t2v_metrics(similarity: NDArray, video_of_query: ArrayLike | None = None) -> dict[str, float]:
    """Metrics of finding a query's video.

    Args:
        similarity: (Q, V), queries by videos, finite.
        video_of_query: (Q,) column of each query's video; default: Q / V queries a video,
            those of one video side by side.

    Returns:
        ``METRIC_DIRECTIONS``' keys -> value; recalls in per cent.

    Raises:
        ValueError: the shapes do not fit, or a score is not finite.
    """
    similarity, truth = _check_input(similarity, video_of_query)
    return summarize_ranks(compute_t2v_ranks(similarity, np.arange(len(truth)), truth))


@METRICS.register("v2t_metrics", keys=METRIC_DIRECTIONS)
def v2t_metrics(similarity: NDArray, video_of_query: ArrayLike | None = None) -> dict[str, float]:
    """Metrics of finding a video's query: the best ranked of its queries counts.

    Arguments, result and errors are those of ``t2v_metrics``; videos without a query are left out.
    """
    similarity, truth = _check_input(similarity, video_of_query)
    ranks = compute_v2t_ranks(similarity, np.arange(len(truth)), truth, own_ties=True)
    return summarize_ranks(ranks[~np.isnan(ranks)])


def _check_input(
    similarity: ArrayLike, video_of_query: ArrayLike | None
) -> tuple[NDArray, NDArray]:
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"a similarity matrix has two dimensions, not shape {similarity.shape}")
    queries, videos = similarity.shape
    if video_of_query is None:
        if queries % videos:
            raise ValueError(
                f"{queries} queries are no multiple of {videos} videos: give video_of_query"
            )
        return similarity, np.repeat(np.arange(videos), queries // videos)
    truth = np.asarray(video_of_query)
    is_list = truth.shape == (queries,) and truth.dtype.kind in "iu"
    if not is_list or truth.min() < 0 or truth.max() >= videos:
        raise ValueError(f"video_of_query must hold {queries} columns of 0 … {videos - 1}")
    return similarity, truth
