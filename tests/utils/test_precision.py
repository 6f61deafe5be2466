"""Training in each precision follows float32."""

import json
from typing import get_args

import pytest
import torch

from base import config
from model.loss import NormSoftmaxLoss
from tests.model.small_models import build, make_batch, write_text_model
from tests.trainer.step_trainer import make_step_trainer
from trainer.optim import adamw
from utils.errors import UserError
from utils.precision import Precision, PrecisionName

TEXTS = [["one", "two"], ["long"], ["two"], ["longer", "one", "long"]]
# How far the losses of 5 steps may be from float32's: bf16 has 8 bits of mantissa, fp16 11.
TOLERANCE = {"fp32": 0.0, "tf32": 0.01, "bf16": 0.1, "fp16": 0.02}
# float32 in chunks, recomputed and compiled adds its numbers in another order.
COMBINED = 1e-4


def read_tf32() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _unchanged_settings():
    before = read_tf32()
    yield
    assert read_tf32() == before


def losses(text_model, name: str, device: torch.device, backend: str = "") -> list[float]:
    """The losses of 5 steps; with a backend in chunks, recomputed and compiled."""
    model = build(text_model).to(device)
    if backend:
        model.train().recompute_activations()
        model.compile_encoders(backend)
    trainer = make_step_trainer(
        model,
        NormSoftmaxLoss(),
        optimizer=adamw(model.named_parameters(), lr=1e-3),
        precision=name,
        device=device,
        chunk_size=3 if backend else None,
    )
    scaler, values = trainer.precision.scaler, []
    while len(values) < 5:
        scale = scaler.get_scale()
        values.append(trainer.train_step(make_batch(TEXTS).to(device))[0].item())
        if scaler.get_scale() < scale:  # fp16 begins with a scale that is too large
            values.pop()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    return values


def check(text_model, name: str, device: torch.device, backend: str = "") -> None:
    expected = losses(text_model, "fp32", device)
    assert expected[-1] < 0.9 * expected[0]  # it learns, so that standing still would be seen
    found = losses(text_model, name, device, backend)
    tolerance = max(TOLERANCE[name], COMBINED if backend else 0.0)
    assert found == pytest.approx(expected, abs=tolerance * expected[0])
    if name in ("bf16", "fp16"):
        assert found != expected


@pytest.mark.parametrize("name", list(TOLERANCE))
def test_losses_follow_float32(tmp_path, name):
    check(write_text_model(tmp_path / "text"), name, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(TOLERANCE))
def test_losses_follow_float32_on_a_gpu(tmp_path, name):
    check(write_text_model(tmp_path / "text"), name, torch.device("cuda"))


def without_dropout(folder):
    text_model = write_text_model(folder)
    config = json.loads((text_model / "config.json").read_text())
    config |= {"dropout": 0.0, "attention_dropout": 0.0}
    (text_model / "config.json").write_text(json.dumps(config))
    return text_model


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("bf16", "eager"), *((name, "aot_eager") for name in TOLERANCE)]
    ],
)
def test_with_everything_on_losses_follow_plain_float32(tmp_path, name, backend):
    torch._dynamo.reset()
    check(without_dropout(tmp_path / "text"), name, torch.device("cpu"), backend)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(TOLERANCE))
def test_with_everything_on_losses_follow_plain_float32_on_a_gpu(tmp_path, name):
    torch._dynamo.reset()
    check(without_dropout(tmp_path / "text"), name, torch.device("cuda"), "inductor")


def test_the_similarity_and_the_loss_are_float32(tmp_path):
    seen = []

    class Spy(NormSoftmaxLoss):
        def compute_loss(self, similarity, caption_ids):
            seen.append(similarity.dtype)
            return super().compute_loss(similarity, caption_ids)

    model = build(write_text_model(tmp_path / "text"))
    for name in ("bf16", "fp16"):
        make_step_trainer(model, Spy(), precision=name).train_step(make_batch(TEXTS))
    assert seen == [torch.float32] * 2


def test_the_settings_of_the_process_hold_for_a_block_and_are_set_back():
    cpu, before = torch.device("cpu"), read_tf32()
    inner, outer = Precision("fp32", cpu), Precision("tf32", cpu)
    assert read_tf32() == before
    with pytest.raises(KeyError), outer.set_tf32():
        assert read_tf32() == ("high", True)
        with inner.set_tf32(), inner.autocast():
            assert read_tf32() == ("highest", False)
        assert read_tf32() == ("high", True)
        raise KeyError
    assert read_tf32() == before


def test_a_name_that_is_no_precision():
    with pytest.raises(UserError, match='no precision "half"; choose one of fp32, tf32, bf16, fp1'):
        Precision("half", torch.device("cpu"))
    assert get_args(PrecisionName) == get_args(config.PrecisionName)


def test_clipping_and_the_norm():
    weight = torch.nn.Parameter(torch.zeros(4))
    precision = Precision("fp32", torch.device("cpu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for limit, length in ((None, 6.0), (10.0, 6.0), (3.0, 3.0)):
        weight.data.zero_()
        weight.grad = torch.full((4,), 3.0)
        assert precision.step(optimizer, limit).item() == pytest.approx(6.0)
        assert weight.norm().item() == pytest.approx(length, rel=1e-5)


def test_an_overflow_in_fp16_leaves_the_step_out_and_lowers_the_scale():
    weight = torch.nn.Parameter(torch.ones(2))
    precision = Precision("fp16", torch.device("cpu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scale = precision.scaler.get_scale()
    precision.backward((weight * 1e38).sum())
    precision.step(optimizer, None)
    assert weight.tolist() == [1.0, 1.0] and precision.scaler.get_scale() < scale
    optimizer.zero_grad()
    precision.backward(weight.sum())
    precision.step(optimizer, None)
    assert weight.tolist() == [0.0, 0.0]
