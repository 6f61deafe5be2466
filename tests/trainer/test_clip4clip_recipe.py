"""The recipe of CLIP4Clip as a configuration: rates, decay, warm-up, learned temperature."""

import json
import math

import pytest
import torch

from model.loss import SigmoidLoss, SoftmaxLoss
from trainer.build import build_criterion, build_trainer
from utils.checkpoint.files import load_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")
TOWER = ("text_model.", "video_model.")
GROUPS = [{"match": f"{name}*", "lr_scale": 1e-3} for name in TOWER]
OPTIMIZER = {
    "type": "AdamW",
    "args": {
        "lr": 1e-4,
        "betas": [0.9, 0.98],
        "eps": 1e-6,
        "weight_decay": 0.2,
        "decay_norms_and_biases": False,
        "groups": GROUPS,
    },
}
RECIPE = [
    f"optimizer={json.dumps(OPTIMIZER)}",
    'lr_scheduler={"type": "cosine", "args": {"warmup_ratio": 0.1}}',
    'loss={"type": "SoftmaxLoss"}',
    "trainer.epochs=5",
    "trainer.clip_grad_norm=1.0",
    "trainer.monitor=off",
    "trainer.validation_period=5",
]


def make_trainer(config, folder):
    folder.mkdir(exist_ok=True)
    return build_trainer(config, folder, CPU)


def read_lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def find_groups(trainer) -> dict[str, dict]:
    """The group of each parameter; it is in one."""
    members = [(id(w), group) for group in trainer.optimizer.param_groups for w in group["params"]]
    named = dict(trainer.model.named_parameters())
    named |= {f"criterion.{n}": w for n, w in trainer.criterion.named_parameters()}
    assert sorted(key for key, _ in members) == sorted(id(weight) for weight in named.values())
    by_id = dict(members)
    return {name: by_id[id(weight)] for name, weight in named.items()}


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory):
    """A whole run, the rates of each of its steps by parameter, and its folder."""
    folder, rates = tmp_path_factory.mktemp("whole"), []
    trainer = make_trainer(make_config(*RECIPE, kind="fusion"), folder)
    groups, step = find_groups(trainer), trainer.clip_and_step

    def note_rates(loss):
        rates.append({name: group["lr"] for name, group in groups.items()})
        return step(loss)

    trainer.clip_and_step = note_rates
    trainer.fit()
    return trainer, rates, folder


def test_every_parameter_has_the_rate_and_the_decay_of_the_recipe(make_config, tmp_path):
    trainer = make_trainer(make_config(*RECIPE, kind="fusion"), tmp_path)
    groups = find_groups(trainer)
    named = dict(trainer.model.named_parameters())
    for name, group in groups.items():
        rate = 1e-4 * 1e-3 if name.startswith(TOWER) else 1e-4
        is_flat = name not in named or named[name].ndim < 2
        found = group["initial_lr"], group["weight_decay"], group["betas"], group["eps"]
        assert found == (rate, 0.0 if is_flat else 0.2, (0.9, 0.98), 1e-6), name
    kinds = {(group["initial_lr"], group["weight_decay"]) for group in groups.values()}
    assert len(kinds) == len(trainer.optimizer.param_groups) == 4
    assert groups["criterion.log_scale"]["weight_decay"] == 0.0


def test_the_schedule_moves_the_rate_of_each_group(whole):
    _, rates, _ = whole
    # 10 steps: a tenth of them warms up, then half a cosine.
    shape = [0.0, *((1 + math.cos(math.pi * step / 9)) / 2 for step in range(9))]
    assert len(rates) == 10
    for name in rates[0]:
        base = 1e-7 if name.startswith(TOWER) else 1e-4
        expected = pytest.approx([base * part for part in shape], rel=1e-9, abs=0)
        assert [step[name] for step in rates] == expected


