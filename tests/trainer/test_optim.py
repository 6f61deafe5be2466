"""Optimizers and schedules by name: their defaults, and the learning rate at every turn."""

import math

import pytest
import torch

from base.registry import LR_SCHEDULERS, OPTIMIZERS
from trainer.optim import (
    STEP_SCHEDULES,
    ParameterGroup,
    adamw,
    build_schedule,
    count_warmup_steps,
)
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


@pytest.mark.parametrize("name", STEP_SCHEDULES)
def test_the_warm_up_is_a_share_of_the_steps(name):
    by_number = flat(rates(name, num_warmup_steps=3))
    assert flat(rates(name, warmup_ratio=0.25)) == by_number != flat(rates(name))
    assert flat(rates(name, warmup_ratio=0.2)) == by_number  # 2.4 of 12 steps, rounded up
    assert flat(rates(name, warmup_ratio=0.0)) == flat(rates(name))
    longer = rates(name, warmup_ratio=0.25, num_training_steps=24)
    assert flat(longer) == flat(rates(name, num_warmup_steps=6, num_training_steps=24))
    with pytest.raises(UserError, match="has both num_warmup_steps and warmup_ratio; leave one"):
        rates(name, num_warmup_steps=3, warmup_ratio=0.25)


def test_a_share_that_is_a_whole_number_of_steps_is_that_number():
    counts = [count_warmup_steps(0, 0.07, 100), count_warmup_steps(0, 0.1, 30)]
    assert counts == [7, 3] and count_warmup_steps(0, 0.101, 100) == 11
    assert count_warmup_steps(5, None, 30) == 5 and count_warmup_steps(0, 1.0, 30) == 30


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


SHAPES = {
    "tower.proj.weight": (3, 2),
    "tower.proj.bias": (3,),
    "tower.norm.weight": (3,),
    "head.weight": (2, 3),
    "head.bias": (2,),
    "criterion.log_scale": (),
}


def shaped():
    return [(name, torch.nn.Parameter(torch.ones(shape))) for name, shape in SHAPES.items()]


def settings_of(optimizer, params) -> dict[str, tuple[float, float]]:
    """Rate and decay of each parameter, which has to be in one group."""
    groups = [(id(w), group) for group in optimizer.param_groups for w in group["params"]]
    assert len(groups) == len(dict(groups)) == len(params)
    by_id = dict(groups)
    return {name: (by_id[id(w)]["lr"], by_id[id(w)]["weight_decay"]) for name, w in params}


def test_a_rate_relative_to_the_optimizers():
    params = shaped()
    groups = (
        ParameterGroup(match="tower.*", lr_scale=1e-3),
        ParameterGroup(match="tower.norm.*", lr=0.5),
        ParameterGroup(match="*.bias", lr_scale=2.0),
    )
    found = settings_of(adamw(params, lr=0.1, weight_decay=0.2, groups=groups), params)
    assert found == {
        "tower.proj.weight": (0.1 * 1e-3, 0.2),
        "tower.proj.bias": (0.2, 0.2),
        "tower.norm.weight": (0.5, 0.2),
        "head.weight": (0.1, 0.2),
        "head.bias": (0.2, 0.2),
        "criterion.log_scale": (0.1, 0.2),
    }


def test_a_group_has_one_rate():
    with pytest.raises(ValueError, match="has both lr and lr_scale; leave one of them out"):
        ParameterGroup(match="*", lr=0.1, lr_scale=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_norms_biases_and_scales_without_decay(name):
    params, groups = shaped(), (ParameterGroup(match="tower.*", lr=0.01, weight_decay=0.5),)
    options = {"lr": 0.1, "weight_decay": 0.2, "groups": groups}
    found = settings_of(OPTIMIZERS.get(name)(params, **options), params)
    assert set(found.values()) == {(0.01, 0.5), (0.1, 0.2)}
    optimizer = OPTIMIZERS.get(name)(params, **options, decay_norms_and_biases=False)
    assert settings_of(optimizer, params) == {
        "tower.proj.weight": (0.01, 0.5),
        "tower.proj.bias": (0.01, 0.0),
        "tower.norm.weight": (0.01, 0.0),
        "head.weight": (0.1, 0.2),
        "head.bias": (0.1, 0.0),
        "criterion.log_scale": (0.1, 0.0),
    }
    for _, weight in params:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = [name for name, weight in params if not weight.equal(torch.ones_like(weight))]
    assert moved == ["tower.proj.weight", "head.weight"]


def test_a_group_that_decays_only_what_shall_have_no_decay_is_an_error():
    groups = (ParameterGroup(match="*.bias", weight_decay=0.1),)
    with pytest.raises(UserError, match=r'groups\.0\.match: "\*\.bias" matches only norms, biases'):
        adamw(shaped(), groups=groups, decay_norms_and_biases=False)
    adamw(shaped(), groups=groups)
    none = (ParameterGroup(match="*.bias", weight_decay=0.0),)
    adamw(shaped(), groups=none, decay_norms_and_biases=False)
