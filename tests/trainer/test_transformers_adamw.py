"""The published runs' AdamW: against its rule written out, in every course a run may take."""

import copy
import math

import pytest
import torch
from torch import nn

from base.registry import OPTIMIZERS
from trainer.optim import ParameterGroup, build_schedule, transformers_adamw
from trainer.transformers_adamw import TransformersAdamW
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.precision import Precision

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BETAS, EPS = (0.9, 0.999), 1e-6
SMALL = (3e-5, -2e-5, 1e-6, 4e-3)  # gradients about the size of eps / sqrt(1 - beta2)


class Rule:
    """The rule of transformers 4.6 for one number, in Python's own floats."""

    def __init__(self, value: float, betas=BETAS, eps=EPS, weight_decay=0.0) -> None:
        self.value, self.betas, self.eps, self.decay = value, betas, eps, weight_decay
        self.mean = self.square = 0.0
        self.steps = 0

    def step(self, grad: float, lr: float) -> float:
        """Take a step; returns the number."""
        beta1, beta2 = self.betas
        self.steps += 1
        self.mean = beta1 * self.mean + (1 - beta1) * grad
        self.square = beta2 * self.square + (1 - beta2) * grad * grad
        size = lr * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        self.value -= size * self.mean / (math.sqrt(self.square) + self.eps)
        self.value -= lr * self.decay * self.value
        return self.value


def make_weight(values, device="cpu", dtype=torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype, device=device))


def set_grads(weight: nn.Parameter, number: int) -> list[float]:
    """Give a weight the gradients of a step, of changing size and sign."""
    grads = [grad * math.cos(0.7 * number + place) for place, grad in enumerate(SMALL)]
    weight.grad = torch.tensor(grads, dtype=weight.dtype, device=weight.device)
    return grads


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [BETAS, (0.5, 0.98)])
def test_twenty_steps_of_a_schedule_follow_the_rule(betas, decay, device):
    values = [0.5, -1.0, 2.0, 0.0]
    weight = make_weight(values, device)
    options = {"lr": 0.1, "betas": betas, "eps": EPS, "weight_decay": decay}
    optimizer = OPTIMIZERS.get("TransformersAdamW")([("weight", weight)], **options)
    assert optimizer.param_groups[0]["fused"] is True
    schedule = build_schedule("cosine", {"num_warmup_steps": 4}, optimizer, 20)
    rules = [Rule(value, betas, EPS, decay) for value in values]
    for number in range(20):
        done = (number - 4) / 16
        lr = 0.1 * (number / 4 if number < 4 else (1 + math.cos(math.pi * done)) / 2)
        grads = set_grads(weight, number)
        optimizer.step()
        schedule.finish_step()
        expected = [rule.step(grad, lr) for rule, grad in zip(rules, grads, strict=True)]
        assert weight.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert max(abs(weight - torch.tensor(values, device=device))) > 0.1


def test_in_float32_the_plain_and_the_fused_step_follow_it_too():
    for fused in (True, False):
        weight = make_weight([1.0] * 4, dtype=torch.float32)
        optimizer = TransformersAdamW([weight], lr=1e-3, eps=EPS, weight_decay=0.1, fused=fused)
        rules = [Rule(1.0, weight_decay=0.1) for _ in range(4)]
        for number in range(20):
            grads = set_grads(weight, number)
            optimizer.step()
            expected = [rule.step(grad, 1e-3) for rule, grad in zip(rules, grads, strict=True)]
        assert weight.tolist() == pytest.approx(expected, rel=2e-6)


def take_steps(kind: str, grad: float, count: int) -> list[float]:
    """Return how far each step with the same gradient moves a weight, in learning rates."""
    weight = make_weight([0.0])
    optimizer = OPTIMIZERS.get(kind)([("weight", weight)], lr=1.0)
    moved = []
    for _ in range(count):
        before = weight.item()
        weight.grad = torch.full_like(weight, grad)
        optimizer.step()
        moved.append(before - weight.item())
    return moved


def test_the_first_steps_of_a_small_gradient_are_half_of_torchs_and_then_grow_to_them():
    published, torchs = (take_steps(kind, 2.6e-5, 1000) for kind in ("TransformersAdamW", "AdamW"))
    ratios = [a / b for a, b in zip(published, torchs, strict=True)]
    assert ratios[0] == pytest.approx(0.47, abs=0.005)
    assert all(a < b for a, b in zip(ratios, ratios[1:], strict=False))
    assert 0.9 < ratios[99] < 0.94 and ratios[-1] > 0.98
    # A gradient that is large beside eps is stepped on alike.
    ratio = take_steps("TransformersAdamW", 1.0, 1)[0] / take_steps("AdamW", 1.0, 1)[0]
    assert ratio == pytest.approx(1, abs=1e-4)


def test_the_defaults_are_the_published_ones():
    group = transformers_adamw([("weight", make_weight([1.0]))]).param_groups[0]
    assert (group["lr"], group["betas"]) == (3e-5, (0.9, 0.999))
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.0)


