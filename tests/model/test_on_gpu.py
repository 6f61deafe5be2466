"""Layers of base width on a GPU: each precision and way to train beside plain float32.

Sizes are those of the published run, but for two blocks and two layers a text model.
"""

import copy
import functools
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from base.batch import Batch
from benchmarks.inputs import (
    CLS,
    NUM_PIECES,
    SEP,
    Texts,
    load_base_config,
    load_texts,
    make_batch,
)
from model import grouped_attention, packed_distilbert, space_time_vit
from model.frozen_in_time import FrozenInTime
from model.grouped_attention import attend_in_groups, find_kernel_axes, is_kernel_usable
from model.loss import NormSoftmaxLoss
from tests.model.test_attention_kernels import attend_with_mask, differentiate, make_bounds
from tests.trainer.step_trainer import make_step_trainer
from trainer.build import build_model
from trainer.optim import adamw
from utils.precision import Precision

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
RES = 224
# How far losses may be from float32's, as a share: 8 bits of mantissa, or 11.
TOLERANCE = {"fp32": 1e-3, "tf32": 0.01, "bf16": 0.05, "fp16": 0.02}


@pytest.fixture(autouse=True)
def _unchanged_settings():
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """DistilBERT of base width, two layers, without dropout."""
    from transformers import DistilBertConfig

    folder = tmp_path_factory.mktemp("text")
    DistilBertConfig(
        vocab_size=NUM_PIECES, n_layers=2, dropout=0.0, attention_dropout=0.0
    ).save_pretrained(folder)
    return folder


@functools.cache
def build_once(text_model, frames: int) -> FrozenInTime:
    config = load_base_config(
        f"arch.args.text_params.model={text_model}",
        "arch.args.video_params.depth=2",
        *(f"{part}.args.video_params.num_frames={frames}" for part in ("arch", "data_loader")),
    )
    model = build_model(config, torch.device("cpu")).train()
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    return model


def make_model(text_model, frames: int = 4) -> FrozenInTime:
    """A model of the same weights each time, ready for training."""
    return copy.deepcopy(build_once(text_model, frames)).to(CUDA)


@functools.cache
def make_videos(size: int = 64, num_words: int = 50, frames: int = 4) -> Batch:
    """A batch on the GPU; of several videos, the last shows no word."""
    batch = make_batch(load_texts_once(), size, num_words, frames, RES, CUDA)
    if num_words and size > 1:
        words = batch.words  # the blank word becomes the first of all, for it is the shortest
        blank = F.pad(words.input_ids.new_tensor([[CLS, SEP]]), (0, words.input_ids.shape[1] - 2))
        words.input_ids = torch.cat((blank, words.input_ids))
        words.groups = ((2, 1), *words.groups)
        words.index = words.index + 1
        words.index[-1] = 0
        words.mask[-1, 1:] = False
    return batch


@functools.cache
def load_texts_once() -> Texts:
    return load_texts(None)


def make_trainer(model, precision: str, chunk_size: int | None = None):
    weights = [pair for pair in model.named_parameters() if pair[1].requires_grad]
    optimizer = adamw(iter(weights), lr=3e-5)
    return make_step_trainer(
        model,
        NormSoftmaxLoss(),
        optimizer=optimizer,
        precision=precision,
        device=CUDA,
        chunk_size=chunk_size,
    )


def train_and_evaluate(model, precision: str, batches, chunk_size: int | None = None):
    """The losses of the batches in turn, and the embeddings of the first one afterwards."""
    trainer = make_trainer(model, precision, chunk_size)
    losses = []
    for batch in batches:
        while True:
            scale = trainer.precision.scaler.get_scale()
            loss = trainer.train_step(batch)[0].item()
            if trainer.precision.scaler.get_scale() >= scale:
                break  # fp16 begins with a scale that is too large, and leaves that step out
        losses.append(loss)
    model.eval()
    with torch.no_grad(), trainer.precision.autocast():
        embeds = model(batches[0])
    model.train()
    assert all(weight.isfinite().all() for weight in model.parameters())
    return losses, {name: value.float() for name, value in embeds.items()}


def check(found, expected, precision: str) -> None:
    (losses, embeds), (exact_losses, exact) = found, expected
    assert all(map(math.isfinite, losses))
    assert losses == pytest.approx(exact_losses, abs=TOLERANCE[precision] * exact_losses[0])
    for name, value in exact.items():
        cosine = torch.cosine_similarity(embeds[name], value).min().item()
        assert cosine > 0.99, (name, cosine)


