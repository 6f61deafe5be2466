import logging
import math
from types import SimpleNamespace

import pytest
import torch

from base.registry import LOSSES
from model.loss import MaxMarginRankingLoss, NormSoftmaxLoss, SigmoidLoss, SoftmaxLoss
from utils.errors import UserError

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


POSITIVES = ("diagonal", "captions")
CAPTIONS = [4, 7, 4, 9, 4, 7]  # three equal, two equal, one alone


def naive_softmax(s, scale, right):
    """Half the rows' and half the columns' mean of -log softmax over each one's right pairs."""
    n, total = len(s), 0.0
    for i in range(n):
        row = [math.exp(scale * s[i][j]) for j in range(n)]
        column = [math.exp(scale * s[j][i]) for j in range(n)]
        mine = [j for j in range(n) if right(i, j)]
        for j in mine:
            total -= math.log(row[j] / sum(row)) / len(mine) / n / 2
            total -= math.log(column[j] / sum(column)) / len(mine) / n / 2
    return total


def naive_sigmoid(s, scale, bias, right):
    n, total = len(s), 0.0
    for i in range(n):
        for j in range(n):
            z = 1 if right(i, j) else -1
            total += math.log(1 + math.exp(-z * (scale * s[i][j] + bias)))
    return total / n


def ask_right(positives):
    return (
        (lambda i, j: CAPTIONS[i] == CAPTIONS[j])
        if positives == "captions"
        else (lambda i, j: i == j)
    )


@pytest.mark.parametrize("positives", POSITIVES)
def test_naive_loops_of_learned_losses(positives):
    similarity, ids = random_matrix(6).double(), torch.tensor(CAPTIONS)
    s, right = similarity.tolist(), ask_right(positives)
    for scale in (1.0, 14.0):
        found = SoftmaxLoss(1 / scale, positives=positives).double()
        expected = naive_softmax(s, found.log_scale.exp().item(), right)
        assert found.compute_loss(similarity, ids).item() == pytest.approx(expected, rel=1e-12)
        found = SigmoidLoss(scale, -3.0, positives).double()
        expected = naive_sigmoid(s, found.log_scale.exp().item(), -3.0, right)
        assert found.compute_loss(similarity, ids).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", [SoftmaxLoss, SigmoidLoss])
def test_gradients_of_what_is_learned(kind, positives):
    """By finite differences of the naive loops."""
    similarity, ids = random_matrix(6).double(), torch.tensor(CAPTIONS)
    s, right, criterion = similarity.tolist(), ask_right(positives), kind(positives=positives)
    criterion.double().compute_loss(similarity, ids).backward()
    log_scale, step = criterion.log_scale.item(), 1e-6

    def compute(log_scale, bias=None):
        scale = math.exp(log_scale)
        given = (s, scale, right) if bias is None else (s, scale, bias, right)
        return (naive_softmax if bias is None else naive_sigmoid)(*given)

    bias = criterion.bias.item() if kind is SigmoidLoss else None
    slope = compute(log_scale + step, bias) - compute(log_scale - step, bias)
    assert criterion.log_scale.grad.item() == pytest.approx(slope / 2 / step, rel=1e-6)
    if bias is not None:
        slope = compute(log_scale, bias + step) - compute(log_scale, bias - step)
        assert criterion.bias.grad.item() == pytest.approx(slope / 2 / step, rel=1e-6)


@pytest.mark.parametrize("kind", [SoftmaxLoss, SigmoidLoss])
def test_of_distinct_captions_all_positives_are_the_diagonal_to_the_bit(kind):
    similarity, ids = random_matrix(7), torch.tensor([3, 1, 2, 9, 8, 7, 6])
    losses = [kind(positives=p).compute_loss(similarity, ids) for p in POSITIVES]
    assert torch.equal(*losses)
    ids[4] = ids[1]
    equal = kind(positives="captions").compute_loss(similarity, ids)
    assert abs(equal.item() - losses[0].item()) > 1e-3