def test_groups_keep_their_own_settings_and_a_weight_without_gradient_its_own_count():
    names = ("video_model.fc.weight", "txt_proj.weight", "vid_proj.weight")
    params = [(name, make_weight([1.0, -1.0, 2.0, 0.5])) for name in names]
    groups = (ParameterGroup(match="video_model.*", lr=0.01, weight_decay=0.5),)
    optimizer = transformers_adamw(params, lr=0.1, groups=groups)
    rules = {name: [Rule(v, weight_decay=0.5 * (name == names[0])) for v in w.tolist()]
             for name, w in params}  # fmt: skip
    for number in range(12):
        # One rests at first, one now and then, as where data sets of several kinds take turns.
        resting = {names[2]: number < 3, names[1]: number % 3 == 1}
        for name, weight in params:
            grads = set_grads(weight, number)
            if resting.get(name):
                weight.grad = None
                continue
            lr = 0.01 if name == names[0] else 0.1
            for rule, grad in zip(rules[name], grads, strict=True):
                rule.step(grad, lr)
        before = [(g["lr"], g["eps"], g["weight_decay"]) for g in optimizer.param_groups]
        optimizer.step()
        assert [(g["lr"], g["eps"], g["weight_decay"]) for g in optimizer.param_groups] == before
        for name, weight in params:
            expected = [rule.value for rule in rules[name]]
            assert weight.tolist() == pytest.approx(expected, rel=1e-12)
    assert [rules[name][0].steps for name in names] == [12, 8, 9]
    assert len(optimizer.param_groups) == 2
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in weights} == {id(weight) for _, weight in params}


@pytest.mark.parametrize("device", DEVICES)
def test_a_skipped_step_does_not_count(device):
    """By the flag that the fused kernel looks at, as after a loss that is not finite."""
    weight, precision = make_weight([1.0] * 4, device), Precision("fp32", torch.device(device))
    optimizer = transformers_adamw([("weight", weight)], lr=0.1, weight_decay=0.2)
    rules = [Rule(1.0, weight_decay=0.2) for _ in range(4)]
    for number in range(15):
        grads = set_grads(weight, number)
        is_bad = number in (0, 4, 5, 13)
        if is_bad:
            weight.grad.fill_(math.nan)
        else:
            for rule, grad in zip(rules, grads, strict=True):
                rule.step(grad, 0.1)
        precision.step(optimizer, None, torch.tensor(float(is_bad), device=device))
        expected = [rule.value for rule in rules]
        assert weight.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert optimizer.state[weight]["step"].item() == 11


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_whose_scaled_gradients_overflow_does_not_count(device):
    weight = make_weight([1.0] * 4, device, torch.float32)
    precision = Precision("fp16", torch.device(device))
    optimizer = transformers_adamw([("weight", weight)], lr=0.1)
    rules = [Rule(1.0) for _ in range(4)]
    for number in range(10):
        optimizer.zero_grad()
        grads = set_grads(weight, number)
        factors, weight.grad = weight.grad.clone(), None
        is_bad = number in (0, 3, 7)
        precision.backward((weight * factors).sum() * (math.inf if is_bad else 1))
        precision.step(optimizer, None)
        if not is_bad:
            for rule, grad in zip(rules, grads, strict=True):
                rule.step(grad, 0.1)
        assert weight.tolist() == pytest.approx([rule.value for rule in rules], rel=1e-5)
    assert precision.scaler.get_scale() == 65536 / 8


@pytest.mark.parametrize("device", DEVICES)
def test_a_checkpoint_has_the_settings_as_configured_and_the_run_goes_on_bit_for_bit(
    device, tmp_path
):
    def make(values):
        weight = make_weight(values, device, torch.float32)
        options = {"lr": 0.1, "eps": 2e-6, "weight_decay": 0.2}
        return weight, OPTIMIZERS.get("TransformersAdamW")([("weight", weight)], **options)

    def take(weight, optimizer, numbers):
        for number in numbers:
            set_grads(weight, number)
            optimizer.found_inf = torch.tensor(float(number == 2), device=device)
            optimizer.grad_scale = None
            optimizer.step()

    undisturbed, optimizer = make([1.0, 2.0, 3.0, 4.0])
    take(undisturbed, optimizer, range(3))  # the last one is skipped
    state = copy.deepcopy(optimizer.state_dict())
    [group] = state["param_groups"]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.1, 2e-6, 0.2)
    assert group.keys() == torch.optim.AdamW([make_weight([1.0])]).param_groups[0].keys()
    save_checkpoint(tmp_path / "a.pth", {"weight": undisturbed.detach(), "optimizer": state})
    take(undisturbed, optimizer, range(3, 9))

    kept = load_checkpoint(tmp_path / "a.pth")
    weight, optimizer = make([0.0] * 4)
    weight.data.copy_(kept["weight"])
    optimizer.load_state_dict(kept["optimizer"])
    take(weight, optimizer, range(3, 9))
    assert torch.equal(weight, undisturbed)
    assert (weight - kept["weight"].to(device)).abs().min() > 0.01


def test_a_copy_of_the_optimizer_goes_on_like_it():
    weight = make_weight([1.0] * 4)
    optimizer = transformers_adamw([("weight", weight)], lr=0.1)
    set_grads(weight, 0)
    optimizer.step()
    other = copy.deepcopy({"weight": weight, "optimizer": optimizer})
    for one, its in ((weight, optimizer), (other["weight"], other["optimizer"])):
        set_grads(one, 1)
        its.step()
    assert torch.equal(weight, other["weight"])


def test_a_closure_gives_the_gradients_and_its_loss_is_returned():
    weight = make_weight([1.0])

    def closure():
        weight.grad = None
        loss = (weight * 3e-5).sum()
        loss.backward()
        return loss

    assert transformers_adamw([("weight", weight)], lr=0.1).step(closure).item() == 3e-5
    assert weight.item() == pytest.approx(Rule(1.0).step(3e-5, 0.1), rel=1e-12)


@pytest.mark.parametrize("groups", [(), (ParameterGroup(match="*", weight_decay=20.0),)])
def test_a_decay_of_the_whole_weight_is_refused(groups):
    decay = 20.0 if not groups else 0.0
    with pytest.raises(UserError, match=r"optimizer\.args: lr 0\.1 times weight_decay 20\.0"):
        transformers_adamw([("w", make_weight([1.0]))], 0.1, weight_decay=decay, groups=groups)
