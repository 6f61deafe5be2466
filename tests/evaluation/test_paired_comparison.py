"""The comparison of two runs against plain loops, enumeration and simulation."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from evaluation.paired_comparison import (
    COMPARED,
    RESAMPLES,
    check_same_queries,
    compare_ranks,
    compute_mcnemar_p,
    measure_ranks,
)
from evaluation.ranks_file import EQUAL_CAPTIONS, PUBLISHED, QueryRanks
from utils.errors import UserError
from utils.ranking import summarize_ranks

FILES = ("a/ranks.csv", "b/ranks.csv")


def ranked(ranks, videos=None, candidates=1000):
    ranks = np.array(ranks, dtype=np.float64)
    videos = range(len(ranks)) if videos is None else videos
    names = [(str(n), f"{video}.mp4", f"caption {n}") for n, video in enumerate(videos)]
    return QueryRanks(names, {PUBLISHED: ranks, EQUAL_CAPTIONS: np.ones_like(ranks)}, candidates)


def random_ranks(seed, count=60, shift=0):
    rng = np.random.default_rng(seed)
    base = rng.geometric(0.2, size=count)
    return [base + rng.integers(0, 4, size=count) + shift * (run == 1) for run in range(2)]


def test_the_metrics_are_those_of_every_table():
    ranks = np.array([1, 1.5, 5.5, 6, 10.5, 11, 300])
    expected = summarize_ranks(ranks)
    assert measure_ranks(ranks).tolist() == pytest.approx([expected[name] for name in COMPARED])


def test_the_difference_is_second_less_first():
    one, other = ranked([1, 2, 3, 20]), ranked([1, 1, 7, 4])
    found = compare_ranks(one, other, resamples=50)
    assert list(found.metrics) == ["R1", "R5", "R10", "MedR", "MeanR"]
    row = found.metrics["R1"]
    assert (row.first, row.second, row.difference) == (25, 50, 25)
    assert found.metrics["MeanR"].difference == 3.25 - 6.5
    assert (found.only_first, found.only_second, found.queries) == (0, 1, 4)
    equal = compare_ranks(one, other, EQUAL_CAPTIONS, resamples=50)
    assert equal.metrics["R1"].first == equal.metrics["R1"].second == 100


@pytest.mark.parametrize("videos", [None, [n // 2 for n in range(8)]])
def test_the_permutation_test_against_all_exchanges(videos):
    """Eight queries: all exchanges of the runs are enumerated, of whole videos where they share."""
    ranks = [[1, 7, 1, 4, 9, 2, 12, 3], [1, 2, 1, 1, 3, 2, 4, 1]]
    one, other = (ranked(values, videos) for values in ranks)
    group = list(range(8)) if videos is None else videos
    observed = np.abs(np.subtract(*(measure_ranks(np.array(values)) for values in ranks)))
    extreme, total = np.zeros(5), 0
    for exchange in itertools.product((False, True), repeat=max(group) + 1):
        pairs = [(b, a) if exchange[video] else (a, b)
                 for a, b, video in zip(*ranks, group, strict=True)]  # fmt: skip
        first, second = (measure_ranks(np.array(values)) for values in zip(*pairs, strict=True))
        extreme += np.abs(second - first) >= observed - 1e-9
        total += 1
    found = compare_ranks(one, other)
    for name, exact in zip(COMPARED, extreme / total, strict=True):
        assert found.metrics[name].p_value == pytest.approx(exact, abs=0.03), name


def test_the_interval_against_a_plain_bootstrap():
    first, second = random_ranks(0, shift=1)
    videos = [n // 3 for n in range(60)]
    found = compare_ranks(ranked(first, videos), ranked(second, videos)).metrics
    rng, samples = np.random.default_rng(7), []
    for _ in range(4000):
        rows = [3 * video + k for video in rng.integers(20, size=20) for k in range(3)]
        samples.append(measure_ranks(second[rows]) - measure_ranks(first[rows]))
    ends = np.percentile(samples, [2.5, 97.5], axis=0)
    for number, name in enumerate(COMPARED):
        near = 0.15 * np.std(samples, axis=0)[number]
        near += {"MeanR": 0, "MedR": 0.5}.get(name, 100 / 60)  # one step of the metric
        assert found[name].low == pytest.approx(ends[0][number], abs=near), name
        assert found[name].high == pytest.approx(ends[1][number], abs=near), name
        assert found[name].low <= found[name].difference <= found[name].high


def test_captions_of_one_video_widen_the_interval():
    """Equal ranks of 5 captions a video are no 5 observations."""
    first, second = (np.repeat(values, 5) for values in random_ranks(3, count=40))
    apart = compare_ranks(ranked(first), ranked(second)).metrics["MeanR"]
    videos = [n // 5 for n in range(200)]
    together = compare_ranks(ranked(first, videos), ranked(second, videos))
    row = together.metrics["MeanR"]
    assert row.high - row.low > 1.8 * (apart.high - apart.low)
    assert together.mcnemar_p is None and row.p_value > apart.p_value


def test_symmetric_in_the_two_runs_and_deterministic():
    one, other = (ranked(values) for values in random_ranks(2, shift=1))
    there, again, back = (compare_ranks(*pair, resamples=400)
                          for pair in ((one, other), (one, other), (other, one)))  # fmt: skip
    assert there == again and there.mcnemar_p == back.mcnemar_p
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)
    for name in COMPARED:
        row, turned = there.metrics[name], back.metrics[name]
        assert row.difference == -turned.difference and row.p_value == turned.p_value
        assert (row.low, row.high) == pytest.approx((-turned.high, -turned.low))


def test_a_run_against_itself():
    found = compare_ranks(*[ranked(random_ranks(5)[0])] * 2, resamples=100)
    assert found.mcnemar_p == 1
    for row in found.metrics.values():
        assert (row.difference, row.low, row.high, row.p_value) == (0, 0, 0, 1)


def test_p_values_are_uniform_where_there_is_no_difference():
    """120 pairs of runs of one quality: no quantile of p is far from the uniform one's."""
    rng, p_values = np.random.default_rng(11), []
    for _ in range(120):
        base = rng.lognormal(2, 1, size=80)
        runs = [ranked(1 + base * rng.lognormal(0, 0.5, size=80), candidates=10**6) for _ in "ab"]
        p_values.append(compare_ranks(*runs, resamples=99).metrics["MeanR"].p_value)
    sorted_p = np.sort(p_values)
    distance = np.abs(sorted_p - np.arange(1, 121) / 120).max()
    assert distance < 1.63 / np.sqrt(120)  # Kolmogorov-Smirnov at 1 %
    assert np.mean(sorted_p <= 0.05) <= 0.1


