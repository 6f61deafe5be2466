"""Optimizers and schedules by name: their defaults, and the learning rate at every turn."""

import math

import pytest
import torch

from base.registry import LR_SCHEDULERS, OPTIMIZERS
from trainer.optim import STEP_SCHEDULES, ParameterGroup, adamw, build_schedule
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import UserError

EPOCHS, STEPS = 4, 3  # a run of 12 steps


def weight() -> list[tuple[str, torch.nn.Parameter]]:
    return [("weight", torch.nn.Parameter(torch.ones(2)))]


def rates(name: str, **kwargs) -> list[list[float]]:
    """Return the rate that each step of each epoch uses, as the training loop advances it."""
    optimizer = torch.optim.SGD([weight()[0][1]], lr=1.0)
    schedule = build_schedule(name, kwargs, optimizer, EPOCHS * STEPS)
    used = []
    for _ in range(EPOCHS):
        used.append([])
        for _ in range(STEPS):
            used[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.finish_step()
        schedule.finish_epoch()
    return used


def flat(used: list[list[float]]) -> list[float]:
    return [rate for epoch in used for rate in epoch]


def test_adamw_has_the_published_defaults_and_not_those_of_torch():
    group = adamw(weight()).param_groups[0]
    assert (group["lr"], group["betas"]) == (3e-5, (0.9, 0.999))
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.0)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("AdamW", {"lr": 0.1, "betas": (0.5, 0.6), "eps": 0.2, "weight_decay": 0.3}),
        ("Adam", {"lr": 0.1, "betas": (0.5, 0.6), "eps": 0.2, "weight_decay": 0.3}),
        ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3, "nesterov": True}),
    ],
)
def test_every_argument_reaches_the_optimizer(name, kwargs):
    optimizer = OPTIMIZERS.get(name)(weight(), **kwargs)
    assert type(optimizer) is getattr(torch.optim, name)
    assert {key: optimizer.param_groups[0][key] for key in kwargs} == kwargs


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1]),
        ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.5}, [1, 0.5, 0.5, 0.25]),
        ("ConstantLR", {"factor": 0.5, "total_iters": 2}, [0.5, 0.5, 1, 1]),
        ("LinearLR", {"start_factor": 0.5, "total_iters": 2}, [0.5, 0.75, 1, 1]),
        ("ExponentialLR", {"gamma": 0.5}, [1, 0.5, 0.25, 0.125]),
        ("PolynomialLR", {"total_iters": 4, "power": 1.0}, [1, 0.75, 0.5, 0.25]),
        (
            "CosineAnnealingLR",
            {"T_max": 4},
            [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)],
        ),
        ("CosineAnnealingWarmRestarts", {"T_0": 2}, [1, 0.5, 1, 0.5]),
    ],
)
def test_schedules_of_torch_advance_by_epochs(name, kwargs, expected):
    used = rates(name, **kwargs)
    assert all(len(set(epoch)) == 1 for epoch in used)
    assert [epoch[0] for epoch in used] == pytest.approx(expected)


WARM = [0, 0.5]  # two steps of warm-up
LEFT = [step / 10 for step in range(10)]  # how much of the other ten is over at each


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [1 - done for done in LEFT]),
        ("cosine", [(1 + math.cos(math.pi * done)) / 2 for done in LEFT]),
        ("cosine_with_restarts", [(1 + math.cos(math.pi * done)) / 2 for done in LEFT]),
        ("polynomial", [1e-7 + (1 - 1e-7) * (1 - done) for done in LEFT]),
        ("constant_with_warmup", [1] * 10),
    ],
)
def test_schedules_of_transformers_advance_by_steps(name, expected):
    assert flat(rates(name, num_warmup_steps=2)) == pytest.approx([*WARM, *expected])


def test_the_rate_stays_between_warm_up_and_decay():
    used = flat(rates("warmup_stable_decay", num_warmup_steps=2, num_decay_steps=4))
    assert used == pytest.approx([*WARM, *[1] * 6, 1, 0.75, 0.5, 0.25])
    used = flat(rates("warmup_stable_decay", num_warmup_steps=2))  # 30 % of 12: 4
    assert used == pytest.approx([*WARM, *[1] * 6, 1, 0.75, 0.5, 0.25])
    used = flat(rates("warmup_stable_decay", num_warmup_steps=24))  # as long as the run, and more
    assert used == pytest.approx([step / 24 for step in range(12)])
    with pytest.raises(UserError, match="8 steps of warm-up and 5 of decay .* the 12 steps"):
        rates("warmup_stable_decay", num_warmup_steps=8, num_decay_steps=5)


def test_the_length_of_a_step_schedule_is_the_run_or_what_is_given():
    assert flat(rates("linear"))[6] == pytest.approx(0.5)
    assert flat(rates("linear", num_training_steps=24))[6] == pytest.approx(0.75)


ARGUMENTS = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "ExponentialLR": {"gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
}


@pytest.mark.parametrize("name", LR_SCHEDULERS.names())
def test_every_schedule_goes_through_a_checkpoint(name, tmp_path):
    def build():
        optimizer = torch.optim.SGD([weight()[0][1]], lr=1.0)
        return optimizer, build_schedule(name, ARGUMENTS.get(name, {}), optimizer, 12)

    def advance(optimizer, schedule) -> list[float]:
        used = []
        for _ in range(3):
            optimizer.step()
            schedule.finish_step()
            schedule.finish_epoch()
            used.append(optimizer.param_groups[0]["lr"])
        return used

    assert build()[1].unit == ("step" if name in STEP_SCHEDULES else "epoch")
    first = build()
    advance(*first)
    parts = {"optimizer": first[0].state_dict(), "scheduler": first[1].scheduler.state_dict()}
    save_checkpoint(tmp_path / "a.pth", parts)
    second = build()
    state = load_checkpoint(tmp_path / "a.pth")
    second[0].load_state_dict(state["optimizer"])
    second[1].scheduler.load_state_dict(state["scheduler"])
    assert advance(*second) == advance(*first)


def named():
    names = ("video_model.blocks.0.norm.weight", "video_model.blocks.0.fc.bias", "txt_proj.weight")
    return [(name, torch.nn.Parameter(torch.ones(2))) for name in names]


def test_groups_have_settings_of_their_own_and_the_later_one_counts():
    groups = (
        ParameterGroup(match="video_model.*", lr=0.01, weight_decay=0.5),
        ParameterGroup(match="*.norm.*", weight_decay=0.0),
        ParameterGroup(match="*.bias", weight_decay=0.0),
    )
    params = named()
    found = adamw(params, lr=0.1, weight_decay=0.2, groups=groups).param_groups
    settings = [(group["lr"], group["weight_decay"], len(group["params"])) for group in found]
    assert settings == [(0.01, 0.0, 2), (0.1, 0.2, 1)]
    assert found[1]["params"][0] is params[2][1]


def test_without_groups_there_is_one_with_all_parameters_in_their_order():
    params = named()
    [group] = adamw(params).param_groups
    assert [id(weight) for weight in group["params"]] == [id(weight) for _, weight in params]


def test_a_group_that_matches_nothing_is_an_error():
    with pytest.raises(
        UserError, match=r'groups\.0\.match: "video_modle\.\*" matches no'
    ) as caught:
        adamw(named(), groups=(ParameterGroup(match="video_modle.*", lr=1.0),))
    assert "begin with video_model, txt_proj" in str(caught.value)
