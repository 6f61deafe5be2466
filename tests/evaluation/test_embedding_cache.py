"""Texts that are encoded once: in which chunks, and to which vectors."""

import random

import pytest
import torch

from base.batch import Tokens
from evaluation.embedding_cache import TOKENS_AT_ONCE, encode_texts, split_by_length
from tests.model.small_models import VOCABULARY, build, make_batch, write_text_model
from utils.precision import Precision

FP32 = Precision("fp32", torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(write_text_model(tmp_path_factory.mktemp("text"))).double()


def drawn(count: int, longest: int = 7) -> list[tuple[int, ...]]:
    """Texts of 2 and more tokens, some of them equal."""
    draw = random.Random(0)
    return [
        tuple(draw.randrange(5, VOCABULARY) for _ in range(draw.randint(2, longest)))
        for _ in range(count)
    ] * 2


def test_chunks_hold_each_text_once_and_one_length():
    texts = sorted(set(drawn(5000)), key=len)
    chunks = list(split_by_length(texts))
    assert [text for chunk in chunks for text in chunk] == texts
    assert all(len({len(text) for text in chunk}) == 1 for chunk in chunks)
    sizes = [sum(map(len, chunk)) for chunk in chunks]
    assert max(sizes) <= TOKENS_AT_ONCE and len(chunks) > 6
    assert list(split_by_length([(1,) * 2 * TOKENS_AT_ONCE] * 2))[1] == [(1,) * 2 * TOKENS_AT_ONCE]


@pytest.mark.parametrize("encoder", ["embed_queries", "encode_words"])
def test_each_vector_is_that_of_the_text_alone(model, encoder):
    encode, texts = getattr(model, encoder), drawn(40)
    table = encode_texts(texts, encode, FP32)
    found = table.vectors[table.find_rows(texts)]
    assert len(table.vectors) == len(set(texts)) < len(texts) and not found.requires_grad
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([text])
        with torch.no_grad():
            (alone,) = encode(Tokens(ids, torch.ones_like(ids)))
        torch.testing.assert_close(vector, alone, atol=1e-10, rtol=1e-10)


def test_whatever_order_the_vectors_are_the_same_bits(model):
    encode, texts = model.float().encode_words, drawn(300)
    one = encode_texts(texts, encode, FP32)
    other = encode_texts(random.Random(1).sample(texts[:300], 300), encode, FP32)
    model.double()
    assert torch.equal(one.vectors[one.find_rows(texts)], other.vectors[other.find_rows(texts)])


def test_without_texts_there_is_an_empty_table(model):
    assert encode_texts([], model.embed_queries, FP32).vectors.shape == (0, 16)


def test_it_stops_before_the_next_chunk(model):
    encoded = []

    def encode(tokens):
        encoded.append(len(tokens.input_ids))
        return model.encode_words(tokens)

    texts = [(5, 6)] * 3 + [(5, 6, 7)]
    assert encode_texts(texts, encode, FP32, lambda: 1 in encoded) is None
    assert encoded == [0, 1]


@torch.no_grad()
def test_a_batch_is_given_its_words(model):
    batch = make_batch([["one", "long", "two"], ["longer"], ["two", "one"]])
    batch.words.tracks, batch.video = batch.words.tracks.double(), batch.video.double()
    table = encode_texts([*drawn(9), *batch.words.token_ids()], model.encode_words, FP32)
    filled = table.add_word_vectors(batch)
    assert batch.words.vectors is None and filled.words.vectors.shape == (4, 32)
    expected = model(batch)["fusion"]
    torch.testing.assert_close(model(filled)["fusion"], expected, atol=1e-10, rtol=1e-10)
    parts = [model(filled.rows(*rows))["fusion"] for rows in ((0, 1), (1, 3))]
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-10, rtol=1e-10)
    other = encode_texts(drawn(9), model.encode_words, FP32)
    with pytest.raises(RuntimeError, match=r"get_words .* \(2, 7, 3\) is missing; videos 0, 1, 2"):
        other.add_word_vectors(batch)
