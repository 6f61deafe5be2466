"""Compiled encoders: the same numbers, the same names, few compilations."""

import json
import random

import pytest
import torch
from torch._dynamo.utils import counters

from base.base_model import ModelInput, RetrievalModel
from base.criterion import cosine_similarity
from model.frozen_in_time import FrozenInTime
from model.loss import NormSoftmaxLoss
from tests.model.small_models import WORDS, build, make_batch, write_text_model
from tests.trainer.step_trainer import make_step_trainer
from trainer.build import build_trainer
from utils.errors import UserError

TEXTS = [["one", "two"], ["long"], ["two"], ["longer", "one", "long"], ["one"]]
CPU = torch.device("cpu")
ONE_LAYER = {"depth": 1}
METHODS = {"compile": "compile_encoders", "activation_checkpointing": "recompute_activations"}
# Captured and differentiated as for inductor, then run as it is: seconds instead of a minute.
QUICK = "aot_eager"
slow = pytest.mark.slow
# Backend, kind of text model, chunk size.
CASES = [(QUICK, "distilbert", None)]
CASES += [
    pytest.param(*case, marks=slow)
    for case in [(QUICK, "bert", 2), ("inductor", "distilbert", 2), ("inductor", "bert", None)]
]


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def step(model, batch, size: int | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of a training step."""
    value = make_step_trainer(model, NormSoftmaxLoss(), chunk_size=size).train_step(batch)[0]
    return value.item(), {
        n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None
    }


@pytest.mark.parametrize(("backend", "kind", "size"), CASES)
def test_numbers_follow_those_without_compilation(tmp_path, backend, kind, size):
    folder, batch = write_text_model(tmp_path, kind), make_batch(TEXTS)
    plain, compiled = build(folder, ONE_LAYER), build(folder, ONE_LAYER)
    names = list(compiled.state_dict())
    compiled.compile_encoders(backend)
    expected, found = plain(batch), compiled(batch)  # with gradients: as in the step, so one graph
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
    (value, grads), (own, own_grads) = step(plain, batch, size), step(compiled, batch, size)
    assert own == pytest.approx(value, abs=1e-5)
    assert own_grads.keys() == grads.keys()
    for name in grads:
        torch.testing.assert_close(own_grads[name], grads[name], rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    # Checkpoints go from one to the other.
    assert list(compiled.state_dict()) == names
    plain.load_state_dict(compiled.state_dict())
    compiled.load_state_dict(plain.state_dict())


def random_batches(sizes: list[int]):
    draw = random.Random(0)
    for size in sizes:
        texts = [draw.choices(list(WORDS), k=draw.randint(1, 9)) for _ in range(size)]
        batch = make_batch(texts)
        length = draw.randint(3, 40)
        ids = torch.randint(5, 50, (size, length), generator=torch.Generator().manual_seed(length))
        batch.query.input_ids, batch.query.attention_mask = ids, torch.ones_like(ids)
        yield batch


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_all_blocks_but_the_last_are_one_graph(tmp_path):
    counts = {}
    for depth in (2, 5):
        torch._dynamo.reset()
        counters.clear()
        model, backend = build(write_text_model(tmp_path), {"depth": depth}), Counting()
        model.compile_encoders(backend)
        model(make_batch(TEXTS))
        counts[depth] = backend.graphs, counters["stats"]["unique_graphs"]
        calls = counters["stats"]["calls_captured"]
        assert calls > 20 and not counters["graph_break"]
    assert counts == {2: (2, 2), 5: (2, 2)}


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_an_epoch_and_an_evaluation_compile_few_graphs(tmp_path):
    """Batches that differ in their words, a last one that is smaller, then the test set."""
    model, backend = build(write_text_model(tmp_path), {"depth": 3}), Counting()
    model.compile_encoders(backend)
    seen = []
    for _ in range(2):
        model.train()
        for batch in random_batches([4, 4, 4, 3]):
            step(model, batch)
        model.eval()
        with torch.no_grad():
            for batch in random_batches([5, 5, 2]):
                model(batch)
        seen.append(backend.graphs)
    assert 4 <= seen[0] <= 12 and seen[1] == seen[0], seen
    assert counters["stats"]["unique_graphs"] == backend.graphs and not counters["graph_break"]


@slow
@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_few_graphs_are_compiled_however_the_batches_differ(tmp_path):
    model, backend = build(write_text_model(tmp_path)), Counting()
    model.compile_encoders(backend)
    seen = []
    for number, batch in enumerate(random_batches([4, 3, 4, 7] * 4)):
        model.train()
        step(model, batch, 3 if number % 2 else None)
        model.eval()
        with torch.no_grad():
            model(batch)
        seen.append(backend.graphs)
    # Two kinds of blocks: with and without gradient (the first pass of chunks, evaluation), each
    # once more where the number of clips changes, and for a single one. Torch's own limit is 8,
    # beyond which what is new is not compiled.
    assert 4 <= seen[-1] <= 12, seen
    assert seen[9] == seen[-1]
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", [QUICK, "inductor"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_chunks_draw_the_dropout_of_their_first_pass(tmp_path, backend, recomputes):
    folder = write_text_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"dropout": 0.3, "attention_dropout": 0.3}
    (folder / "config.json").write_text(json.dumps(config))
    model, batch = build(folder, ONE_LAYER).train(), make_batch(TEXTS[:4])
    if recomputes:
        model.recompute_activations()
    model.compile_encoders(backend)
    chunks = [batch.rows(0, 2), batch.rows(2, 4)]
    torch.manual_seed(5)
    embeds = [model(chunk) for chunk in chunks]
    text, video = (torch.cat([e[key] for e in embeds]) for key in ("text", model.video_key))
    loss = NormSoftmaxLoss().compute_loss(cosine_similarity(text, video))
    loss.backward()
    expected = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    torch.manual_seed(5)
    value, grads = step(model, batch, 2)
    assert value == pytest.approx(loss.item(), abs=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-5)
    torch.manual_seed(6)
    assert abs(step(model, batch, 2)[0] - value) > 1e-3  # there is dropout


@pytest.mark.parametrize("key", ["compile", "activation_checkpointing"])
@pytest.mark.parametrize("wanted", [False, True])
def test_training_asks_the_model_for_what_is_configured(
    make_config, monkeypatch, tmp_path, key, wanted
):
    asked = []
    for name, method in METHODS.items():
        monkeypatch.setattr(FrozenInTime, method, lambda _, name=name: asked.append(name))
    config = make_config(f"trainer.{key}={str(wanted).lower()}")
    build_trainer(config, tmp_path, CPU)
    assert asked == [key] * wanted


def test_another_architecture_says_that_it_has_neither():
    class Plain(RetrievalModel):
        @classmethod
        def describe_input(cls, **arguments):
            return ModelInput(("vision",), "x")

        def forward(self, batch):
            return {}

    with pytest.raises(UserError, match=r"trainer\.compile: Plain can't"):
        Plain().compile_encoders()
    with pytest.raises(UserError, match=r"trainer\.activation_checkpointing: Plain has none"):
        Plain().recompute_activations()
