"""The query encoder of an index: how it is kept, what it computes in, asked by many threads."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from base.base_model import describe_model_input
from data_loader.collate import Collate, load_tokenizer
from model.int8_linear import is_int8_usable
from parse_config import load_config
from retrieval import VideoIndex
from retrieval.index import query_embedder
from retrieval.index.layout import QUERY_ENCODER
from retrieval.index.query_embedder import (
    WEIGHTS,
    QueryEmbedder,
    group_by_length,
    save_query_encoder,
    shrink_weight,
)
from retrieval.index.tower import make_tower_config
from tests.conftest import ROOT, tiny
from tests.model.small_towers import FAMILIES, write_tower
from tests.retrieval.made_index import remove_checksums
from trainer.build import build_model
from utils.checkpoint.files import load_checkpoint
from utils.errors import UserError
from utils.files import hash_file

QUERIES = [f"a red circle and the sign {word}" for word in ("casino", "hotel", "museum", "bank")]
QUERIES += ["casino", "a blue square drifts over a green background and the sign reads pizza"]
needs_int8 = pytest.mark.skipif(not is_int8_usable(), reason="needs an x86 CPU")


@pytest.fixture
def encoder(built):
    with VideoIndex.open(built[0]) as index:
        yield index.load_query_encoder()


@pytest.fixture
def open_encoder(built, tmp_path_factory):
    """Return a function: precision, what changes a weight by its name -> an index's encoder."""

    def load(precision="auto", change=None):
        folder = tmp_path_factory.mktemp("changed") / QUERY_ENCODER
        shutil.copytree(built[0] / QUERY_ENCODER, folder)
        if change is not None:
            weights = load_file(folder / WEIGHTS)
            save_file({name: change(name, w) for name, w in weights.items()}, folder / WEIGHTS)
        return QueryEmbedder(folder, hash_file(folder / WEIGHTS), precision)

    return load


def embed(encoder, queries=QUERIES):
    return np.stack([encoder.embed(query) for query in queries])


