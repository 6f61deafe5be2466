"""The attention kernels, run by Triton's interpreter, beside the formula with an explicit mask.

Shapes as in model/attention_kernels.py; the formula is in float64.
"""

import os
import sys

import pytest
import torch
from torch.nn import functional as F

from tests.model.kernels_on_cpu import load_interpreted_kernels

HALF = torch.bfloat16
FLOAT32_ERROR = 2e-6  # against the largest number
# Against the norm; half of it is because the interpreter cuts off bits where a GPU rounds.
HALF_ERROR = 1e-2
# Frames, patches, heads, channels: one tile and several, with rows left over
SIZES = [
    (1, 5, 1, 8),
    (2, 9, 3, 24),
    (3, 37, 1, 16),
    (4, 11, 2, 64),
    (8, 5, 1, 16),
    (16, 3, 1, 20),
]
HALF_SIZES = [(1, 70, 1, 16), (3, 9, 2, 24), (4, 5, 1, 64)]
LENGTHS = [[1], [2] * 9 + [3] * 4 + [7], [1, 3, 4, 40], [16, 16], [33, 20]]
# Rows of a tile beyond the last token are computed, too, and not stored.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture(scope="module")
def kernels():
    return load_interpreted_kernels()


@pytest.fixture(autouse=True)
def _unwritten_is_nan(monkeypatch):
    """What a kernel leaves out is NaN, and equal to nothing."""
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty

    def make_unwritten(make):
        def made(*args, **options):
            tensor = make(*args, **options)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return made

    monkeypatch.setattr(torch, "empty_like", make_unwritten(empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", make_unwritten(new_empty))
    assert torch.empty_like(torch.zeros(1)).isnan() and torch.zeros(1).new_empty(1).isnan()


def measure_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest of float32, the norm of 16 bits; either against the expected."""
    difference = found.double() - expected
    if found.dtype == HALF:
        return (difference.norm() / expected.norm()).item()
    return (difference.abs().max() / expected.abs().max().clamp(min=1)).item()


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert measure_error(found, expected) <= (HALF_ERROR if found.dtype == HALF else FLOAT32_ERROR)


def attend_with_mask(qkv, num_frames: int, over_time: bool) -> torch.Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, S, C) each
    tokens = torch.arange(qkv.shape[1] - 1, device=qkv.device)
    frame, position = tokens // (len(tokens) // num_frames), tokens % (len(tokens) // num_frames)
    group = position if over_time else frame
    seen = F.pad(group[:, None] == group, (1, 0, 1, 0), value=True)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(1, 2)


def make_qkv(sizes, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, keys and values of two clips, and a gradient of the output."""
    frames, patches, heads, channels = sizes
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 1 + frames * patches, 3, heads, channels, generator=generator)
    return qkv.to(dtype), torch.randn(qkv[:, :, 0].shape, generator=generator).to(dtype)


@pytest.mark.parametrize("over_time", [True, False])
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [(sizes, torch.float32) for sizes in SIZES] + [(sizes, HALF) for sizes in HALF_SIZES],
)
def test_output_and_gradients_are_those_of_the_formula(kernels, over_time, sizes, dtype):
    qkv, grad = make_qkv(sizes, dtype)
    frames = sizes[0]
    exact = qkv.double().requires_grad_()
    expected = attend_with_mask(exact, frames, over_time)
    (expected_grad,) = torch.autograd.grad(expected, exact, grad.double())

    out, lse = kernels.attend(qkv, frames, over_time)
    found = kernels.attend_backward(grad, qkv, out, lse, frames, over_time)
    assert out.dtype == found.dtype == dtype and lse.dtype == torch.float32
    assert lse.isfinite().all()
    # CLS is put together from parts, in kernels of its own
    for tokens in (slice(0, 1), slice(1, None)):
        check(out[:, tokens], expected.detach()[:, tokens])
        for part in range(3):  # queries, keys, values
            check(found[:, tokens, part], expected_grad[:, tokens, part])


