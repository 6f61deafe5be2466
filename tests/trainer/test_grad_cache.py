"""The gradient cache: chunks give the gradients of the whole batch."""

import json

import pytest
import torch

from base.criterion import cosine_similarity
from model.loss import NormSoftmaxLoss, SigmoidLoss, SoftmaxLoss
from tests.model.small_models import build, make_batch, write_text_model
from tests.trainer.step_trainer import make_step_trainer

TEXTS = [["one", "two"], ["long"], ["two"], ["longer", "one", "long"], ["one"], ["two", "longer"]]


def made(tmp_path, dropout: float = 0.0):
    folder = write_text_model(tmp_path / "text")
    config = json.loads((folder / "config.json").read_text())
    config |= {"dropout": dropout, "attention_dropout": dropout}
    (folder / "config.json").write_text(json.dumps(config))
    model = build(folder).double().train()
    batch = make_batch(TEXTS)
    batch.video = batch.video.double()
    batch.words.tracks = batch.words.tracks.double()
    return model, batch


def gradients(model) -> dict[str, torch.Tensor]:
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def step(model, size: int | None, batch, criterion=None, **settings) -> float:
    parts = model, criterion or NormSoftmaxLoss()
    trainer = make_step_trainer(*parts, chunk_size=size, **settings)
    return trainer.train_step(batch)[0].item()


@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_chunks_give_the_whole_batchs_gradients(tmp_path, size):
    model, batch = made(tmp_path)
    value = step(model, None, batch)
    whole = gradients(model)
    model.zero_grad(set_to_none=True)
    assert step(model, size, batch) == pytest.approx(value, abs=1e-12)
    chunked = gradients(model)
    assert chunked.keys() == whole.keys() and len(whole) > 30
    for name, grad in whole.items():
        torch.testing.assert_close(chunked[name], grad, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("positives", ["diagonal", "captions"])
@pytest.mark.parametrize("loss", [SoftmaxLoss, SigmoidLoss])
@pytest.mark.parametrize("settings", [{}, {"unimodal_losses": {"vision": 0.5, "ocr": 2.0}}])
def test_chunks_give_what_a_loss_learns_the_whole_batchs_gradients(
    tmp_path, loss, positives, settings
):
    model, batch = made(tmp_path)
    batch.query.input_ids[5] = batch.query.input_ids[1]  # equal captions in chunks apart
    criterion = loss(positives=positives).double()
    value = step(model, None, batch, criterion, **settings)
    whole, learned = gradients(model), gradients(criterion)
    assert all(grad.abs() > 1e-6 for grad in learned.values())
    assert learned.keys() == dict(criterion.named_parameters()).keys()
    for size in (2, 4):
        model.zero_grad(set_to_none=True), criterion.zero_grad(set_to_none=True)
        chunked = step(model, size, batch, criterion, **settings)
        assert chunked == pytest.approx(value, abs=1e-12, rel=1e-12)
        for module, expected in ((model, whole), (criterion, learned)):
            found = gradients(module)
            assert found.keys() == expected.keys()
            for name, grad in expected.items():
                torch.testing.assert_close(found[name], grad, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(
    "settings", [{"unimodal_losses": {"vision": 0.5, "ocr": 2.0}}, {"ocr_warmup_steps": 1}]
)
def test_chunks_of_a_fusions_own_steps_give_the_whole_batchs_gradients(tmp_path, settings):
    model, batch = made(tmp_path)
    plain = step(model, None, batch)
    model.zero_grad(set_to_none=True)
    value = step(model, None, batch, **settings)
    whole = gradients(model)
    model.zero_grad(set_to_none=True)
    assert step(model, 2, batch, **settings) == pytest.approx(value, abs=1e-12)
    assert abs(value - plain) > 1e-3
    chunked = gradients(model)
    assert chunked.keys() == whole.keys() and len(whole) > 20
    for name, grad in whole.items():
        torch.testing.assert_close(chunked[name], grad, atol=1e-11, rtol=1e-9)


def test_with_dropout_the_second_pass_draws_what_the_first_drew(tmp_path):
    model, batch = made(tmp_path, dropout=0.3)
    chunks = [batch.rows(0, 4), batch.rows(4, 6)]
    torch.manual_seed(5)
    embeds = [model(chunk) for chunk in chunks]  # every chunk's graph at once
    text, video = (torch.cat([e[key] for e in embeds]) for key in ("text", model.video_key))
    loss = NormSoftmaxLoss().compute_loss(cosine_similarity(text, video), batch.query.hash_texts())
    loss.backward()
    expected, drawn = gradients(model), torch.get_rng_state()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    assert step(model, 4, batch) == pytest.approx(loss.item(), abs=1e-12)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name], atol=1e-11, rtol=1e-9)
    # The next step goes on as if there had been one pass.
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_loss_that_is_not_finite_leaves_no_gradients(tmp_path):
    for size in (None, 2):
        model, batch = made(tmp_path)
        batch.video[1] = float("nan")
        value = step(model, size, batch)
        assert value != value and not gradients(model)


def test_rows_of_a_batch_keep_each_video_and_its_words(tmp_path):
    _, batch = made(tmp_path)
    part = batch.rows(2, 5)
    assert part.ids == ["2", "3", "4"] and part.query_row.tolist() == [0, 1, 2]
    assert torch.equal(part.video, batch.video[2:5])
    for row in range(3):
        before, after = batch.words, part.words
        count = int(before.mask[row + 2].sum())
        assert count == int(after.mask[row].sum())
        old = before.input_ids[before.index[row + 2, :count]]
        assert torch.equal(after.input_ids[after.index[row, :count]], old)
        assert torch.equal(after.tracks[row, :count], before.tracks[row + 2, :count])
    lengths = (part.words.input_ids != 0).sum(1).tolist()
    assert lengths == sorted(lengths)
    assert [length for length, count in part.words.groups for _ in range(count)] == lengths
