import math

import pytest
import torch

from base.registry import LOSSES
from model.loss import MaxMarginRankingLoss, NormSoftmaxLoss

MATRIX = [[0.5, 0.1], [0.4, 0.3]]


def naive_norm_softmax(s, temperature):
    """The mean over rows plus the mean over columns of -log softmax at the right pair."""
    n, total = len(s), 0.0
    for i in range(n):
        row = [math.exp(s[i][j] / temperature) for j in range(n)]
        column = [math.exp(s[j][i] / temperature) for j in range(n)]
        total -= (math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))) / n
    return total


def naive_max_margin(s, margin, fix_norm):
    n, hinges = len(s), []
    for i in range(n):
        for j in range(n):
            if i != j or not fix_norm:
                hinges.append(max(0.0, margin - (s[i][i] - s[i][j])))
                hinges.append(max(0.0, margin - (s[i][i] - s[j][i])))
    return sum(hinges) / len(hinges)


def random_matrix(size):
    return torch.rand(size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def test_norm_softmax_by_hand():
    # Rows: log(1 + e^-.4), log(1 + e^.1); columns: log(1 + e^-.1), log(1 + e^-.2).
    rows = math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(0.1))
    columns = math.log(1 + math.exp(-0.1)) + math.log(1 + math.exp(-0.2))
    found = NormSoftmaxLoss(temperature=1.0).compute_loss(torch.tensor(MATRIX))
    assert found.item() == pytest.approx(rows / 2 + columns / 2, abs=1e-6)


def test_max_margin_by_hand():
    # Rows: .2 - .4 -> 0, .2 + .1 = .3; columns: .2 - .1 = .1, .2 - .2 = 0. Diagonal: .2 four times.
    similarity = torch.tensor(MATRIX)
    assert MaxMarginRankingLoss(0.2).compute_loss(similarity).item() == pytest.approx(0.4 / 4)
    whole = MaxMarginRankingLoss(0.2, fix_norm=False).compute_loss(similarity)
    assert whole.item() == pytest.approx((0.4 + 4 * 0.2) / 8)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_naive_loops(size):
    similarity = random_matrix(size)
    s = similarity.double().tolist()
    for temperature in (0.05, 0.5):
        expected = naive_norm_softmax(s, temperature)
        assert NormSoftmaxLoss(temperature).compute_loss(similarity).item() == pytest.approx(
            expected, rel=1e-5
        )
    for margin in (0.0, 0.2, 1.0):
        for fix_norm in (True, False):
            found = MaxMarginRankingLoss(margin, fix_norm).compute_loss(similarity)
            expected = naive_max_margin(s, margin, fix_norm)
            assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_defaults_are_the_published_ones():
    assert LOSSES.get("NormSoftmaxLoss")().temperature == 0.05
    loss = LOSSES.get("MaxMarginRankingLoss")()
    assert (loss.margin, loss.fix_norm) == (0.2, True)


@pytest.mark.parametrize(
    "loss", [NormSoftmaxLoss(), MaxMarginRankingLoss(), MaxMarginRankingLoss(fix_norm=False)]
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_loss_and_gradient_are_finite(loss, size):
    for similarity in (random_matrix(size), torch.ones(size, size), torch.zeros(size, size)):
        similarity.requires_grad_()
        value = loss.compute_loss(similarity)
        value.backward()
        assert value.shape == () and torch.isfinite(value) and torch.isfinite(similarity.grad).all()


def test_a_batch_of_one():
    for loss, expected in (
        (NormSoftmaxLoss(), 0.0),
        (MaxMarginRankingLoss(0.3), 0.0),
        (MaxMarginRankingLoss(0.3, fix_norm=False), 0.3),
    ):
        assert loss.compute_loss(torch.tensor([[0.4]])).item() == pytest.approx(expected)


def test_the_gradient_raises_the_right_pairs():
    similarity = random_matrix(4).requires_grad_()
    NormSoftmaxLoss().compute_loss(similarity).backward()
    right = torch.eye(4, dtype=torch.bool)
    assert (similarity.grad[right] <= 0).all() and (similarity.grad[~right] >= 0).all()
    assert similarity.grad.abs().sum() > 0


def test_logits_are_on_the_scale_of_the_loss():
    similarity = random_matrix(3)
    assert NormSoftmaxLoss(0.5).compute_logits(similarity).equal(similarity / 0.5)
    assert MaxMarginRankingLoss().compute_logits(similarity).equal(similarity)
    text, video = torch.randn(3, 4), torch.randn(3, 4)
    criterion = NormSoftmaxLoss(0.5)
    loss, logits = criterion(text, video, torch.arange(3))
    expected = torch.cosine_similarity(text[:, None], video, dim=2)
    torch.testing.assert_close(logits, expected / 0.5)
    torch.testing.assert_close(loss, criterion.compute_loss(expected, torch.arange(3)))
