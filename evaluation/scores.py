"""Everything that is said of a similarity matrix: metrics, their bounds, intervals, breakdowns.

Two truths stand side by side. One right video: a caption's own, as published. Equal captions: every
video that has an equal caption, since no model can tell these queries apart.

Shapes: Q captions, V videos, P right pairs.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.registry import METRICS
from evaluation.ground_truth import GroundTruth, normalize_caption
from utils.ranking import compute_t2v_ranks, compute_v2t_ranks, is_recalled, summarize_ranks

T2V, V2T = "t2v_metrics", "v2t_metrics"
BREAKDOWN_KEYS = ("R1", "R5", "R10", "MedR")
RESAMPLES, LEVEL, SEED = 1000, 95.0, 0

Metrics = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scores:
    """The numbers of one matrix; the first key is always a metric's registered name.

    Attributes:
        metrics: one right video a caption, as published.
        equal_captions: every video with an equal caption is right.
        best: the best possible value of ``metrics``.
        equal_best: the best possible value of ``equal_captions``.
        intervals: of R1: truth -> metric -> (low, high) in per cent.
        breakdown: of t2v with one right video: kind -> group -> key -> value, with ``count``.
        queries: the rows and columns.
        ranks: (Q,) or (V,) of ``metrics``; NaN: a video without a caption.
        equal_ranks: those of ``equal_captions``.
    """

    metrics: Metrics
    equal_captions: Metrics
    best: Metrics
    equal_best: Metrics
    intervals: dict[str, dict[str, tuple[float, float]]]
    breakdown: dict[str, dict[str, dict[str, float]]]
    queries: GroundTruth
    ranks: dict[str, NDArray] = field(compare=False)  # arrays have no one truth value
    equal_ranks: dict[str, NDArray] = field(compare=False)


def score_similarity(
    similarity: NDArray, queries: GroundTruth, names: Sequence[str] = (T2V, V2T)
) -> Scores:
    """Score a matrix.

    Args:
        similarity: (Q, V), finite; may be mapped from its file.
        queries: its rows and columns; at least one of each.
        names: registered metrics; those other than t2v_metrics and v2t_metrics have no equal
            captions, bounds and intervals.

    Raises:
        ValueError: the shapes do not fit, or a score is not finite.
    """
    if similarity.shape != queries.shape:
        raise ValueError(f"a matrix of {similarity.shape} for {queries.shape} captions and videos")
    own, equal = _compute_all_ranks(similarity, queries, names)
    best = {T2V: compute_best_t2v_ranks, V2T: compute_best_v2t_ranks}
    intervals = {
        kind: {name: _compute_r1_interval(name, ranks[name], queries) for name in ranks}
        for kind, ranks in (("one_right_video", own), ("equal_captions", equal))
    }
    return Scores(
        metrics={
            name: _summarize(own[name])
            if name in own
            else METRICS.get(name)(similarity, queries.video_of_query)
            for name in names
        },
        equal_captions={name: _summarize(ranks) for name, ranks in equal.items()},
        best={name: _summarize(best[name](queries)) for name in own},
        equal_best={name: summarize_ranks(np.ones(1)) for name in equal},
        intervals=intervals,
        breakdown=compute_breakdowns(own[T2V], queries) if T2V in own else {},
        queries=queries,
        ranks=own,
        equal_ranks=equal,
    )


def _compute_all_ranks(
    similarity: NDArray, queries: GroundTruth, names: Sequence[str]
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The ranks of each metric: with one right video, and with those of equal captions."""
    pairs, equal_pairs = queries.get_positive_pairs(), queries.get_equal_caption_pairs()
    own, equal = {}, {}
    if T2V in names:
        own[T2V] = compute_t2v_ranks(similarity, *pairs)
        equal[T2V] = compute_t2v_ranks(similarity, *equal_pairs)
    if V2T in names:
        own[V2T] = compute_v2t_ranks(similarity, *pairs, own_ties=True)
        equal[V2T] = compute_v2t_ranks(similarity, *equal_pairs)
    return own, equal


def _summarize(ranks: NDArray) -> dict[str, float]:
    return summarize_ranks(ranks[~np.isnan(ranks)])


def compute_best_t2v_ranks(queries: GroundTruth) -> NDArray:
    """Ranks (Q,) of a perfect model with one right video a caption.

    Equal captions get equal rows, so their videos can only stand one after the other; best is the
    order in which the video with the most of these captions comes first.
    """
    groups: defaultdict[str, Counter[int]] = defaultdict(Counter)
    texts = [normalize_caption(caption) for caption in queries.captions]
    pairs = list(zip(texts, queries.video_of_query.tolist(), strict=True))
    for text, video in pairs:
        groups[text][video] += 1
    place = {
        text: {video: rank for rank, (video, _) in enumerate(counts.most_common(), start=1)}
        for text, counts in groups.items()
    }
    return np.array([place[text][video] for text, video in pairs], dtype=np.float64)


def compute_best_v2t_ranks(queries: GroundTruth) -> NDArray:
    """Ranks (V,) of a perfect model with one right video a caption; NaN: no caption.

    Equal captions tie in every column, so a video's rank is the mean of those of the least shared
    of its captions.
    """
    texts = [normalize_caption(caption) for caption in queries.captions]
    count = Counter(texts)
    best = np.full(len(queries.ids), np.inf)
    np.minimum.at(best, queries.video_of_query, [(count[text] + 1) / 2 for text in texts])
    return np.where(np.isinf(best), np.nan, best)


def _compute_r1_interval(name: str, ranks: NDArray, queries: GroundTruth) -> tuple[float, float]:
    videos = np.arange(len(queries.ids))
    return compute_interval(ranks, queries.video_of_query if name == T2V else videos)


def compute_interval(ranks: NDArray, video: NDArray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of R1 in per cent.

    Videos are drawn with replacement, each with all of its captions, which do not stand alone. The
    seed is fixed: the same matrix has the same interval.

    Args:
        ranks: (N,) of captions or videos; NaN: left out.
        video: (N,) the video of each.
    """
    known = ~np.isnan(ranks)
    hits = np.bincount(video[known], is_recalled(ranks[known], 1))
    counts = np.bincount(video[known])
    hits, counts = hits[counts > 0], counts[counts > 0]
    rng = np.random.default_rng(SEED)
    shares = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = rng.integers(len(hits), size=len(hits))
        shares[number] = hits[drawn].sum() / counts[drawn].sum()
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(100 * shares, [tail, 100 - tail])
    return float(low), float(high)


def compute_breakdowns(
    ranks: NDArray, queries: GroundTruth
) -> dict[str, dict[str, dict[str, float]]]:
    """R1, R5, R10 and MedR of the captions by category and by whether they need reading."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    if queries.categories is not None:
        names = [queries.categories[video] or "no category" for video in queries.video_of_query]
        found["category"] = _score_groups(ranks, names)
    if queries.reading is not None:
        names = ["needs reading" if needs else "does not" for needs in queries.reading]
        found["needs_reading"] = _score_groups(ranks, names)
    return found


def _score_groups(ranks: NDArray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Group -> count of captions and metrics, the largest group first."""
    array = np.array(names)
    groups = {}
    for name, count in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])):
        values = summarize_ranks(ranks[array == name])
        groups[name] = {"count": count} | {key: values[key] for key in BREAKDOWN_KEYS}
    return groups