def embed_exactly(model, encoder, queries=QUERIES):
    """Embed with a whole model in float32."""
    with torch.inference_mode():
        tokens = encoder._collate.tokenize_queries(queries)
        return F.normalize(model.eval().embed_queries(tokens)).numpy()


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """A model whose query encoder has learned to tell words and colours apart, and its folder."""
    changes = [*tiny(demo), "arch.args.projection_dim=64"]
    config = load_config(ROOT / "configs/demo/vision.json", changes)
    torch.manual_seed(0)
    model = build_model(config, torch.device("cpu")).train()
    collate = Collate(load_tokenizer(str(demo / "text_model")), False)
    colours = ("red", "green", "blue", "yellow", "white", "black")
    words = ("casino", "hotel", "museum", "bank", "pizza")
    pairs = [(colour, word) for colour in colours for word in words]
    forms = ["a {} circle and the sign {}", "something {} with the word {}", "{} {}"]
    tokens = [collate.tokenize_queries([form.format(*pair) for pair in pairs]) for form in forms]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(60):
        one, other = (model.embed_queries(tokens[(step + n) % 3]) for n in (0, 1))
        logits = F.normalize(one) @ F.normalize(other).T / 0.05
        loss = F.cross_entropy(logits, torch.arange(len(pairs)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1  # of 3.4 by chance
    folder = tmp_path_factory.mktemp("trained") / QUERY_ENCODER
    checksum = save_query_encoder(folder, model, config, collate)
    return model, folder, checksum, [form.format(*pair) for form in forms for pair in pairs]


def test_matrices_are_kept_in_half_precision(built):
    weights = load_file(built[0] / QUERY_ENCODER / WEIGHTS)
    assert {w.dtype for w in weights.values() if w.dim() > 1} == {torch.float16}
    assert {w.dtype for w in weights.values() if w.dim() == 1} == {torch.float32}


@pytest.mark.parametrize("weight", [
    torch.tensor([[1.0, 7e4], [2.0, 3.0]]), torch.full((2, 2), 1e-7), torch.full((2, 2), 1e-9),
    torch.tensor([[1.0, float("nan")]]), torch.ones(3), torch.ones(2, 2, dtype=torch.int64),
])  # fmt: skip
def test_a_weight_that_half_precision_would_change_is_kept_as_it_is(weight):
    kept = shrink_weight(weight)
    assert kept.dtype == weight.dtype and kept.data_ptr() != weight.data_ptr()
    torch.testing.assert_close(kept, weight, rtol=0, atol=0, equal_nan=True)
    assert shrink_weight(torch.ones(2, 2) / 3).dtype == torch.float16


def test_fp32_is_the_models_own_embedding_but_for_how_weights_are_kept(trained):
    model, folder, checksum, queries = trained
    encoder = QueryEmbedder(folder, checksum, "fp32")
    expected = embed_exactly(model, encoder, queries)
    assert encoder.precision == "fp32"
    assert (embed(encoder, queries) * expected).sum(1).min() > 1 - 1e-5


def test_an_index_with_weights_in_float32_is_read_as_before(built, open_encoder, library):
    model = build_model(library.model.config, torch.device("cpu"))
    whole = load_checkpoint(library.checkpoint)["state_dict"]
    model.load_state_dict(whole)
    encoder = open_encoder(change=lambda name, weight: whole[name].clone())
    np.testing.assert_allclose(embed(encoder), embed_exactly(model, encoder), atol=1e-6)
    assert encoder.precision == "fp32"  # so small a one is not rounded


def test_a_table_of_embeddings_is_looked_up_in_half_precision(open_encoder):
    for precision in ("fp32", "bf16", "int8" if is_int8_usable() else "auto"):
        encoder = open_encoder(precision)
        tables = [part for part in encoder._model.modules() if isinstance(part, torch.nn.Embedding)]
        assert len(tables) == 2 and {table.weight.dtype for table in tables} == {torch.float16}
        assert all(weight.dtype == torch.float32 for weight in encoder._model.parameters())
    whole = open_encoder("fp32", lambda name, weight: weight.float())
    np.testing.assert_array_equal(embed(open_encoder("fp32")), embed(whole))


@needs_int8
def test_int8_is_near_float32_alone_and_in_a_batch(trained):
    model, folder, checksum, queries = trained
    encoder = QueryEmbedder(folder, checksum, "int8")
    found, expected = embed(encoder, queries), embed_exactly(model, encoder, queries)
    assert encoder.precision == "int8"
    cosines = (found * expected).sum(1)
    assert cosines.min() > 0.99 and not np.array_equal(found, expected)
    together = np.stack(encoder._embed_batch(queries))
    assert (found * together).sum(1).min() > 1 - 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_towers_text_side_is_kept_and_rounded_in_the_same_way(family, tmp_path):
    if family.startswith("open_clip"):
        pytest.importorskip("open_clip")
    name = write_tower(tmp_path / "tower", family)
    config = make_tower_config(name, name)
    torch.manual_seed(0)
    model = build_model(config, torch.device("cpu"))
    takes = describe_model_input(config.arch)
    form = {"max_tokens": takes.max_tokens, "lowercase": takes.lowercase, "prompt": takes.prompt}
    collate = Collate.for_queries(load_tokenizer(takes.tokenizer_name), form)
    checksum = save_query_encoder(tmp_path / QUERY_ENCODER, model, config, collate)
    queries = ["a red circle", "casino", "the sign reads exit sale on a blue square"]
    embedders = [
        QueryEmbedder(tmp_path / QUERY_ENCODER, checksum, precision)
        for precision in ("fp32", "int8" if is_int8_usable() else "auto")
    ]
    expected = embed_exactly(model, embedders[0], queries)
    for embedder, least in zip(embedders, (1 - 1e-5, 0.99), strict=True):
        assert (embed(embedder, queries) * expected).sum(1).min() > least
        together = np.stack(embedder._embed_batch(queries))
        assert (embed(embedder, queries) * together).sum(1).min() > 1 - 1e-4


@needs_int8
def test_auto_takes_int8_for_large_encoders_unless_samples_differ(trained, monkeypatch, caplog):
    _, folder, checksum, queries = trained
    exact = embed(QueryEmbedder(folder, checksum, "fp32"), queries)
    rounded = embed(QueryEmbedder(folder, checksum, "int8"), queries)
    small = QueryEmbedder(folder, checksum)
    assert small.precision == "fp32" and np.array_equal(embed(small, queries), exact)
    monkeypatch.setattr(query_embedder, "MIN_INT8_WEIGHTS", 0)
    large = QueryEmbedder(folder, checksum)
    assert large.precision == "int8" and np.array_equal(embed(large, queries), rounded)
    assert not caplog.messages
    monkeypatch.setattr(query_embedder, "MIN_COSINE", 1.1)
    odd = QueryEmbedder(folder, checksum)
    assert odd.precision == "fp32" and np.array_equal(embed(odd, queries), exact)
    assert "in int8 have cosines with those in fp32 down to 0.99" in caplog.text
    assert QueryEmbedder(folder, checksum, "int8").precision == "int8"  # as was asked for


def test_without_the_instructions_auto_is_fp32(trained, monkeypatch):
    _, folder, checksum, _ = trained
    monkeypatch.setattr("model.int8_linear.is_int8_usable", lambda: False)
    monkeypatch.setattr(query_embedder, "MIN_INT8_WEIGHTS", 0)
    assert QueryEmbedder(folder, checksum).precision == "fp32"
    with pytest.raises(UserError, match='can\'t compute in "int8"; choose "auto"'):
        QueryEmbedder(folder, checksum, "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8" if is_int8_usable() else "auto"])
def test_many_threads_get_their_own_embeddings(trained, precision):
    _, folder, checksum, queries = trained
    encoder = QueryEmbedder(folder, checksum, precision)
    alone = embed(encoder, queries)
    with ThreadPoolExecutor(16) as pool:
        found = np.stack(list(pool.map(encoder.embed, queries * 3)))
    np.testing.assert_allclose(found, np.tile(alone, (3, 1)), atol=5e-3)
    assert (found @ alone.T).argmax(1).tolist() == [*range(len(queries))] * 3


def test_queries_that_wait_are_embedded_together(encoder, monkeypatch):
    batches, real, go = [], encoder._batcher._compute, threading.Event()

    def compute(queries):
        batches.append(list(queries))
        assert len(batches) > 1 or go.wait(30)
        return real(queries)

    monkeypatch.setattr(encoder._batcher, "_compute", compute)
    with ThreadPoolExecutor(len(QUERIES)) as pool:
        results = [pool.submit(encoder.embed, query) for query in QUERIES]
        while len(encoder._batcher._waiting) < len(QUERIES) - 1:
            threading.Event().wait(0.01)
        go.set()
        found = [result.result() for result in results]
    assert len(batches) == 2 and sorted(map(len, batches)) == [1, len(QUERIES) - 1]
    np.testing.assert_allclose(np.stack(found), embed(encoder), atol=1e-6)


@pytest.mark.parametrize(("lengths", "groups"), [
    ([7], [[7]]),
    ([5, 5, 5], [[5, 5, 5]]),
    ([3, 40, 3, 4, 3], [[40], [3, 3, 3, 4]]),  # 36 tokens of padding each would cost more
    ([3, 4, 5, 6], [[3, 4, 5, 6]]),
])  # fmt: skip
def test_texts_of_like_length_go_together(lengths, groups):
    lengths = np.array(lengths)
    found = group_by_length(lengths)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert [lengths[rows].tolist() for rows in found] == groups


def change_settings(folder, **changes):
    """Change what an index of a former release keeps of a query's form; None takes a key away."""
    remove_checksums(folder)
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
