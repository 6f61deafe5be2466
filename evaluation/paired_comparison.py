"""Two runs compared on the same queries: differences, bootstrap intervals and significance tests.

The captions of one video do not stand alone, so it is videos that are drawn or exchanged, each with
all of its captions. The seed is fixed: the same two files give the same numbers, and with the
runs exchanged the differences and intervals change their sign and the p-values stay.

Shapes: N queries, C videos (or, for v2t, queries).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.ranks_file import PUBLISHED, QueryRanks
from evaluation.scores import LEVEL, SEED
from utils.errors import UserError
from utils.ranking import is_recalled

RESAMPLES = 5000
RECALLS = (1, 5, 10)
COMPARED = (*(f"R{k}" for k in RECALLS), "MedR", "MeanR")


@dataclass(frozen=True)
class Difference:
    """One metric of two runs.

    Attributes:
        first: the metric of the first run; recalls in per cent.
        second: of the second.
        difference: ``second - first``.
        low: lower end of the difference's 95 % interval (paired bootstrap, percentiles).
        high: its upper end.
        p_value: of the hypothesis that it makes no difference which run ranks a video's queries
            (paired permutation test, two-sided, at least 1 / (resamples + 1)).
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class PairedComparison:
    """Two runs on the same queries.

    Attributes:
        metrics: name of ``COMPARED`` -> its difference.
        only_first: queries whose right video only the first run finds first.
        only_second: likewise.
        mcnemar_p: exact McNemar test of these two (two-sided); None: queries share videos, so that
            they are not independent.
        queries: N.
        resamples: of the bootstrap, and of the permutations.
    """

    metrics: dict[str, Difference]
    only_first: int
    only_second: int
    mcnemar_p: float | None
    queries: int
    resamples: int


def compare_ranks(
    first: QueryRanks, second: QueryRanks, truth: str = PUBLISHED, resamples: int = RESAMPLES
) -> PairedComparison:
    """Compare two runs whose queries are equal (``check_same_queries``)."""
    ranks = first.ranks[truth], second.ranks[truth]
    number_of: dict[str, int] = {}
    videos = (video for _, video, _ in first.queries)
    group = np.array([number_of.setdefault(video, len(number_of)) for video in videos])
    values = [measure_ranks(found) for found in ranks]
    difference = values[1] - values[0]
    low, high = _compute_intervals(*ranks, group, resamples)
    p_values = _permute(*ranks, group, resamples)
    hits = [is_recalled(found, 1) for found in ranks]
    only_first, only_second = (int((a & ~b).sum()) for a, b in (hits, reversed(hits)))
    independent = len(number_of) == len(group)
    columns = (*values, difference, low, high, p_values)
    return PairedComparison(
        metrics={
            name: Difference(*(float(column[number]) for column in columns))
            for number, name in enumerate(COMPARED)
        },
        only_first=only_first,
        only_second=only_second,
        mcnemar_p=compute_mcnemar_p(only_first, only_second) if independent else None,
        queries=len(group),
        resamples=resamples,
    )


def check_same_queries(
    first: QueryRanks, second: QueryRanks, names: tuple[str, str], direction: str
) -> None:
    """Raise a ``UserError`` that names the first difference where the queries are not the same."""
    prefix = f"{names[0]} and {names[1]} can't be compared query by query ({direction}): "
    pairs = zip(first.queries, second.queries, strict=False)
    for (number, *one), (other_number, *other) in pairs:
        if (number, one) != (other_number, other):
            texts = [" ".join(filter(None, (f"{video}", text))) for video, text in (one, other)]
            place = f"query {number}" if number == other_number else f"{number}, {other_number}"
            raise UserError(
                f'{prefix}{place} is "{texts[0]}" in the first and "{texts[1]}" in the second; '
                "test both on the same annotation file and split"
            )
    counts = len(first.queries), len(second.queries)
    if counts[0] != counts[1]:
        longer, number = (first, counts[1]) if counts[0] > counts[1] else (second, counts[0])
        raise UserError(
            f"{prefix}the first has {counts[0]} queries, the second {counts[1]}; only one of them "
            f'has "{" ".join(filter(None, longer.queries[number][1:]))}"'
        )
    if first.candidates != second.candidates:
        raise UserError(
            f"{prefix}the first ranked {first.candidates} candidates for each, the second "
            f"{second.candidates}; test both on the same annotation file and split"
        )


def measure_ranks(ranks: NDArray) -> NDArray:
    """Return the metrics ``COMPARED`` of (N,) ranks, recalls in per cent."""
    recalls = [100 * np.count_nonzero(is_recalled(ranks, k)) / len(ranks) for k in RECALLS]
    return np.array([*recalls, np.median(ranks), ranks.mean()])


def _compute_intervals(
    first: NDArray, second: NDArray, group: NDArray, resamples: int
) -> tuple[NDArray, NDArray]:
    """The ends of the intervals: both runs are measured on the same draws."""
    rng = np.random.default_rng(SEED)
    count, numbers = int(group.max()) + 1, np.arange(len(group))
    found = np.empty((resamples, len(COMPARED)))
    for row in found:
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = np.repeat(numbers, times[group])
        row[:] = measure_ranks(second[drawn]) - measure_ranks(first[drawn])
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail], axis=0)
    return low, high


def _permute(first: NDArray, second: NDArray, group: NDArray, resamples: int) -> NDArray:
    """The share of exchanges of the runs, video by video, that differ at least as much."""
    rng = np.random.default_rng(SEED)
    observed = np.abs(measure_ranks(second) - measure_ranks(first))
    extreme = np.zeros(len(COMPARED))
    for _ in range(resamples):
        exchanged = rng.integers(2, size=int(group.max()) + 1, dtype=np.int8)[group] == 1
        one, other = np.where(exchanged, second, first), np.where(exchanged, first, second)
        difference = np.abs(measure_ranks(other) - measure_ranks(one))
        extreme += difference >= observed - 1e-9  # equal but for rounding
    return (1 + extreme) / (1 + resamples)


def compute_mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value: discordant queries fall to either run by a fair coin."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    log_half = total * math.log(2)
    terms = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - log_half
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


def format_comparison(comparison: PairedComparison, direction: str) -> list[str]:
    """Return a comparison as the lines of a table."""
    lines = [
        f"{direction}, {comparison.queries} queries",
        f"{'':7}{'first':>9}{'second':>9}{'difference':>12}{'95 % interval':>21}{'p':>9}",
    ]
    for name, row in comparison.metrics.items():
        interval = f"{row.low:+.2f} to {row.high:+.2f}"
        lines.append(
            f"{name:7}{row.first:9.2f}{row.second:9.2f}{row.difference:+12.2f}{interval:>21}"
            f"{row.p_value:9.4f}"
        )
    found = f"found first by only one: first {comparison.only_first}, "
    found += f"second {comparison.only_second}; McNemar's exact test: "
    if comparison.mcnemar_p is None:
        found += "none, several captions share a video"
    else:
        found += f"p {comparison.mcnemar_p:.4g}"
    return [*lines, found]