@pytest.mark.parametrize("over_time", [True, False])
def test_two_runs_are_equal_to_the_bit(kernels, over_time):
    qkv, grad = make_qkv((2, 20, 1, 16))
    runs = []
    for _ in range(2):
        out, lse = kernels.attend(qkv, 2, over_time)
        runs.append((out, lse, kernels.attend_backward(grad, qkv, out, lse, 2, over_time)))
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("over_time", [True, False])
def test_large_scores_do_not_overflow(kernels, over_time):
    qkv, grad = make_qkv((3, 9, 2, 16))
    qkv[:, :, :2] *= 20
    exact = qkv.double().requires_grad_()
    expected = attend_with_mask(exact, 3, over_time)
    (expected_grad,) = torch.autograd.grad(expected, exact, grad.double())
    out, lse = kernels.attend(qkv, 3, over_time)
    found = kernels.attend_backward(grad, qkv, out, lse, 3, over_time)
    assert lse.max() > 500  # whose exponential float32 does not hold
    torch.testing.assert_close(out.double(), expected.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.double(), expected_grad, rtol=1e-2, atol=1e-2)


# Texts


def make_bounds(lengths: list[int], padded_to: int = 0) -> torch.Tensor:
    """(2, M): begin and end of each token's text, laid end to end or each padded."""
    lengths = torch.tensor(lengths)
    taken = torch.full_like(lengths, padded_to) if padded_to else lengths
    first = taken.cumsum(0) - taken
    bounds = torch.stack((first, first + lengths)).repeat_interleave(taken, dim=1)
    return bounds.to(torch.int32)


def make_heads(num_tokens: int, heads: int, channels: int, dtype=torch.float32):
    """Queries, keys, values and a gradient of the output, each (M, H, C)."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(4, num_tokens, heads, channels, generator=generator)
    return drawn.to(dtype).unbind()


def find_seen(bounds: torch.Tensor) -> torch.Tensor:
    """(M, M): which keys a token sees."""
    tokens = torch.arange(bounds.shape[1], device=bounds.device)
    return (tokens >= bounds[0][:, None]) & (tokens < bounds[1][:, None])


def weigh(q, k, bounds) -> torch.Tensor:
    """(H, M, M), the softmax within texts."""
    scores = (q.transpose(0, 1) * q.shape[-1] ** -0.5) @ k.permute(1, 2, 0)
    return scores.masked_fill(~find_seen(bounds), float("-inf")).softmax(-1)


def differentiate(q, k, v, grad, bounds, factors=1.0) -> list[torch.Tensor]:
    """The formula's output and its gradients; ``factors`` (H, M, M) of the weights."""
    exact = [part.double().requires_grad_() for part in (q, k, v)]
    weights = weigh(*exact[:2], bounds) * factors
    out = (weights @ exact[2].transpose(0, 1)).transpose(0, 1)
    return [out.detach(), *torch.autograd.grad(out, exact, grad.double())]


def run_kernels(kernels, q, k, v, grad, bounds, dropout=0.0, seed=1) -> list[torch.Tensor]:
    seed = torch.tensor([seed])
    out, lse = kernels.attend_in_texts(q, k, v, bounds, dropout, seed)
    assert lse.isfinite().all()
    saved = grad, q, k, v, out, lse, bounds, dropout, seed
    return [out, *kernels.attend_in_texts_backward(*saved)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("channels", "dtype"), [(24, torch.float32), (64, HALF)])
def test_a_token_attends_to_its_own_text(kernels, lengths, channels, dtype):
    bounds = make_bounds(lengths)
    parts = make_heads(sum(lengths), 1 + (channels == 24), channels, dtype)
    found = run_kernels(kernels, *parts, bounds)
    for one, other in zip(found, differentiate(*parts, bounds), strict=True):
        assert one.dtype == dtype
        if lengths == [1] and not other.any():  # of one key, queries and keys do not matter
            assert one.abs().max() < (1e-1 if dtype == HALF else 1e-5)
            continue
        check(one, other)