def make_epoch():
    """Two batches of 64 and a last one of a single video."""
    return [make_videos(), make_videos(), make_videos(size=1)]


@pytest.fixture(scope="module")
def exact(text_model):
    """Losses and embeddings by the plain formula in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_time_vit, "find_kernel_axes", lambda x: ())
        patch.setattr(packed_distilbert, "is_kernel_usable", lambda *kind: False)
        return train_and_evaluate(make_model(text_model), "fp32", make_epoch())


# Precision, compilation, activation checkpointing, chunk size. Compilation takes most of the time.
CASES = list(itertools.product(TOLERANCE, [False], [False, True], [None, 32]))
CASES += [
    ("bf16", True, True, 32),
    ("fp16", True, False, None),
    ("tf32", True, True, None),
    ("fp32", True, False, 32),
]


@pytest.mark.parametrize(("precision", "compiles", "recomputes", "chunk_size"), CASES)
def test_an_epoch_follows_plain_float32(
    text_model, exact, precision, compiles, recomputes, chunk_size
):
    model = make_model(text_model)
    if recomputes:
        model.recompute_activations()
    if compiles:
        model.compile_encoders()
    check(train_and_evaluate(model, precision, make_epoch(), chunk_size), exact, precision)


@pytest.mark.parametrize(
    ("size", "num_words", "frames"),
    [(16, 50, 1), (16, 50, 8), (8, 50, 16), (256, 50, 4), (32, 200, 4), (64, 0, 4)],
)
def test_other_sizes_follow_plain_float32(text_model, monkeypatch, size, num_words, frames):
    batches = [make_videos(size, num_words, frames)]
    found = train_and_evaluate(make_model(text_model, frames), "bf16", batches)
    with monkeypatch.context() as patch:
        patch.setattr(space_time_vit, "find_kernel_axes", lambda x: ())
        patch.setattr(packed_distilbert, "is_kernel_usable", lambda *kind: False)
        model = make_model(text_model, frames)
        expected = train_and_evaluate(model, "fp32", batches, chunk_size=32)
    check(found, expected, "bf16")


def test_the_formula_takes_more_groups_than_fused_attention(text_model, monkeypatch):
    """Where Triton does not work: 64 clips have 150,528 groups over time, 3,072 over space."""
    monkeypatch.setattr(grouped_attention, "FEW_KEYS", 0)
    monkeypatch.setattr(space_time_vit, "find_kernel_axes", lambda x: ())
    monkeypatch.setattr(packed_distilbert, "is_kernel_usable", lambda *kind: False)
    losses, _ = train_and_evaluate(make_model(text_model), "bf16", [make_videos()])
    assert all(map(math.isfinite, losses))


def test_the_kernels_are_used():
    assert is_kernel_usable(CUDA, torch.bfloat16) and not is_kernel_usable(CUDA, torch.float64)
    x = torch.zeros(1, device=CUDA)
    torch.set_float32_matmul_precision("highest")
    assert find_kernel_axes(x) == ("time",)
    torch.set_float32_matmul_precision("high")
    assert find_kernel_axes(x) == find_kernel_axes(x.bfloat16()) == ("time", "space")
    assert find_kernel_axes(x.double()) == ()


def measure_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("over_time", "dtype", "matmul", "tolerance"),
    [
        (True, torch.float32, "highest", 1e-5),
        # As find_kernel_axes asks for it; tf32 has 10 bits of mantissa: 2e-3 were measured for all.
        (False, torch.float32, "high", 5e-3),
        *itertools.product([True, False], [torch.bfloat16, torch.float16], ["highest"], [5e-3]),
    ],
)
@pytest.mark.parametrize("frames", [1, 4, 16])
def test_kernels_equal_the_formula_at_base_sizes(over_time, dtype, matmul, tolerance, frames):
    torch.set_float32_matmul_precision(matmul)
    generator = torch.Generator(CUDA).manual_seed(0)
    clips = 1 if frames == 16 else 2
    shape = clips, 1 + frames * 196, 3, 12, 64
    qkv = torch.randn(shape, device=CUDA, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(qkv[:, :, 0].shape, device=CUDA, generator=generator).to(dtype)
    out = attend_in_groups(qkv, frames, over_time)[0]
    (found,) = torch.autograd.grad(out, qkv, grad)
    for clip in range(clips):  # scores in float64 are large
        exact = qkv.detach()[clip : clip + 1].double().requires_grad_()
        expected = attend_with_mask(exact, frames, over_time)
        (its_grad,) = torch.autograd.grad(expected, exact, grad[clip : clip + 1].double())
        # CLS goes another way; it is a sum over many tokens, so that more is cancelled.
        for tokens, most in ((slice(0, 1), 2 * tolerance), (slice(1, None), tolerance)):
            assert measure_error(out[clip, tokens], expected.detach()[0, tokens]) <= most
            for part in range(3):
                error = measure_error(found[clip, tokens, part], its_grad[0, tokens, part])
                assert error <= most, (tokens, part, error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_texts_equal_the_formula_at_base_sizes(dtype):
    from model import attention_kernels

    torch.set_float32_matmul_precision("highest")
    lengths = torch.randint(1, 12, (150,), generator=torch.Generator().manual_seed(0)).tolist()
    bounds = make_bounds([*lengths, 90, 512]).to(CUDA)
    generator = torch.Generator(CUDA).manual_seed(1)
    shape = 4, bounds.shape[1], 12, 64
    parts = torch.randn(shape, device=CUDA, generator=generator).to(dtype).unbind()
    seed = torch.zeros(1, dtype=torch.int64, device=CUDA)
    q, k, v, grad = parts
    out, lse = attention_kernels.attend_in_texts(q, k, v, bounds, 0.0, seed)
    found = attention_kernels.attend_in_texts_backward(grad, q, k, v, out, lse, bounds, 0.0, seed)
    for one, other in zip((out, *found), differentiate(*parts, bounds), strict=True):
        assert measure_error(one, other) <= (1e-5 if dtype == torch.float32 else 5e-3)


def test_dropout_in_texts_is_drawn_anew_by_the_backward_pass():
    """The output is linear in the values: its gradient tells what the forward pass dropped."""
    from model import attention_kernels

    torch.set_float32_matmul_precision("highest")
    bounds = make_bounds([64, 3, 7, 120]).to(CUDA)
    shape = 4, bounds.shape[1], 12, 64
    q, k, v, grad = torch.randn(shape, device=CUDA).unbind()
    seed = torch.ones(1, dtype=torch.int64, device=CUDA)
    out, lse = attention_kernels.attend_in_texts(q, k, v, bounds, 0.1, seed)
    saved = grad, q, k, v, out, lse, bounds, 0.1, seed
    grad_v = attention_kernels.attend_in_texts_backward(*saved)[2]
    terms = grad.double() * out
    assert (terms.sum() - (grad_v.double() * v).sum()).abs() <= 1e-3 * terms.norm()
    plain = attention_kernels.attend_in_texts(q, k, v, bounds, 0.0, seed)[0]
    assert measure_error(out, plain.double()) > 0.05


@pytest.mark.parametrize("precision", ["bf16", "tf32", "fp32"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_step_does_not_wait_for_the_gpu(text_model, precision, recomputes):
    """In fp16 torch's scaler looks at the gradients."""
    model, batch = make_model(text_model), make_videos(16)
    if recomputes:
        model.recompute_activations()
    trainer = make_trainer(model, precision)
    assert not trainer.looks_at_every_loss
    trainer.train_step(batch)  # compiles the kernels, makes the optimizer's state
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers = trainer.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert numbers.isfinite().all()


def test_two_runs_of_a_step_are_equal_to_the_bit(text_model):
    runs = []
    for _ in range(2):
        model = make_model(text_model)
        loss = make_trainer(model, "bf16").train_step(make_videos())[0]
        grads = {f"gradient of {n}": w.grad for n, w in model.named_parameters()}
        runs.append({"loss": loss} | model.state_dict() | grads)
    one, other = ({n: v for n, v in run.items() if v is not None} for run in runs)
    assert one.keys() == other.keys() and len(one) > 120
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_padding_in_queries_has_no_gradients(text_model, precision):
    model, batch = make_model(text_model), copy.deepcopy(make_videos(8))
    lengths = batch.query.attention_mask.sum(1)
    assert lengths.min() < lengths.max()
    runs = []
    for filler in (0, 77):
        batch.query.input_ids[batch.query.attention_mask == 0] = filler
        model.zero_grad(set_to_none=True)
        with Precision(precision, CUDA).autocast():
            text = model.embed_queries(batch.query)
        text.float().square().sum().backward()
        grads = [w.grad for n, w in model.text_model.named_parameters() if w.grad is not None]
        runs.append([text.detach(), *grads])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
