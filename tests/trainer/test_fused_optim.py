"""Fused optimizer steps: the plain ones but for rounding, no part of what a checkpoint asks for."""

import copy

import pytest
import torch

from base.registry import OPTIMIZERS
from trainer import optim
from utils.checkpoint.files import load_checkpoint, save_checkpoint

ARGUMENTS = {
    "AdamW": {"lr": 0.1, "eps": 1e-6, "weight_decay": 0.3},
    "Adam": {"lr": 0.1},
    "SGD": {"lr": 0.1, "momentum": 0.5},
}
NAMES = list(ARGUMENTS)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def fusing(monkeypatch):
    """Return a function: fuse from now on, or not, whatever the device (torch can on the CPU)."""
    return lambda wanted: monkeypatch.setattr(optim, "can_fuse", lambda weights: wanted)


def made(name: str, device: str = "cpu"):
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64, device=device))
    return weight, OPTIMIZERS.get(name)(iter([("weight", weight)]), **ARGUMENTS[name])


def steps(weight, optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        (weight**3 + weight).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_fused_step_is_the_plain_one_but_for_rounding(name):
    weight, optimizer = made(name)
    assert optimizer.param_groups[0]["fused"] is True
    other = torch.nn.Parameter(weight.detach().clone())
    plain = getattr(torch.optim, name)([other], foreach=False, **ARGUMENTS[name])
    before = weight.detach().clone()
    steps(weight, optimizer, 3)
    steps(other, plain, 3)
    torch.testing.assert_close(weight, other, rtol=1e-14, atol=1e-14)
    assert (weight - before).abs().min() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_steps_on_a_gpu_are_fused(name):
    assert made(name, "cuda")[1].param_groups[0]["fused"] is True


def test_fusing_needs_every_weight_on_one_kind_of_device():
    class Weight:
        def __init__(self, kind: str) -> None:
            self.device = torch.device(kind)

    assert optim.can_fuse([Weight("cuda"), Weight("cuda")])
    assert optim.can_fuse([Weight("cpu")])
    assert not optim.can_fuse([Weight("cuda"), Weight("cpu")])
    assert not optim.can_fuse([Weight("meta")])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", [False, True])
def test_a_run_goes_on_with_its_own_kernel(name, before, device, fusing, tmp_path):
    fusing(before)
    undisturbed, optimizer = made(name, device)
    steps(undisturbed, optimizer, 2)
    state = {"weight": undisturbed.detach(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "a.pth", copy.deepcopy(state))
    steps(undisturbed, optimizer, 2)

    fusing(not before)
    weight, optimizer = made(name, device)
    state = load_checkpoint(tmp_path / "a.pth")
    weight.data.copy_(state["weight"])
    optimizer.load_state_dict(state["optimizer"])
    assert bool(optimizer.param_groups[0]["fused"]) is not before
    steps(weight, optimizer, 2)
    torch.testing.assert_close(weight, undisturbed, rtol=1e-12, atol=1e-12)


def test_a_state_of_other_groups_is_still_refused():
    _, optimizer = made("AdamW")
    state = optimizer.state_dict()
    for groups in ([], state["param_groups"] * 2):
        with pytest.raises(ValueError, match="parameter groups"):
            optimizer.load_state_dict(state | {"param_groups": groups})
