"""Ranks against a naive oracle: every place that a score could be sorted to, in plain loops."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import utils.ranking
from utils.ranking import compute_t2v_ranks, compute_v2t_ranks, is_recalled, summarize_ranks

ROOT = Path(__file__).parents[2]


def oracle(similarity, pairs, own_ties=False):
    """The rank of each row: the mean of the places of its best right one among the wrong ones."""
    found = []
    for row, scores in enumerate(similarity.tolist()):
        right = {column for query, column in pairs if query == row}
        if not right:
            found.append(None)
            continue
        best = max(scores[column] for column in right)
        first = next(column for column in right if scores[column] == best)
        rivals = [
            score
            for column, score in enumerate(scores)
            if column != first and (own_ties or column not in right)
        ]
        above = sum(score > best for score in rivals)
        equal = sum(score == best for score in rivals)
        places = range(above + 1, above + equal + 2)
        found.append(sum(places) / len(places))
    return found


def compare(found, expected):
    assert [None if np.isnan(rank) else rank for rank in found] == expected


def case(seed, queries, videos, pairs_each, levels):
    """Few levels make many ties; pairs_each right videos of most queries, anywhere."""
    rng = np.random.default_rng(seed)
    similarity = rng.integers(levels, size=(queries, videos)) / 8
    pairs = {(q, int(v)) for q in range(queries) for v in rng.integers(videos, size=pairs_each)}
    pairs = sorted(pairs - {(q, v) for q, v in pairs if q % 7 == 3})  # some have no right video
    order = rng.permutation(len(pairs))
    return similarity, [pairs[index] for index in order]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize(
    ("queries", "videos", "pairs_each"), [(30, 30, 1), (40, 9, 1), (9, 40, 3), (25, 12, 4)]
)
def test_naive_oracle(queries, videos, pairs_each, levels, dtype, monkeypatch):
    monkeypatch.setattr(utils.ranking, "BLOCK_SCORES", 7 * videos)  # several blocks, the last short
    for seed in range(3):
        similarity, pairs = case(seed, queries, videos, pairs_each, levels)
        similarity = similarity.astype(dtype)
        query, video = np.array(pairs).T
        compare(compute_t2v_ranks(similarity, query, video), oracle(similarity, pairs))
        turned = [(v, q) for q, v in pairs]
        for own_ties in (False, True):
            expected = oracle(similarity.T, turned, own_ties)
            compare(compute_v2t_ranks(similarity, query, video, own_ties), expected)


def test_a_block_of_many_rows_is_counted_in_full():
    scores = np.zeros((2000, 3), np.float32)  # blocks are limited by rows, not by scores
    scores[0, 0] = -1
    assert compute_v2t_ranks(scores, [0, 1], [0, 1]).tolist()[:2] == [2000, 1 + 1999 / 2]


def test_one_right_video_among_equal_ones_and_several():
    scores = np.array([[0.5, 0.5, 0.5, 0.1]])
    assert compute_t2v_ranks(scores, [0], [0]) == [2]
    assert compute_t2v_ranks(scores, [0, 0], [0, 1]) == [1.5]  # the right ones are no rivals
    assert compute_t2v_ranks(scores, [0, 0, 0], [0, 1, 2]) == [1]
    assert compute_t2v_ranks(scores, [0, 0], [3, 0]) == [2]  # the best of the right ones counts


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_on_disk(order, tmp_path):
    scores, pairs = case(0, 50, 20, 2, 4)
    np.save(tmp_path / "m.npy", np.asarray(scores, order=order))
    mapped = np.load(tmp_path / "m.npy", mmap_mode="r")
    query, video = np.array(pairs).T
    for ranks in (compute_t2v_ranks, compute_v2t_ranks):
        expected = ranks(scores, query, video)
        np.testing.assert_array_equal(ranks(mapped, query, video), expected)


@pytest.mark.parametrize("ranks", [compute_t2v_ranks, compute_v2t_ranks])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (9, 3)])
def test_a_score_that_is_not_finite_is_named(ranks, value, place, recwarn):
    scores = np.zeros((12, 5), np.float32)
    scores[place] = value
    with pytest.raises(ValueError, match=f"not finite: .* row {place[0]}, column {place[1]}$"):
        ranks(scores, np.arange(5), np.arange(5))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("query", "video", "said"),
    [
        ([], [], "query must hold"),
        ([0, 4], [0, 1], "query must hold whole numbers of 0 … 3"),
        ([0, 1], [0, 3], "video must hold whole numbers of 0 … 2"),
        ([0, -1], [0, 1], "query must hold"),
        ([0, 1], [0], "video must hold"),
        ([0.0], [0], "query must hold"),
        ([1, 1], [2, 2], "a pair occurs twice"),
    ],
)
def test_pairs_that_do_not_fit(query, video, said):
    for ranks in (compute_t2v_ranks, compute_v2t_ranks):
        with pytest.raises(ValueError, match=said):
            ranks(np.zeros((4, 3)), query, video)


def test_hits_at_the_border():
    ranks = np.array([1, 1.5, 5, 5.5, 6])
    assert is_recalled(ranks, 1).tolist() == [True, False, False, False, False]
    assert is_recalled(ranks, 5).tolist() == [True, True, True, True, False]
    found = summarize_ranks(ranks)
    assert (found["R1"], found["R5"], found["MedR"], found["MeanR"]) == (20, 80, 5, 3.8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_textvrs_size_takes_less_than_half_a_further_copy(dtype):
    scores = np.random.default_rng(0).standard_normal((2727, 2727), dtype=np.float32).astype(dtype)
    index = np.arange(2727)
    tracemalloc.start()
    try:
        compute_t2v_ranks(scores, index, index)
        compute_v2t_ranks(scores, index, index, own_ties=True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < scores.nbytes / 2


LARGE = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from model.metric import t2v_metrics, v2t_metrics
n = 20_000
matrix = np.lib.format.open_memmap(sys.argv[1], "w+", np.float32, (n, n))
rng = np.random.default_rng(0)
for row in range(0, n, 500):
    matrix[row : row + 500] = rng.random((500, n), dtype=np.float32)
matrix[np.arange(n), np.arange(n)] += 0.5
del matrix
for matrix in (np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[1])):
    t2v, v2t = t2v_metrics(matrix), v2t_metrics(matrix)
    assert 49 < t2v["R1"] < 51 and 49 < v2t["R1"] < 51, (t2v, v2t)
"""


@pytest.mark.slow
def test_twenty_thousand_in_four_gigabytes(tmp_path):
    """Half of the right scores lie above all others."""
    command = [sys.executable, "-c", LARGE, tmp_path / "m.npy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
