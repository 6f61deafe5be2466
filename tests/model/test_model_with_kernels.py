"""The whole model with the attention kernels, on the CPU by Triton's interpreter."""

import json

import pytest
import torch
from torch._dynamo.utils import counters

from base.criterion import cosine_similarity
from model import space_time_vit
from model.loss import NormSoftmaxLoss
from tests.model.kernels_on_cpu import load_interpreted_kernels, use_kernels_on_cpu
from tests.model.small_models import build, make_batch, write_text_model
from tests.trainer.step_trainer import make_step_trainer
from tests.trainer.test_grad_cache import gradients, step
from trainer.optim import adamw

TEXTS = [["one", "two"], ["longer"]]
SMALL = {"num_heads": 2, "num_frames": 2}
# Rows of a tile beyond the last token are computed, too, and not stored.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
CLOSE = 2e-5


@pytest.fixture
def use_kernels(monkeypatch):
    """Return a function: from now on models compute attention by the kernels, over both axes."""

    def use() -> None:
        use_kernels_on_cpu(monkeypatch, load_interpreted_kernels())
        monkeypatch.setattr(space_time_vit, "find_kernel_axes", lambda x: ("time", "space"))

    return use


def make_model(tmp_path, dropout: float = 0.0):
    """A model, and videos with queries of several lengths."""
    folder = write_text_model(tmp_path / "text")
    config = json.loads((folder / "config.json").read_text())
    config |= {"dropout": dropout, "attention_dropout": dropout, "n_layers": 2, "n_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    batch = make_batch(TEXTS, frames=2)
    batch.query.attention_mask[1, 3:] = 0
    return build(folder, SMALL).train(), batch


def compute(model, batch) -> dict[str, torch.Tensor]:
    """The embeddings, and the gradients of all weights."""
    model.zero_grad(set_to_none=True)
    embeds = model(batch)
    sum(part.pow(3).sum() for part in embeds.values()).backward()
    return {name: part.detach() for name, part in embeds.items()} | gradients(model)


def check(found: dict, expected: dict, tolerance: float) -> None:
    """Compare each tensor against its own largest number."""
    assert found.keys() == expected.keys() and len(found) > 60
    for name, value in expected.items():
        error = (found[name] - value).abs().max() / value.abs().max().clamp(min=1)
        assert error <= tolerance, (name, error)


def test_embeddings_and_gradients_are_those_of_the_formula(tmp_path, use_kernels):
    model, batch = make_model(tmp_path)
    expected = compute(model, batch)
    use_kernels()
    check(compute(model, batch), expected, CLOSE)
    torch._dynamo.reset()
    counters.clear()
    model.compile_encoders("aot_eager")
    check(compute(model, batch), expected, CLOSE)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    torch._dynamo.reset()


def test_padding_in_queries_changes_nothing(tmp_path, use_kernels):
    model, batch = make_model(tmp_path)
    use_kernels()
    expected = compute(model, batch)
    batch.query.input_ids[batch.query.attention_mask == 0] = 49
    check(compute(model, batch), expected, 0.0)


@pytest.mark.parametrize("size", [None, 1])
def test_recomputed_activations_have_the_same_gradients_with_dropout(tmp_path, use_kernels, size):
    model, batch = make_model(tmp_path, dropout=0.3)
    use_kernels()
    torch.manual_seed(5)
    value, expected = step(model, size, batch), gradients(model)
    model.recompute_activations()
    for seed, same in ((5, True), (6, False)):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        assert (step(model, size, batch) == pytest.approx(value, abs=1e-6)) == same
        if same:
            check(gradients(model), expected, 1e-6)


def test_chunks_draw_the_dropout_of_their_first_pass(tmp_path, use_kernels):
    model, batch = make_model(tmp_path, dropout=0.3)
    use_kernels()
    torch.manual_seed(5)
    embeds = [model(batch.rows(row, row + 1)) for row in (0, 1)]
    text, video = (torch.cat([e[key] for e in embeds]) for key in ("text", model.video_key))
    loss = NormSoftmaxLoss().compute_loss(cosine_similarity(text, video), batch.query.hash_texts())
    loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    assert step(model, 1, batch) == pytest.approx(loss.item(), abs=1e-6)
    check(gradients(model), expected, CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_gradients_follow_those_of_the_formula(tmp_path, use_kernels, dtype):
    model, batch = make_model(tmp_path)
    exact = compute(model, batch)
    with torch.autocast("cpu", dtype):
        plain = compute(model, batch)
        use_kernels()
        found = compute(model, batch)

    def measure_error(values: dict) -> float:
        squares = sum((values[n].float() - exact[n]).square().sum() for n in exact)
        return (squares / sum(value.square().sum() for value in exact.values())).sqrt().item()

    # The formula rounds as often; the interpreter cuts bits of bfloat16 off instead.
    assert measure_error(found) < max(2 * measure_error(plain), 0.01), measure_error(plain)


def train_and_evaluate(folder, precision: str, recomputes: bool, size: int | None, compiles: bool):
    """The losses of two batches and a last one of one video, and embeddings afterwards."""
    torch.manual_seed(0)
    model, _ = make_model(folder)
    if recomputes:
        model.recompute_activations()
    if compiles:
        model.compile_encoders()
    weights = [pair for pair in model.named_parameters() if pair[1].requires_grad]
    trainer = make_step_trainer(
        model,
        NormSoftmaxLoss(),
        optimizer=adamw(iter(weights), lr=1e-4),
        precision=precision,
        chunk_size=size,
    )
    losses = []
    for texts in ([*TEXTS, ["one"]], [*TEXTS, ["two"]], [["one"]]):
        while True:
            scale = trainer.precision.scaler.get_scale()
            loss = trainer.train_step(make_batch(texts, frames=2))[0].item()
            if trainer.precision.scaler.get_scale() >= scale:
                break  # fp16 begins with a scale that is too large, and leaves that step out
        losses.append(loss)
    model.eval()
    with torch.no_grad(), trainer.precision.autocast():
        return losses, model(make_batch(TEXTS, frames=2))["fusion"].float()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "recomputes", "size"),
    [("bf16", True, 2), ("fp16", False, None), ("tf32", True, None), ("fp32", False, 2)],
)
def test_an_epoch_compiled_by_inductor_follows_the_uncompiled_one(
    use_kernels, tmp_path, precision, recomputes, size
):
    use_kernels()
    torch._dynamo.reset()
    (losses, embeds), (expected, exact) = (
        train_and_evaluate(tmp_path / str(compiles), precision, recomputes, size, compiles)
        for compiles in (True, False)
    )
    torch._dynamo.reset()
    tolerance = 0.02 if precision in ("bf16", "fp16") else 1e-4
    assert losses == pytest.approx(expected, abs=tolerance * expected[0])
    assert torch.cosine_similarity(embeds, exact).min() > 1 - tolerance / 10
