"""Texts in a few sizes: the sizes, and that padding changes no vector."""

import pytest
import torch

from base.batch import Tokens
from model.padding import pad_tokens, padded_length, padded_rows, similar_words
from model.text_encoder import encode_tokens, encode_words, load_text_model
from tests.model.small_models import build, make_batch, write_text_model

TEXTS = [["one", "two"], ["long"], ["two"], ["longer", "one", "long"]]


@pytest.mark.parametrize(
    ("count", "rows"), [(1, 32), (31, 32), (32, 32), (33, 64), (64, 64), (700, 1024)]
)
def test_rows_are_powers_of_two(count, rows):
    assert padded_rows(count) == rows


@pytest.mark.parametrize(
    ("length", "most", "padded"),
    [(1, 64, 8), (8, 64, 8), (9, 64, 16), (33, 38, 38), (38, 38, 38), (500, 512, 504)],
)
def test_lengths_are_multiples_of_eight_that_the_model_takes(length, most, padded):
    assert padded_length(length, most) == padded


def test_padding_is_masked_and_whole_texts_of_it_are_not():
    ids = torch.arange(1, 7).view(2, 3)
    padded = pad_tokens(Tokens(ids, torch.tensor([[1, 1, 1], [1, 1, 0]])), most=64)
    assert padded.input_ids.shape == padded.attention_mask.shape == (32, 8)
    assert torch.equal(padded.input_ids[:2, :3], ids) and not padded.input_ids[2:].any()
    assert padded.attention_mask[:2].sum(1).tolist() == [3, 2]
    assert bool(padded.attention_mask[2:].all())


def test_words_of_similar_length_go_together_in_their_order():
    words = make_batch(TEXTS).words
    assert [length for length, _ in words.groups] == [3, 4, 6]
    (only,) = similar_words(words, most=64)
    assert torch.equal(only.input_ids, words.input_ids)
    assert only.attention_mask.sum(1).tolist() == [3, 3, 4, 6]
    short = similar_words(words, most=4)  # whatever a model's limit, no word is cut
    assert [part.input_ids.shape for part in short] == [(3, 4), (1, 6)]


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_padded_texts_have_the_same_vectors_and_gradients(tmp_path, kind):
    model = load_text_model(str(write_text_model(tmp_path, kind)), True).double().eval()
    batch = make_batch(TEXTS)
    batch.query.attention_mask[1, 3:] = 0

    def run(padded: bool) -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        texts = encode_tokens(model, batch.query, padded)
        words = encode_words(model, batch.words, padded)
        (texts.square().sum() + words.pow(3).sum()).backward()
        grads = [w.grad for w in model.parameters() if w.grad is not None]
        return [texts.detach(), words.detach(), *grads]

    for whole, padded in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(padded, whole, rtol=1e-10, atol=1e-10)


def test_a_batch_without_queries_has_no_vectors(tmp_path):
    model = load_text_model(str(write_text_model(tmp_path)), True)
    none = Tokens(*(torch.zeros(0, 0, dtype=torch.int64) for _ in "im"))
    assert encode_tokens(model, none, padded=True).shape == (0, model.config.hidden_size)


def test_a_padded_model_has_the_embeddings_of_one_that_is_not(tmp_path):
    model, batch = build(write_text_model(tmp_path)), make_batch(TEXTS)
    expected = model(batch)
    model.padded = True
    for key, embeds in model(batch).items():
        torch.testing.assert_close(embeds, expected[key], rtol=1e-5, atol=1e-5)