@pytest.mark.parametrize(
    ("lengths", "width", "dropout"),
    [([6, 2, 4, 3], 6, 0.0), ([6, 2, 4, 3], 6, 0.4), ([20, 2, 17], 20, 0.0)],
)
def test_padding_is_neither_seen_nor_given_gradients(kernels, lengths, width, dropout):
    """Its own output is read by nobody, so that its gradient is zero."""
    padded, packed = make_bounds(lengths, width), make_bounds(lengths)
    is_token = torch.arange(len(lengths) * width) < padded[1]
    parts = [part.clone() for part in make_heads(len(is_token), 1, 16)]
    parts[3][~is_token] = 0
    found = run_kernels(kernels, *parts, padded, dropout)
    for part in parts[:3]:
        part[~is_token] = 100.0
    again = run_kernels(kernels, *parts, padded, dropout)
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one[is_token], other[is_token])
    for grad in found[1:]:
        assert not grad[~is_token].any()
    if not dropout:
        expected = differentiate(*(part[is_token] for part in parts), packed)
        for one, other in zip(found, expected, strict=True):
            check(one[is_token], other)


def read_factors(kernels, q, k, bounds, dropout: float, seed: int) -> torch.Tensor:
    """(H, M, M): by what dropout multiplied each weight, read with values that are one-hot."""
    num_tokens, heads, channels = q.shape
    weights = torch.zeros(heads, num_tokens, num_tokens, dtype=torch.float64)
    for first in range(0, num_tokens, channels):
        count = min(channels, num_tokens - first)
        v = torch.zeros_like(q)
        v[torch.arange(first, first + count), :, torch.arange(count)] = 1
        out, _ = kernels.attend_in_texts(q, k, v, bounds, dropout, torch.tensor([seed]))
        weights[:, :, first : first + count] = out.permute(1, 0, 2)[:, :, :count].double()
    seen = find_seen(bounds)
    assert not weights[:, ~seen].any()
    factors = torch.where(seen, weights / weigh(q.double(), k.double(), bounds), 0.0)
    kept = (factors > 0.5 / (1 - dropout)).double() / (1 - dropout)
    torch.testing.assert_close(factors, kept, rtol=1e-4, atol=1e-4)
    return kept


@pytest.mark.parametrize(("lengths", "dropout"), [([2] * 9 + [3] * 4 + [7], 0.3), ([33, 20], 0.1)])
def test_dropout_is_drawn_anew_by_the_backward_pass(kernels, lengths, dropout):
    bounds, parts = make_bounds(lengths), make_heads(sum(lengths), 2, 64)
    factors = read_factors(kernels, *parts[:2], bounds, dropout, 7)
    drawn = factors[:, find_seen(bounds)].count_nonzero(dim=1) / find_seen(bounds).sum()
    # Four standard deviations of the share that is kept, of each head
    spread = (dropout * (1 - dropout) / find_seen(bounds).sum()).sqrt()
    assert (drawn - (1 - dropout)).abs().max() < 4 * spread
    assert not torch.equal(factors[0], factors[1])

    found = run_kernels(kernels, *parts, bounds, dropout, 7)
    for one, other in zip(found, differentiate(*parts, bounds, factors), strict=True):
        check(one, other)
    other = read_factors(kernels, *parts[:2], bounds, dropout, 8)
    agreeing = (other == factors)[:, find_seen(bounds)].double().mean()
    assert abs(agreeing - (1 - 2 * dropout * (1 - dropout))) < 4 * spread
    with_others = run_kernels(kernels, *parts, bounds, dropout, 8)
    assert not any(torch.equal(*pair) for pair in zip(found, with_others, strict=True))


def test_without_dropout_the_seed_does_not_matter(kernels):
    bounds, parts = make_bounds([3, 5]), make_heads(8, 2, 16)
    one, other = (run_kernels(kernels, *parts, bounds, seed=seed) for seed in (1, 2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_the_interpreter_is_left_to_these_tests(kernels):
    import triton

    from model import attention_kernels

    assert "TRITON_INTERPRET" not in os.environ and kernels is not attention_kernels
    assert sys.modules["triton"] is triton and triton.jit is not kernels.triton.jit
    assert type(attention_kernels._merge_cls) is triton.runtime.jit.JITFunction
