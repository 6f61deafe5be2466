"""``trainer.activation_checkpointing``: the same gradients from fewer kept tensors."""

import sys

import pytest
import torch

from model.packed_distilbert import PackedLayer
from model.text_encoder import get_text_encoder, load_text_model
from tests.conftest import ROOT
from tests.model.small_models import SavedBytes, build, make_batch, write_text_model
from tests.trainer.test_grad_cache import gradients, made, step
from utils.errors import UserError
from utils.launch import launch


@pytest.mark.parametrize("size", [None, 2])
def test_gradients_are_the_same_with_dropout(tmp_path, size):
    model, batch = made(tmp_path, dropout=0.3)
    torch.manual_seed(5)
    value = step(model, size, batch)
    expected, drawn = gradients(model), torch.get_rng_state()
    model.recompute_activations()
    for seed, same in ((5, True), (6, False)):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        assert (step(model, size, batch) == pytest.approx(value, abs=1e-12)) == same
        if same:
            found = gradients(model)
            assert found.keys() == expected.keys()
            for name, grad in found.items():
                torch.testing.assert_close(grad, expected[name], atol=1e-12, rtol=1e-12)
            assert torch.equal(torch.get_rng_state(), drawn)


def test_fewer_bytes_are_kept_in_every_encoder(tmp_path, monkeypatch):
    model = build(write_text_model(tmp_path), {"depth": 3}).train()
    batch, inputs = make_batch([["one", "two"], ["long"], ["longer"]]), []
    layers = [*model.video_model.blocks]
    layers += [m for m in model.modules() if isinstance(m, PackedLayer)]
    assert len(layers) == 3 + 1 + 1
    encoders = {
        "frames": lambda: model.video_model(batch.video),
        "videos": lambda: model.embed_videos(batch),
        "all": lambda: model(batch),
    }

    def kept() -> dict[str, int]:
        counted = {}
        for name, encode in encoders.items():
            inputs.clear()
            with monkeypatch.context() as patch, SavedBytes(model, patch) as saved:
                encode()
            counted[name] = saved.bytes + sum(inputs)
        return counted

    before = kept()
    model.recompute_activations()
    for layer in layers:  # what checkpointing keeps passes by the hooks
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].nbytes))
    after = kept()
    assert all(after[name] < 0.5 * before[name] for name in encoders), (before, after)


def test_every_block_of_the_vit_runs_once_more_in_the_backward_pass(tmp_path):
    model, runs = build(write_text_model(tmp_path), {"depth": 3}).train(), []
    model.recompute_activations()
    for block in model.video_model.blocks:
        block.register_forward_pre_hook(lambda part, _: runs.append(part))
    assert step(model, None, make_batch([["one", "two"], ["long"], ["longer"]])) > 0
    blocks = list(model.video_model.blocks)
    assert runs == [*blocks, *reversed(blocks)]


def test_evaluation_is_untouched(tmp_path):
    model, batch = build(write_text_model(tmp_path)), make_batch([["one"], ["two"]])
    with torch.no_grad():
        expected = model(batch)
        model.recompute_activations()
        for key, embeds in model(batch).items():
            assert torch.equal(embeds, expected[key]) and not embeds.requires_grad


def test_a_text_model_without_it_says_so(tmp_path):
    model = load_text_model(str(write_text_model(tmp_path, "bert")), True)
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"trainer\.activation_checkpointing: the text model Bert"):
        get_text_encoder(model).recompute_activations()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["recompute", "compile"])
@pytest.mark.parametrize("size", [0, 2])
def test_two_processes_compute_what_one_plain_one_does(tmp_path, monkeypatch, how, size):
    made(tmp_path)  # a text model without dropout
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = []
    for script, count, extra in (("trainer/distributed", 1, []), ("model/extra", 2, [how])):
        out = tmp_path / f"{count}.pt"
        arguments = [ROOT / f"tests/{script}_steps.py", tmp_path / "text", out, size, "{}", *extra]
        assert launch([sys.executable, *map(str, arguments)], count) == 0
        found.append(torch.load(out, weights_only=True))
    one, two = found
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-9)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, atol=1e-9, rtol=1e-9)
