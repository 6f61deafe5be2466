"""Scores against plain loops: both truths, their bounds, the intervals and the breakdowns."""

import itertools

import numpy as np
import pytest

from evaluation.scores import (
    T2V,
    V2T,
    compute_best_t2v_ranks,
    compute_best_v2t_ranks,
    compute_interval,
    score_similarity,
)
from model.metric import t2v_metrics, v2t_metrics
from tests.evaluation.scored_matrices import queries, random_case
from utils.ranking import summarize_ranks


def texts_of(found):
    return [caption.strip().lower() for caption in found.captions]


def equal_ranks(matrix, found, direction):
    """The rank of the best right one among the wrong ones, where equal captions are right."""
    texts, videos = texts_of(found), found.video_of_query.tolist()
    pairs = list(zip(texts, videos, strict=True))
    right = [[(text, video) in pairs for video in range(len(found.ids))] for text in texts]
    rows = matrix.tolist()
    if direction == V2T:
        rows, right = (list(map(list, zip(*table, strict=True))) for table in (rows, right))
    ranks = []
    for scores, marks in zip(rows, right, strict=True):
        if any(marks):
            best = max(itertools.compress(scores, marks))
            wrong = [value for value, mark in zip(scores, marks, strict=True) if not mark]
            above, equal = sum(value > best for value in wrong), wrong.count(best)
            ranks.append(sum(range(above + 1, above + equal + 2)) / (equal + 1))
    return np.array(ranks)


@pytest.mark.parametrize("seed", range(6))
def test_both_truths(seed):
    matrix, found = random_case(seed)
    scores = score_similarity(matrix, found)
    truth = found.video_of_query
    assert scores.metrics == {T2V: t2v_metrics(matrix, truth), V2T: v2t_metrics(matrix, truth)}
    for name in (T2V, V2T):
        assert scores.equal_captions[name] == summarize_ranks(equal_ranks(matrix, found, name))


def test_without_equal_captions_both_truths_are_one():
    matrix, found = random_case(0)
    found = queries([f"{n}" for n in range(25)], found.video_of_query.tolist(), 12)
    scores = score_similarity(matrix + np.arange(25 * 12).reshape(25, 12) / 1000, found)
    assert scores.equal_captions == scores.metrics and found.shared_captions() == (0, 0)


def test_equal_captions_by_hand():
    found = queries(["A dog", "a cat", "a dog ", "a bird", "a bird"], [0, 1, 2, 3, 3])
    assert found.shared_captions() == (1, 2)
    matrix = np.array([[1, 0, 2, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 1], [0, 0, 0, 1.0]])
    scores = score_similarity(matrix, found)
    assert scores.metrics[T2V]["R1"] == 80 and scores.equal_captions[T2V]["R1"] == 100
    assert scores.metrics[V2T]["R1"] == 25 and scores.equal_captions[V2T]["R1"] == 100
    assert scores.best == scores.metrics  # the model is perfect
    assert scores.equal_best == scores.equal_captions


def perfect(found, order):
    """A perfect model that puts videos of equal captions in ``order``."""
    texts, matrix = texts_of(found), np.zeros(found.shape)
    for text, video in zip(texts, found.video_of_query, strict=True):
        for row, other in enumerate(texts):
            if other == text:
                matrix[row, video] = 1 + order[video] / 100
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_the_videos_passes_the_bound_and_one_reaches_it(seed):
    _, found = random_case(seed, videos=4, texts=4, captions=9)
    bound = {T2V: summarize_ranks(compute_best_t2v_ranks(found))}
    bests = compute_best_v2t_ranks(found)
    bound[V2T] = summarize_ranks(bests[~np.isnan(bests)])
    assert score_similarity(np.zeros(found.shape), found).best == bound
    reached = {key: np.inf if key in ("MedR", "MeanR") else -np.inf for key in bound[T2V]}
    for order in itertools.permutations(range(4)):
        values = t2v_metrics(perfect(found, order), found.video_of_query)
        for key, value in values.items():
            better = min if key in ("MedR", "MeanR") else max
            reached[key] = better(reached[key], value)
    assert reached["R1"] == bound[T2V]["R1"] < 100
    assert reached["MeanR"] == pytest.approx(bound[T2V]["MeanR"])


