"""What is trained of a tower: freezing, low-rank adapters, and their merging."""

import pytest
import torch

import model.registrations  # noqa: F401
from model.adapters import LoraParams, has_adapters, merge_adapter_weights
from model.dual_encoder import DualEncoder
from model.loss import NormSoftmaxLoss
from tests.model.test_dual_encoder import FAMILIES, LORA, build, make_batch, score, towers
from tests.trainer.step_trainer import make_step_trainer
from utils.checkpoint.files import CheckpointError
from utils.checkpoint.weights import fit_weights
from utils.errors import UserError

__all__ = ["towers"]  # a fixture


def train_two_steps(model: DualEncoder, tower: str) -> set[str]:
    """Train, with weight decay; returns the names of the weights that have changed."""
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    trainer = make_step_trainer(model, NormSoftmaxLoss(), optimizer=optimizer)
    model.train()
    for _ in range(2):
        trainer.train_step(make_batch(tower))
    model.eval()
    return {name for name, weight in model.named_parameters() if not weight.equal(before[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_tower_stays_as_it_is(towers, family):
    model = build(towers[family], freeze="all")
    changed = train_two_steps(model, towers[family])
    names = {name for name, _ in model.named_parameters()}
    assert changed == {name for name in names if not name.startswith("tower.")}
    assert model.frozen_word_encoder


def test_patterns_freeze_what_they_match(towers):
    model = build(towers["clip"], freeze=("text_model.*", "*.embeddings.*"))
    changed = train_two_steps(model, towers["clip"])
    names = {name for name, _ in model.named_parameters()}
    frozen = {n for n in names if n.startswith("tower.model.text_model") or ".embeddings." in n}
    # The key's bias moves every score of a query alike, so its gradient is 0 but for rounding.
    keys = {n for n in names if n.endswith("k_proj.bias")}
    assert changed | keys == (names - frozen) | keys and frozen
    assert not changed & frozen
    assert not model.frozen_word_encoder  # its projection is trained
    with pytest.raises(UserError, match=r'arch\.args\.freeze: "vision\.\*" matches no weight'):
        build(towers["clip"], freeze="vision.*")


@pytest.mark.parametrize("family", LORA)
def test_adapters_start_silent_and_train_alone(towers, family):
    tower, batch = towers[family], make_batch(towers[family])
    plain = build(tower, modalities=("vision",))
    model = build(tower, modalities=("vision",), lora=LORA[family], freeze="all")
    torch.testing.assert_close(score(model, batch), score(plain, batch), rtol=0, atol=1e-6)
    changed = train_two_steps(model, tower)
    adapters = {n for n, _ in model.named_parameters() if n.endswith((".up", ".down"))}
    assert changed == adapters and adapters
    adapted = score(model, batch)
    assert (adapted - score(plain, batch)).abs().max() > 1e-4

    weights = merge_adapter_weights(model.state_dict())
    assert list(sorted(weights)) == sorted(plain.state_dict())
    plain.load_state_dict(weights)
    torch.testing.assert_close(score(plain, batch), adapted, rtol=0, atol=1e-5)
    model.merge_adapters()
    assert not has_adapters(model.state_dict())
    torch.testing.assert_close(score(model, batch), adapted, rtol=0, atol=1e-5)


def test_adapters_without_freezing_leave_their_weights_only(towers):
    model = build(towers["clip"], modalities=("vision",), lora=LORA["clip"])
    changed = train_two_steps(model, towers["clip"])
    originals = {n for n, _ in model.named_parameters() if n.endswith(".original")}
    assert originals and not changed & originals
    assert any("v_proj.weight" in name for name in changed)


def test_checkpoints_with_and_without_adapters_fit_each_other(towers):
    tower, batch = towers["clip"], make_batch(towers["clip"])
    adapted = build(tower, lora=LORA["clip"])
    train_two_steps(adapted, tower)
    plain = build(tower)
    weights, notes = plain.adapt_weights(adapted.state_dict())
    fit_weights(plain, weights, "a.pth")
    assert "merged" in notes[0]
    torch.testing.assert_close(score(plain, batch), score(adapted, batch), rtol=0, atol=1e-5)
    fresh = build(tower, lora=LORA["clip"])
    weights, notes = fresh.adapt_weights(plain.state_dict())
    fit_weights(fresh, weights, "b.pth")
    assert "fresh" in notes[0]
    torch.testing.assert_close(score(fresh, batch), score(plain, batch), rtol=0, atol=1e-5)


def test_a_pattern_of_no_matrix_is_refused(towers):
    with pytest.raises(UserError, match=r'arch\.args\.lora\.match: "\*bias" matches no matrix'):
        build(towers["clip"], lora=LoraParams(match=("*bias",)))


@pytest.mark.parametrize("other", [f for f in FAMILIES if f != "clip"])
def test_a_checkpoint_of_another_family_is_refused(towers, other):
    model, weights = build(towers["clip"]), build(towers[other]).state_dict()
    if other == "metaclip_2":  # the same layers: its weights do fit
        fit_weights(model, weights, "other.pth")
        return
    with pytest.raises(CheckpointError, match=r"other\.pth: its weights do not fit the model"):
        fit_weights(model, weights, "other.pth")