def test_what_the_loss_learns_is_logged_each_epoch_and_goes_on_in_a_resumed_run(
    whole, make_config, tmp_path
):
    trainer, _, folder = whole
    lines = read_lines(folder)
    learned = trainer.criterion.log_scale.item()
    values = [line["temperature"] for line in lines]
    assert len(set(values)) == 5 and values[-1] == pytest.approx(math.exp(-learned))
    assert values[0] == pytest.approx(0.07, rel=1e-3) and learned != math.log(1 / 0.07)

    config = make_config(*RECIPE, kind="fusion")
    first = make_trainer(config, tmp_path / "run")
    first.epochs = 2
    first.fit()
    second = make_trainer(config, tmp_path / "run")
    start = second.criterion.log_scale.item()
    second.resume(tmp_path / "run" / "model_last.pth")
    assert torch.equal(second.criterion.log_scale, first.criterion.log_scale)
    assert second.criterion.log_scale.item() != start
    second.fit()
    assert torch.equal(second.criterion.log_scale, trainer.criterion.log_scale)
    assert [line["temperature"] for line in read_lines(tmp_path / "run")] == values
    states = [load_checkpoint(run / "model_last.pth") for run in (folder, tmp_path / "run")]
    for kept in zip(*(state["state_dict"].values() for state in states), strict=True):
        assert torch.equal(*kept)
    assert states[0]["optimizer"]["param_groups"] == states[1]["optimizer"]["param_groups"]


def test_training_starts_where_the_models_pretraining_ended(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("model.frozen_in_time.FrozenInTime.initial_scale", 99.0)
    monkeypatch.setattr("model.frozen_in_time.FrozenInTime.initial_bias", -12.0)
    softmax, sigmoid = (f'loss={{"type": "{kind}"}}' for kind in ("SoftmaxLoss", "SigmoidLoss"))
    trainer = make_trainer(make_config(softmax, kind="ocr"), tmp_path)
    assert isinstance(trainer.criterion, SoftmaxLoss)
    assert trainer.criterion.log_scale.exp().item() == pytest.approx(99.0)
    config = make_config(sigmoid, kind="ocr")
    criterion = build_criterion(config, CPU, trainer.model)
    assert isinstance(criterion, SigmoidLoss)
    assert list(criterion.get_logged_values().values()) == pytest.approx([99.0, -12.0])
    apart = build_criterion(config, CPU)  # as a report does, which takes a checkpoint's values
    assert list(apart.get_logged_values().values()) == pytest.approx([10.0, -10.0])


def test_the_scale_is_clamped_after_each_step(make_config, tmp_path):
    sgd = {"type": "SGD", "args": {"lr": 0.0, "groups": [{"match": "criterion.*", "lr": 1.0}]}}
    block = {"type": "SoftmaxLoss", "args": {"temperature": 0.1, "max_scale": 10.5}}
    changes = [f"optimizer={json.dumps(sgd)}", f"loss={json.dumps(block)}", "trainer.monitor=off"]
    trainer = make_trainer(make_config(*changes, kind="ocr"), tmp_path)
    compute_loss = trainer.compute_loss

    def ask_for_more(embeds, batch):
        loss, logits = compute_loss(embeds, batch)
        return loss - 5 * trainer.criterion.log_scale, logits  # a step goes far past the limit

    trainer.compute_loss = ask_for_more
    trainer.fit()
    assert trainer.progress.step == 2
    limit = torch.tensor(math.log(10.5))
    assert torch.equal(trainer.criterion.log_scale, limit)
    state = load_checkpoint(tmp_path / "model_last.pth")
    assert torch.equal(state["criterion"]["log_scale"], limit)
    assert read_lines(tmp_path)[-1]["temperature"] == pytest.approx(1 / 10.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [{"match": "tower.*", "lr_scale": 1e-3}]}, '"tower.*" matches no parameter'),
        (
            {"groups": [{"match": "*.bias", "weight_decay": 0.1}]},
            '"*.bias" matches only norms, biases and scales',
        ),
    ],
)
def test_groups_that_do_nothing_are_refused(change, message, make_config, tmp_path):
    block = {**OPTIMIZER, "args": {**OPTIMIZER["args"], **change}}
    config = make_config(*RECIPE, f"optimizer={json.dumps(block)}", kind="ocr")
    with pytest.raises(UserError) as caught:
        make_trainer(config, tmp_path)
    assert message in str(caught.value)


def test_two_rates_of_a_group_are_one_problem_of_the_file(make_config):
    groups = [{"match": "criterion.*", "lr": 0.1, "lr_scale": 0.1}]
    block = {**OPTIMIZER, "args": {"groups": groups}}
    with pytest.raises(UserError) as caught:
        make_config(*RECIPE, f"optimizer={json.dumps(block)}", kind="ocr")
    assert "optimizer.args.groups.0: has both lr and lr_scale" in str(caught.value)