@pytest.mark.parametrize("seed", range(10))
def test_equal_rows_never_pass_the_bound_of_v2t(seed):
    _, found = random_case(seed, videos=5, texts=4, captions=9)
    rng = np.random.default_rng(seed)
    rows = {text: rng.random(5) for text in set(texts_of(found))}
    matrix = np.stack([rows[text] for text in texts_of(found)])
    values = score_similarity(matrix, found)
    assert values.metrics[V2T]["R1"] <= values.best[V2T]["R1"]
    assert values.metrics[V2T]["MeanR"] >= values.best[V2T]["MeanR"]
    assert values.metrics[T2V]["R1"] <= values.best[T2V]["R1"]


def test_a_constant_matrix_is_chance():
    found = queries([f"text {n}" for n in range(50)])
    scores = score_similarity(np.full((50, 50), 0.5), found)
    for values in (scores.metrics[T2V], scores.equal_captions[V2T]):
        assert (values["R1"], values["MeanR"]) == (0, 25.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_captions_and_videos_is_irrelevant(seed):
    matrix, found = random_case(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(25), rng.permutation(12)
    moved = queries(
        [found.captions[row] for row in rows], np.argsort(columns)[found.video_of_query[rows]], 12
    )
    first, second = (
        score_similarity(matrix, found),
        score_similarity(matrix[rows][:, columns], moved),
    )
    for name in (T2V, V2T):
        for values in ("metrics", "equal_captions", "best"):
            again = getattr(second, values)[name]
            assert again == pytest.approx(getattr(first, values)[name])


def test_intervals_hold_the_true_share():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(60):
        ranks = np.where(rng.random(200) < 0.3, 1.0, 2.0)
        low, high = compute_interval(ranks, np.arange(200))
        assert low <= 100 * np.mean(ranks == 1) <= high
        inside += low <= 30 <= high
    assert 52 <= inside <= 59


def test_captions_of_a_video_are_drawn_together():
    alone = compute_interval(np.tile([1.0, 2.0], 200), np.arange(400))
    same = np.repeat(np.tile([1.0, 2.0], 10), 20)  # 20 videos of 20 captions
    together = compute_interval(same, np.repeat(np.arange(20), 20))
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])
    assert compute_interval(same, np.repeat(np.arange(20), 20)) == together  # the seed is fixed


def test_intervals_of_both_truths():
    matrix, found = random_case(1)
    matrix += np.random.default_rng(0).random(matrix.shape)  # no ties
    matrix[::2] += 5 * (found.video_of_query[::2, None] == np.arange(12))
    scores = score_similarity(matrix, found)
    for truth, metrics in (("one_right_video", scores.metrics),
                           ("equal_captions", scores.equal_captions)):  # fmt: skip
        for name in (T2V, V2T):
            low, high = scores.intervals[truth][name]
            assert 0 <= low <= metrics[name]["R1"] <= high <= 100 and low < high


def test_breakdowns():
    categories = ("Sports", "Games", "Sports", None)
    reading = np.array([True, False, False, True])
    found = queries("abcd", categories=categories, reading=reading)
    matrix = np.eye(4)
    matrix[2] = [3, 2, 1, 0]  # rank 3 of a video of Sports that needs no reading
    breakdown = score_similarity(matrix, found).breakdown
    assert list(breakdown["category"]) == ["Sports", "Games", "no category"]
    assert breakdown["category"]["Sports"] == {
        "count": 2, "R1": 50, "R5": 100, "R10": 100, "MedR": 2,
    }  # fmt: skip
    assert breakdown["needs_reading"]["does not"]["R1"] == 50
    assert breakdown["needs_reading"]["needs reading"] == {
        "count": 2, "R1": 100, "R5": 100, "R10": 100, "MedR": 1,
    }  # fmt: skip


def test_only_the_metrics_that_were_asked_for():
    matrix, found = random_case(0)
    scores = score_similarity(matrix, found, [V2T])
    assert list(scores.metrics) == list(scores.equal_captions) == list(scores.best) == [V2T]
    assert scores.breakdown == {}


def test_a_matrix_of_another_size():
    with pytest.raises(ValueError, match="a matrix of"):
        score_similarity(np.zeros((3, 4)), queries("abc"))
