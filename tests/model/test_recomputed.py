"""Values computed again instead of kept: the same gradients, fewer bytes."""

import pytest
import torch
from torch.nn import functional as F

from model.recomputed import Recomputed
from model.video_transformer import SpaceTimeBlock
from tests.model.test_activation_checkpointing import SavedBytes

FRAMES, PATCHES, DIM = 2, 9, 16


def block(cls_only: bool = False) -> SpaceTimeBlock:
    torch.manual_seed(0)
    made = SpaceTimeBlock(DIM, 4, 2.0, cls_only)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


def tokens() -> torch.Tensor:
    shape = 2, 1 + FRAMES * PATCHES, DIM
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("cls_only", [False, True])
def test_a_lean_block_has_the_same_gradients_to_the_bit(cls_only):
    found = []
    for lean in (False, True):
        made, x = block(cls_only), tokens()
        out = made(x, FRAMES, lean=lean)
        out.square().sum().backward()
        found.append([out, x.grad, *(weight.grad for weight in made.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_lean_block_keeps_a_quarter_less(monkeypatch):
    sizes = {}
    for lean in (False, True):
        made, x = block(), tokens()
        with monkeypatch.context() as patch, SavedBytes(made, patch) as saved:
            made(x, FRAMES, lean=lean)
        sizes[lean] = saved.bytes
    assert sizes[True] < 0.75 * sizes[False], sizes


def test_a_value_is_computed_once_for_all_of_its_uses_and_again_in_a_second_pass():
    x, runs = torch.randn(3, 4, requires_grad=True), []

    def compute() -> torch.Tensor:
        runs.append(torch.is_grad_enabled())
        return F.gelu(x)

    value = F.gelu(x)
    with Recomputed(value, compute):
        out = (value @ value.T).sum() + (value[1:] * value[:-1]).sum()
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    assert runs == [False]
    (second,) = torch.autograd.grad(out, x)
    plain = F.gelu(x)
    expected = (plain @ plain.T).sum() + (plain[1:] * plain[:-1]).sum()
    assert torch.equal(first, second) and torch.equal(first, torch.autograd.grad(expected, x)[0])
    assert runs == [False, False]