def test_the_softmax_loss_is_half_the_published_one():
    similarity = random_matrix(5).double()
    found = SoftmaxLoss(0.05).double()
    with torch.no_grad():
        found.log_scale.fill_(math.log(20))
    expected = NormSoftmaxLoss(0.05).compute_loss(similarity).item() / 2
    assert found.compute_loss(similarity).item() == pytest.approx(expected, rel=1e-13)


def pretrained(scale, bias=None):
    return SimpleNamespace(initial_scale=scale, initial_bias=bias)


def started(criterion, model):
    criterion.start_from(model)
    return criterion.get_logged_values()


def test_what_is_learned_starts_from_the_pretraining_unless_it_is_set(caplog):
    caplog.set_level(logging.INFO)
    unknown, clip, siglip = pretrained(None), pretrained(50.0), pretrained(117.3, -12.9)
    for model, scale in ((unknown, 1 / 0.07), (clip, 50.0), (siglip, 100.0)):
        assert 1 / started(SoftmaxLoss(), model)["temperature"] == pytest.approx(scale)
        assert 1 / started(SoftmaxLoss(0.05), model)["temperature"] == pytest.approx(20.0)
    assert "ended with a scale of 117.3; the loss starts from 100" in caplog.text
    free = started(SoftmaxLoss(max_scale=200.0), siglip)
    assert 1 / free["temperature"] == pytest.approx(117.3)
    # A softmax's scale, without a bias, isn't one of this loss.
    for model, scale, bias in ((unknown, 10, -10), (clip, 10, -10), (siglip, 117.3, -12.9)):
        found = started(SigmoidLoss(), model)
        assert list(found.values()) == pytest.approx([scale, bias])
        found = started(SigmoidLoss(scale=5.0), model)
        assert list(found.values()) == pytest.approx([5.0, bias])
        found = started(SigmoidLoss(bias=-2), model)
        assert list(found.values()) == pytest.approx([scale, -2.0])
    assert (
        NormSoftmaxLoss().start_from(clip) is None and NormSoftmaxLoss().get_logged_values() == {}
    )


def test_a_scale_at_its_limit_goes_no_further_and_comes_back():
    criterion = SoftmaxLoss(temperature=0.01)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.5)

    def step(similarity):
        optimizer.zero_grad()
        criterion.compute_loss(similarity).backward()
        optimizer.step()
        reached = criterion.log_scale.exp().item()
        criterion.clamp_parameters()
        return reached

    limit = torch.tensor(math.log(100))  # as float32 has it
    good, bad = 0.1 * torch.eye(4), 0.1 * (1 - torch.eye(4))
    assert step(good) > 100.01 and torch.equal(criterion.log_scale, limit)
    assert step(bad) < 100 and criterion.log_scale < limit  # the gradient isn't cut off there
    with torch.no_grad():
        criterion.log_scale.fill_(1.0)
    criterion.clamp_parameters()
    assert criterion.log_scale.item() == 1.0


def test_a_temperature_beyond_the_limit_is_refused():
    with pytest.raises(UserError, match="temperature: 0.005 is a scale of 200, more than .* 100"):
        SoftmaxLoss(0.005)
    assert 1 / SoftmaxLoss(0.01).get_logged_values()["temperature"] == pytest.approx(100)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", [SoftmaxLoss, SigmoidLoss])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_learned_losses_and_their_gradients_are_finite(kind, positives, size):
    for ids in (torch.arange(size), torch.zeros(size, dtype=torch.int64)):
        for similarity in (random_matrix(size), torch.ones(size, size), -torch.ones(size, size)):
            similarity.requires_grad_()
            criterion = kind(positives=positives)
            value = criterion.compute_loss(similarity, ids)
            value.backward()
            grads = [similarity.grad, *(weight.grad for weight in criterion.parameters())]
            assert value.shape == () and torch.isfinite(value)
            assert all(torch.isfinite(grad).all() for grad in grads)
