"""The query encoder of an index, asked by many threads at once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index import query_embedder
from retrieval.index.writer import QUERY_ENCODER

QUERIES = [f"a red circle and the sign {word}" for word in ("casino", "hotel", "museum", "bank")]
QUERIES += ["casino", "a blue square drifts over a green background and the sign reads pizza"]


@pytest.fixture
def encoder(built):
    with VideoIndex.open(built[0]) as index:
        yield index.load_query_encoder()


@pytest.fixture
def sizes(encoder, monkeypatch):
    """The sizes of the batches that the model is given; the first waits until ``go`` is set."""
    found, real = [], encoder._model.forward

    def forward(tokens):
        found.append(len(tokens.input_ids))
        if len(found) == 1:
            found.go.wait(30)
        return real(tokens)

    class Sizes(list):
        go = threading.Event()

    found = Sizes()
    monkeypatch.setattr(encoder._model, "forward", forward)
    return found


def embed_at_once(encoder, sizes, queries):
    """Embed queries of which all but the first come while that one is embedded."""
    with ThreadPoolExecutor(len(queries)) as pool:
        results = [pool.submit(encoder.embed, queries[0])]
        while not sizes:
            threading.Event().wait(0.01)
        results += [pool.submit(encoder.embed, query) for query in queries[1:]]
        while len(encoder._waiting) < len(queries) - 1:
            threading.Event().wait(0.01)
        sizes.go.set()
        return results


def test_queries_that_wait_are_embedded_as_one_batch(encoder, sizes):
    found = [result.result() for result in embed_at_once(encoder, sizes, QUERIES)]
    assert list(sizes) == [1, len(QUERIES) - 1]
    for query, embedding in zip(QUERIES, found, strict=True):
        np.testing.assert_allclose(embedding, encoder.embed(query), atol=1e-6)
    assert len({embedding.tobytes() for embedding in found}) == len(QUERIES)
    assert not encoder._waiting


def test_a_batch_has_an_end(encoder, sizes, monkeypatch):
    monkeypatch.setattr(query_embedder, "MAX_BATCH", 2)
    found = [result.result() for result in embed_at_once(encoder, sizes, QUERIES)]
    assert max(sizes) == 2 and sum(sizes) >= len(QUERIES)
    for query, embedding in zip(QUERIES, found, strict=True):
        np.testing.assert_allclose(embedding, encoder.embed(query), atol=1e-6)


def change_settings(folder, **changes):
    """Change what the index keeps of a query's form; None takes a key away."""
    path = folder / QUERY_ENCODER / query_embedder.SETTINGS
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def test_an_index_keeps_how_its_model_takes_queries(encoder, copy):
    path = copy / QUERY_ENCODER / query_embedder.SETTINGS
    kept = json.loads(path.read_text())
    form = {"max_tokens": None, "lowercase": True, "prompt": "{}", "token_limit": None}
    assert {name: kept[name] for name in kept if name != "arch"} == form
    change_settings(copy, prompt="a red {} and the sign hotel")
    with VideoIndex.open(copy) as index:
        found = index.load_query_encoder().embed("Circle")
    expected = encoder.embed("a red circle and the sign hotel")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, encoder.embed("circle"), atol=1e-3)


def test_an_index_of_a_former_release_takes_queries_as_before(encoder, copy):
    change_settings(copy, lowercase=None, prompt=None, token_limit=None)
    with VideoIndex.open(copy) as index:
        for query in QUERIES:
            found = index.load_query_encoder().embed(query.upper())
            np.testing.assert_allclose(found, encoder.embed(query), atol=1e-6)