def test_a_difference_is_found():
    one, other = (ranked(values) for values in random_ranks(4, count=200, shift=2))
    row = compare_ranks(one, other).metrics["MeanR"]
    assert row.low > 0 and row.p_value == pytest.approx(1 / (RESAMPLES + 1))


def exact_mcnemar(one, other):
    total, fewer = one + other, min(one, other)
    return float(min(1, 2 * Fraction(sum(comb(total, k) for k in range(fewer + 1)), 2**total)))


@pytest.mark.parametrize(
    "pair", [(0, 0), (0, 1), (1, 0), (0, 6), (3, 9), (7, 7), (40, 61), (700, 810), (2000, 2100)]
)
def test_mcnemar_against_exact_fractions(pair):
    assert compute_mcnemar_p(*pair) == pytest.approx(exact_mcnemar(*pair), rel=1e-9)
    assert compute_mcnemar_p(*pair) == compute_mcnemar_p(*pair[::-1])


def test_mcnemar_of_many_queries():
    assert compute_mcnemar_p(100_000, 100_000) == 1
    assert compute_mcnemar_p(0, 5000) == pytest.approx(0, abs=1e-300)


def other_queries(**changes):
    names = [[str(n), f"{n}.mp4", f"caption {n}"] for n in range(4)]
    for number, name in changes.get("names", {}).items():
        names[number] = name
    names = [tuple(name) for name in names][: changes.get("count", 4)]
    ranks = {PUBLISHED: np.ones(len(names))}
    return QueryRanks(names, ranks, changes.get("candidates", 1000))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"names": {2: ["2", "2.mp4", "another"]}},
            'query 2 is "2.mp4 caption 2" in the first and "2.mp4 another" in the second',
        ),
        (
            {"names": {1: ["1", "9.mp4", "caption 1"]}},
            'query 1 is "1.mp4 caption 1" in the first and "9.mp4 caption 1" in the second',
        ),
        ({"count": 3}, 'the first has 4 queries, the second 3; only one of them has "3.mp4 cap'),
        ({"candidates": 999}, "the first ranked 1000 candidates for each, the second 999"),
    ],
)
def test_other_queries_are_refused_with_the_first_difference(changes, said):
    one = ranked([1, 2, 3, 4])
    with pytest.raises(UserError) as caught:
        check_same_queries(one, other_queries(**changes), FILES, "t2v")
    text = str(caught.value)
    assert said in text and text.startswith("a/ranks.csv and b/ranks.csv can't be compared")
    check_same_queries(one, other_queries(), FILES, "t2v")
