import numpy as np
import pytest

from base.registry import METRICS
from model.metric import t2v_metrics, v2t_metrics

KEYS = ["R1", "R5", "R10", "R50", "MedR", "MeanR", "geometric_mean_R1-R5-R10"]
FUNCTIONS = [t2v_metrics, v2t_metrics]


def place(scores, own):
    """The mean rank of the score at ``own``: all places it could be sorted to."""
    ahead = sum(score > scores[own] for score in scores)
    equal = sum(score == scores[own] for score in scores)
    return sum(range(ahead + 1, ahead + equal + 1)) / equal


def oracle(similarity, truth, direction):
    rows = similarity.tolist()
    if direction == "t2v":
        ranks = [place(row, video) for row, video in zip(rows, truth, strict=True)]
    else:
        columns, ranks = similarity.T.tolist(), []
        for video in sorted(set(truth)):
            own = [query for query, its in enumerate(truth) if its == video]
            ranks.append(min(place(columns[video], query) for query in own))
    found = {"R1": sum(rank == 1 for rank in ranks) / len(ranks) * 100}
    for k in (5, 10, 50):
        found[f"R{k}"] = sum(int(rank) <= k for rank in ranks) / len(ranks) * 100
    ordered, middle = sorted(ranks), len(ranks) // 2
    odd = len(ranks) % 2
    found["MedR"] = ordered[middle] if odd else (ordered[middle - 1] + ordered[middle]) / 2
    found["MeanR"] = sum(ranks) / len(ranks)
    found["geometric_mean_R1-R5-R10"] = (found["R1"] * found["R5"] * found["R10"]) ** (1 / 3)
    return found


def scores(queries, videos, truth, ties, seed=0):
    rng = np.random.default_rng(seed)
    similarity = rng.standard_normal((queries, videos)).astype(np.float32)
    similarity[np.arange(queries), truth] += 1
    return similarity.round(0 if ties else 6)


CASES = {
    "square": (30, np.arange(30)),
    "three captions": (20, np.repeat(np.arange(20), 3)),
    "any order": (12, np.random.default_rng(1).permutation(np.repeat(np.arange(12), 2))),
    "uneven": (9, np.array([8, 0, 0, 3, 1, 2, 0, 4, 5, 6, 7, 8])),
    "videos without query": (70, np.array([5, 3, 3, 60])),
    "one": (1, np.zeros(1, int)),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_naive_oracle(function, kind, ties):
    videos, truth = CASES[kind]
    similarity = scores(len(truth), videos, truth, ties)
    found = function(similarity, truth)
    assert list(found) == KEYS
    assert found == pytest.approx(oracle(similarity, truth.tolist(), function.__name__[:3]))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("count", [1, 3])
def test_queries_of_one_video_stand_together_by_default(function, count):
    truth = np.repeat(np.arange(8), count)
    similarity = scores(8 * count, 8, truth, ties=True)
    assert function(similarity) == function(similarity, truth)


def test_by_hand():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.0, 0.3, 0.1]])  # ranks 1, 3, 2
    found = t2v_metrics(similarity)
    assert found["R1"] == pytest.approx(100 / 3) and found["R5"] == 100
    assert (found["MedR"], found["MeanR"]) == (2, 2)
    found = v2t_metrics(similarity)  # columns: 1, 1, 3
    assert found["R1"] == pytest.approx(200 / 3)
    assert (found["MedR"], found["MeanR"]) == (1, pytest.approx(5 / 3))
    assert found["geometric_mean_R1-R5-R10"] == pytest.approx((200 / 3 * 1e4) ** (1 / 3))


def test_the_best_of_a_videos_captions_counts():
    similarity = np.array([[0.1, 0.9], [0.9, 0.2], [0.0, 0.1], [0.0, 0.8]])
    assert v2t_metrics(similarity)["MeanR"] == pytest.approx((1 + 2) / 2)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(100, 100), (300, 100)])
def test_a_constant_matrix_is_chance(function, shape):
    found = function(np.full(shape, 0.3, np.float32))
    compared = shape[1] if function is t2v_metrics else shape[0]
    assert found["MeanR"] == found["MedR"] == (compared + 1) / 2
    assert found["R1"] == found["R5"] == found["R10"] == 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_tie_with_the_right_one_is_no_hit(function):
    similarity = np.eye(4)
    similarity[0, 1] = similarity[1, 0] = 1
    assert function(np.eye(4))["R1"] == 100 and function(similarity)["R1"] == 50


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_order_of_videos_and_queries_is_irrelevant(function):
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(15), 2)
    similarity = scores(30, 15, truth, ties=True)
    expected = function(similarity)
    for _ in range(5):
        videos, queries = rng.permutation(15), rng.permutation(30)
        moved = similarity[queries][:, videos]
        assert function(moved, np.argsort(videos)[truth[queries]]) == pytest.approx(expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_both_directions_of_a_transposed_square(function):
    similarity = scores(20, 20, np.arange(20), ties=True)
    other = FUNCTIONS[function is t2v_metrics]
    assert function(similarity) == pytest.approx(other(similarity.T))


GOOD = np.eye(4)
BAD = {
    "nan": (np.where(GOOD > 0, np.nan, 0.0), None, "not finite"),
    "infinite": (np.where(GOOD > 0, np.inf, 0.0), None, "not finite"),
    "one dimension": (np.ones(4), None, "two dimensions"),
    "three dimensions": (np.ones((2, 2, 2)), None, "two dimensions"),
    "empty": (np.ones((0, 4)), None, "two dimensions"),
    "no multiple": (np.ones((5, 4)), None, "no multiple of 4"),
    "fewer queries": (np.ones((3, 4)), None, "no multiple of 4"),
    "truth too short": (GOOD, [0, 1, 2], "must hold 4"),
    "truth too large": (GOOD, [0, 1, 2, 4], "must hold 4"),
    "truth below zero": (GOOD, [0, 1, 2, -1], "must hold 4"),
    "truth of two dimensions": (GOOD, np.eye(4, dtype=int), "must hold 4"),
    "truth of another kind": (GOOD, [0.5, 1.0, 2.0, 3.0], "must hold 4"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_unusable_input_is_an_error(function, kind):
    similarity, truth, reason = BAD[kind]
    with pytest.raises(ValueError, match=reason):
        function(similarity, truth)


def test_they_are_registered_with_their_keys():
    for name, function in (("t2v_metrics", t2v_metrics), ("v2t_metrics", v2t_metrics)):
        entry = METRICS.entry(name)
        assert entry.target is function and list(entry.keys) == KEYS
