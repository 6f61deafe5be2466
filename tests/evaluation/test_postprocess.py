"""Dual softmax and QB-Norm against their formulas in plain loops."""

import math

import numpy as np
import pytest

from evaluation.postprocess import dual_softmax, qb_norm, score_postprocessed
from evaluation.scores import T2V, V2T, score_similarity
from tests.evaluation.scored_matrices import queries, random_case
from utils.errors import UserError
from utils.ranking import compute_t2v_ranks

SCORES = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_dual_softmax(temperature):
    rows = SCORES.tolist()
    t2v, v2t = (dual_softmax(SCORES, direction, temperature) for direction in (T2V, V2T))
    for q, row in enumerate(rows):
        for v, value in enumerate(row):
            weight = math.exp(value / temperature)
            over_queries = sum(math.exp(other[v] / temperature) for other in rows)
            over_videos = sum(math.exp(other / temperature) for other in row)
            assert t2v[q, v] == pytest.approx(value * weight / over_queries)
            assert v2t[q, v] == pytest.approx(value * weight / over_videos)


def test_dual_softmax_moves_a_query_away_from_anothers_video():
    matrix = np.array([[0.9, 0.1], [0.5, 0.45]])  # both find the first video
    found = queries("ab")
    assert score_similarity(matrix, found).metrics[T2V]["R1"] == 50
    [t2v, v2t] = score_postprocessed("dual_softmax", matrix, found, 0.1).scores
    assert t2v.metrics[T2V]["R1"] == 100 and list(v2t.metrics) == [V2T]


def test_small_temperatures_make_no_ties():
    matrix = np.random.default_rng(0).uniform(-1, 1, (50, 50))
    changed = dual_softmax(matrix, T2V, 0.003)
    assert np.isfinite(changed).all() and len(np.unique(changed)) == changed.size


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_qb_norm(temperature):
    bank = np.random.default_rng(1).uniform(-1, 1, (3, 4))
    bank[:, 2] = -2  # never first: queries that find it keep their row
    scores = SCORES.copy()
    scores[0, 2] = 3
    found = qb_norm(scores, bank, temperature)
    hubs = {row.index(max(row)) for row in bank.tolist()}
    kept = 0
    for q, row in enumerate(scores.tolist()):
        if row.index(max(row)) not in hubs:
            assert found[q].tolist() == row
            kept += 1
            continue
        for v, value in enumerate(row):
            total = sum(math.exp(other[v] / temperature) for other in bank.tolist())
            assert math.exp(found[q, v]) == pytest.approx(math.exp(value / temperature) / total)
    assert 0 < kept < 5


def test_qb_norm_lowers_a_video_that_everyone_finds():
    rng = np.random.default_rng(0)
    hub = np.zeros(30)
    hub[0] = 1.5
    matrix = np.eye(30) + rng.uniform(0, 0.2, (30, 30)) + hub
    bank = rng.uniform(0, 0.5, (60, 30)) + hub
    found = queries([f"{n}" for n in range(30)])
    after = score_postprocessed("qb_norm", matrix, found, 0.1, bank)
    assert score_similarity(matrix, found).metrics[T2V]["R1"] < 10
    assert after.scores[0].metrics[T2V]["R1"] == 100 and list(after.scores[0].metrics) == [T2V]
    assert after.parameters == {"temperature": 0.1, "bank_queries": 60}
    ranks = compute_t2v_ranks(qb_norm(matrix, bank, 0.1), *found.get_positive_pairs())
    assert ranks.tolist() == [1] * 30


@pytest.mark.parametrize("shape", [(3, 5), (0, 12), (12,)])
def test_a_bank_that_does_not_fit(shape):
    matrix, found = random_case(0)
    with pytest.raises(UserError, match="the 12 columns of the matrix"):
        score_postprocessed("qb_norm", matrix, found, bank=np.zeros(shape))


def test_the_test_queries_never_are_the_bank():
    with pytest.raises(UserError, match="--query_bank"):
        score_postprocessed("qb_norm", *random_case(0))


@pytest.mark.parametrize("name", ["dual_softmax", "qb_norm"])
def test_the_plain_matrix_is_left_as_it_was(name):
    matrix, found = random_case(0)
    before = matrix.copy()
    matrix.setflags(write=False)
    score_postprocessed(name, matrix, found, bank=before[:3])
    assert np.array_equal(matrix, before)
