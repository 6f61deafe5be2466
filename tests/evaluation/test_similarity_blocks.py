"""Metrics without a matrix: the same as of the matrix, and whether there is one is said first."""

import numpy as np
import pytest
import torch

from evaluation import similarity_blocks
from evaluation.scores import score_similarity
from evaluation.similarity_blocks import SimilarityBlocks, plan_matrix
from tests.evaluation.scored_matrices import queries
from utils.ranking import compute_t2v_ranks, compute_v2t_ranks, iterate_blocks


def multiply(text, video):
    return text @ video.T


@pytest.fixture(params=[1, 40, 10**6])
def blocks(request, monkeypatch):
    """Blocks of 60 captions, 17 of them distinct, and 25 videos, and their matrix.

    Whole numbers, so that a product is exact whatever its shape, with many equal scores.
    """
    monkeypatch.setattr(similarity_blocks, "PRODUCT_SCORES", request.param * 25)
    monkeypatch.setattr(similarity_blocks, "ROWS_SCORES", 3 * 25)
    rng = np.random.default_rng(0)
    text = torch.tensor(rng.integers(-2, 3, (17, 4)), dtype=torch.float32)
    video = rng.integers(-2, 3, (25, 4)).astype(np.float32)
    rows = rng.integers(0, 17, 60)
    parts = [video[:1], video[1:14], video[14:]]
    made = SimilarityBlocks(multiply, text, rows, parts)
    return made, (text.numpy() @ video.T)[rows], rng.integers(0, 25, 60)


def test_blocks_are_the_rows_of_the_matrix(blocks):
    made, matrix, _ = blocks
    assert made.shape == matrix.shape == (60, 25) and len(made) == 60
    found, seen = np.full_like(matrix, np.nan), []
    for rows, block in iterate_blocks(made):
        assert len(rows) <= 3 and block.dtype == np.float32
        found[rows] = block
        seen += rows.tolist()
    np.testing.assert_array_equal(found, matrix)
    assert sorted(seen) == list(range(60))


def test_ranks_and_scores_are_those_of_the_matrix(blocks):
    made, matrix, video = blocks
    pairs = np.arange(60), video
    np.testing.assert_array_equal(made[pairs], matrix[pairs])
    for compute in (compute_t2v_ranks, compute_v2t_ranks):
        np.testing.assert_array_equal(compute(made, *pairs), compute(matrix, *pairs))
    captions = [f"caption {number % 13}" for number in range(60)]
    truth = queries(captions, video.tolist(), 25)
    found, expected = score_similarity(made, truth), score_similarity(matrix, truth)
    assert found == expected
    for name, ranks in expected.ranks.items():
        np.testing.assert_array_equal(found.ranks[name], ranks)


def test_a_score_that_is_not_finite_is_named():
    text = torch.tensor([[1.0], [torch.inf]])
    made = SimilarityBlocks(multiply, text, np.array([0, 1, 0]), [np.ones((2, 1), np.float32)])
    with pytest.raises(ValueError, match="not finite: inf in row 1, column 0"):
        compute_t2v_ranks(made, np.arange(3), np.zeros(3, int))


@pytest.mark.parametrize(
    ("free", "made", "said"),
    [
        (10**12, True, "the similarity matrix will be 1,000 x 2,000 float32, 8 MB, at "),
        (None, True, "will be"),
        (17_000_000, False, "does not fit: it needs 18 MB of memory while it is made, and 17 MB "),
    ],
)
def test_whether_a_matrix_is_made(free, made, said, monkeypatch, tmp_path):
    monkeypatch.setattr(similarity_blocks, "measure_free_memory", lambda: free)
    plan = plan_matrix((1000, 2000), tmp_path / "new" / "m.npy", is_wanted=True)
    assert plan.is_made is made and plan.does_not_fit is not made and said in plan.note
    assert plan_matrix((1000, 2000), tmp_path, is_wanted=False).is_made is False


def test_a_full_disk_is_no_place_for_a_matrix(monkeypatch, tmp_path):
    monkeypatch.setattr(similarity_blocks, "measure_free_disk", lambda path: 7_000_000)
    plan = plan_matrix((1000, 2000), tmp_path / "m.npy", is_wanted=True)
    assert not plan.is_made and f"that much disk at {tmp_path}" in plan.note
    assert plan_matrix((200_000, 200_000), tmp_path, True).note.count("160 GB") == 1
