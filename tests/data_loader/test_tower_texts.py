"""Queries and OCR words as image-text towers take them."""

import json
import sys

import numpy as np
import pytest
import torch

from base.base_model import ModelInput
from base.batch import Sample
from data_loader.collate import Collate, load_tokenizer
from data_loader.open_clip_tokenizer import FILE, load_open_clip_tokenizer
from tests.data_loader.tower_tokenizers import clip_like, plain_words, siglip_like
from utils.errors import UserError
from utils.token_limit import find_token_limit


def sample(*words, captions=("The MAN",)):
    tracks = np.ones((len(words), 12), np.float32)
    return Sample("a.mp4", 0, list(captions), words=list(words), tracks=tracks)


def rows_of(tokens):
    pairs = zip(tokens.input_ids, tokens.attention_mask, strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


# Queries


def test_queries_are_lower_cased_only_where_the_model_wants_it():
    tokenizer = plain_words(unk_token="<unk>", pad_token="<pad>")
    asked = ["the house", "THE house"]
    lowered = rows_of(Collate(tokenizer, False).tokenize_queries(asked))
    as_written = rows_of(Collate(tokenizer, False, lowercase=False).tokenize_queries(asked))
    assert lowered[0] == lowered[1] == as_written[0] != as_written[1]


def test_a_prompt_surrounds_queries_but_not_words():
    tokenizer, prompt = clip_like(), "a photo of {} (the {})."
    made = Collate(tokenizer, True, prompt=prompt, max_tokens=20)
    plain = Collate(tokenizer, True)
    expected = tokenizer("a photo of the man (the the man).")["input_ids"]
    cut = [*expected[:19], expected[-1]]
    assert rows_of(made.tokenize_queries(["The MAN"])) == [cut] and len(expected) > 20
    assert made.tokenize_captions(["The MAN"]) == [tuple(cut)]
    words = made([sample("sale")]).words
    assert words.input_ids.equal(plain([sample("sale")]).words.input_ids)
    assert rows_of(made.tokenize_queries(["{man}"]))[0] == tokenizer(
        "a photo of {man} (the {man}).", truncation=True, max_length=20
    )["input_ids"]  # fmt: skip
    with pytest.raises(UserError, match="has no {}"):
        Collate(tokenizer, True, prompt="a photo")


@pytest.mark.parametrize("make", [clip_like, siglip_like], ids=["clip", "siglip"])
def test_the_models_limit_holds_beside_the_tokenizers(make):
    tokenizer, long = make(), "the man and the sale " * 30
    assert (tokenizer.model_max_length > 10**6) == (make is siglip_like)  # no limit is known
    made = Collate(tokenizer, True, token_limit=16)
    [query] = rows_of(made.tokenize_queries([long]))
    whole = tokenizer(long)["input_ids"]
    assert query == [*whole[:15], tokenizer.eos_token_id] and len(whole) > 100
    assert made([sample(long.strip())]).words.input_ids.shape == (1, 16)
    [short] = rows_of(Collate(tokenizer, True, 9, token_limit=16).tokenize_queries([long]))
    assert len(short) == 9
    [free] = rows_of(Collate(tokenizer, True).tokenize_queries([long]))
    assert len(free) == (77 if make is clip_like else len(whole))


# Empty words and special tokens


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_texts_of_clips_tokenizer(pad):
    tokenizer = clip_like(pad)
    assert (tokenizer.pad_token_id == 0) == (pad == "!")
    made = Collate(tokenizer, True)
    batch = made([sample("sale", "the"), sample(captions=["the man and the sale"])])
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    words = batch.words
    assert words.token_ids()[0] == (start, end)  # of a video without words
    assert words.groups[0] == (2, 1) and words.index[1].tolist() == [0, 0]
    assert words.tracks[1].eq(0).all() and words.mask[1].tolist() == [True, False]
    # The mask is no function of the padding's number, which the end of a text may have, too.
    assert rows_of(batch.query) == [
        tokenizer(t)["input_ids"] for t in ("the man", "the man and the sale")
    ]
    assert batch.query.input_ids[0, -1] == tokenizer.pad_token_id
    assert made.get_texts(batch, 0) == (["the man"], ["sale", "the"])
    assert made.get_texts(batch, 1)[1] == []


def test_texts_of_siglips_tokenizer():
    tokenizer = siglip_like()
    made = Collate(tokenizer, True)
    batch = made([sample("sale"), sample(captions=["zz"])])
    assert batch.words.token_ids()[0] == (tokenizer.eos_token_id,)  # there is no start
    assert batch.words.groups[0] == (1, 1)
    assert made.get_texts(batch, 0) == (["the man"], ["sale"])
    # What the tokenizer does not know shows.
    assert made.get_texts(batch, 1) == (["<unk>"], [])


@pytest.mark.parametrize(
    ("special", "number"),
    [({}, 0), ({"pad_token": "<pad>"}, 1), ({"pad_token": "<pad>", "eos_token": "<end>"}, 2)],
)
def test_a_text_is_never_an_empty_row(special, number):
    tokenizer = plain_words(**special)
    assert tokenizer(" ")["input_ids"] == []
    made = Collate(tokenizer, True)
    batch = made([sample(captions=["", "the man"])])
    assert batch.words.token_ids() == [(number,)] and rows_of(batch.query)[0] == [number]
    assert made.tokenize_distinct_words([[]]) == [(number,)]
    assert batch.query.attention_mask.sum(1).tolist() == [1, 2]


# Joined words


def test_joined_words_are_one_text_a_video():
    tokenizer = clip_like()
    made = Collate(tokenizer, True, joins_words=True, token_limit=12)
    videos = [sample("sale", "the", "sale"), sample(), sample("the"), sample("sale", "the", "sale")]
    batch = made(videos)
    words = batch.words
    assert words.mask.tolist() == [[True]] * 4 and words.tracks.eq(0).all()
    assert len(words.input_ids) == 3 and words.index[0] == words.index[3]
    joined = tokenizer("sale the sale", truncation=True, max_length=12)["input_ids"]
    assert words.token_ids()[words.index[0, 0]] == tuple(joined)
    assert words.token_ids()[words.index[1, 0]] == tuple(tokenizer(" ")["input_ids"])
    assert made.get_texts(batch, 0)[1] == ["sale the sale"]
    long = made([sample(*["the", "sale"] * 50)]).words
    assert long.input_ids.shape == (1, 12) and long.input_ids[0, -1] == tokenizer.eos_token_id
    # Evaluation encodes the same texts, each once.
    distinct = made.tokenize_distinct_words(video.words for video in videos)
    assert sorted(distinct) == sorted(words.token_ids())
    assert not made._cached_tokens


def test_a_model_says_how_its_texts_are_made(tmp_path):
    clip_like().save_pretrained(tmp_path)
    wanted = ModelInput(
        ("ocr",), str(tmp_path), lowercase=False, prompt="a {}", joins_words=True, max_tokens=9,
        repeat_words=True,
    )  # fmt: skip
    made = Collate.for_model(wanted, 5)
    assert made.with_words and made.joins_words and not made.repeat_words
    assert Collate.for_model(wanted, training=True).repeat_words
    settings = {"max_tokens": 5, "lowercase": False, "prompt": "a {}", "token_limit": 9}
    assert made.query_settings == settings
    again = Collate.for_queries(made.tokenizer, json.loads(json.dumps({"arch": {}} | settings)))
    asked = ["THE man and the sale"]
    assert rows_of(again.tokenize_queries(asked)) == rows_of(made.tokenize_queries(asked))
    # An index of a former release.
    old = Collate.for_queries(made.tokenizer, {"arch": {}, "max_tokens": 7})
    assert (old.max_tokens, old.lowercase, old.prompt, old.token_limit) == (7, True, "{}", None)


def test_words_may_have_a_tokenizer_of_their_own(tmp_path):
    siglip_like().save_pretrained(tmp_path)
    text_model = "tests/reference/text_model"
    wanted = ModelInput(
        ("vision", "ocr"), str(tmp_path), word_tokenizer_name=text_model, max_tokens=4
    )
    made, own = Collate.for_model(wanted), load_tokenizer(text_model)
    long = "zqx" * 10
    batch = made([sample("sale", long, captions=["the man and the sale"]), sample()])
    words = batch.words.token_ids()
    expected = {tuple(ids) for ids in own(["sale", long, " "])["input_ids"]}
    assert set(words) == expected and max(map(len, words)) > 4  # the limit is the tower's
    assert batch.words.input_ids[0, -1] == own.pad_token_id
    assert batch.query.input_ids.shape == (2, 4)
    texts = made.get_texts(batch, 0)
    assert texts[0] == [made.tokenizer.decode(batch.query.input_ids[0, :3])]
    assert [text.replace(" ", "") for text in texts[1]] == ["sale", long]
    assert sorted(made.tokenize_distinct_words([["sale", long], []])) == sorted(expected)
    only_seen = ModelInput(("vision",), str(tmp_path), word_tokenizer_name="nowhere")
    assert Collate.for_model(only_seen).tokenizer


# open_clip


def same_tokens(tokenizer, theirs, texts, limit):
    ids = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    for row, whole in zip(ids, theirs(texts, context_length=limit).tolist(), strict=True):
        assert row == whole[: len(row)] and set(whole[len(row) :]) <= {tokenizer.pad_token_id}
    return ids


def test_an_open_clip_tokenizer_gives_the_librarys_tokens(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    tokenizer = load_tokenizer("open_clip:PE-Core-B-16/meta")
    texts = ["The man &amp; the SALE", "!!! !", " ", "half price " * 40]
    theirs = open_clip.get_tokenizer("PE-Core-B-16")
    assert tokenizer.model_max_length == 32 and tokenizer.pad_token_id == 0
    for limit in (32, 9):
        ids = same_tokens(tokenizer, theirs, texts, limit)
        assert list(map(len, ids)) == [min(limit, n) for n in (7, 4, 2, limit)]
    made = Collate(tokenizer, True)
    batch = made([sample("sale", captions=["The MAN"]), sample()])
    assert made.get_texts(batch, 0) == (["the man"], ["sale"])
    assert made.get_texts(batch, 1)[1] == [] and batch.words.groups[0] == (2, 1)
    # In the folder of an index it is found again, without its name.
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["tokenizer"] == "SimpleTokenizer"
    again = load_tokenizer(str(tmp_path))
    assert again(texts) == tokenizer(texts) and again.model_max_length == 32


def test_a_folder_of_open_clips_has_a_tokenizer_too(tmp_path):
    pytest.importorskip("open_clip")
    text = {"context_length": 12, "vocab_size": 49408}
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": {"embed_dim": 8, "text_cfg": text}}))
    tokenizer = load_tokenizer(f"open_clip:{tmp_path}")
    assert tokenizer.model_max_length == 12
    path.write_text("{")
    with pytest.raises(UserError, match=f'tokenizer "open_clip:{tmp_path}": '):
        load_tokenizer(f"open_clip:{tmp_path}")


@pytest.mark.parametrize("make", [clip_like, siglip_like], ids=["clip", "siglip"])
def test_open_clips_wrapper_of_another_tokenizer(make, tmp_path):
    pytest.importorskip("open_clip")
    from open_clip.tokenizer import HFTokenizer

    from data_loader.open_clip_tokenizer import OpenClipTokenizer

    make().save_pretrained(tmp_path / "inner")
    theirs = HFTokenizer(str(tmp_path / "inner"), context_length=20, clean="canonicalize")
    tokenizer = OpenClipTokenizer(theirs)
    texts = ["The_man, the SALE!", "", "half price " * 40]
    ids = same_tokens(tokenizer, theirs, texts, 20)
    assert all(ids) and len(ids[2]) == 20
    assert len(tokenizer.get_vocab()) > len(tokenizer.all_special_tokens) > 0
    tokenizer.save_pretrained(tmp_path / "index")
    assert load_tokenizer(str(tmp_path / "index"))(texts) == tokenizer(texts)
    assert len(Collate(tokenizer, True)([sample("the", "sale")]).words.input_ids) == 2


def test_what_of_open_clip_can_not_be_used(monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    with pytest.raises(UserError, match=r'"open_clip:ViT-Q-9": .* has no model "ViT-Q-9"'):
        load_tokenizer("open_clip:ViT-Q-9")
    simple = open_clip.tokenizer.SimpleTokenizer
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: simple(reduction_mask="simple"))
    with pytest.raises(UserError, match="leaves out words of long texts"):
        load_open_clip_tokenizer("open_clip:ViT-B-32")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        load_tokenizer("open_clip:ViT-B-32")


# The limit of a tokenizer that does not say it


def save_text_model(folder, stated=None, **config):
    """A tokenizer's folder, with a model's configuration where one is given."""
    plain_words(unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)
    settings |= {} if stated is None else {"model_max_length": stated}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "distilbert", "max_position_embeddings": 12}, 12),
        ({"model_type": "bert", "max_position_embeddings": 12}, 12),
        # Positions begin behind the number of the padding token.
        ({"model_type": "roberta", "max_position_embeddings": 14, "pad_token_id": 1}, 12),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 14, "pad_token_id": 1}, 12),
        ({"model_type": "mpnet", "max_position_embeddings": 14, "pad_token_id": 5}, 12),
        ({"model_type": "clip", "text_config": {"max_position_embeddings": 12}}, 12),
        ({"model_type": "siglip", "text_config": {"max_position_embeddings": 12}}, 12),
        ({"model_type": "gpt2", "n_positions": 12}, 12),
        ({"model_type": "t5"}, 40),  # no absolute positions: any number
        ({}, 40),  # a tokenizer alone
    ],
)
@pytest.mark.parametrize("stated", [None, 30, 1e30, "512", -1])
def test_texts_are_cut_to_the_models_positions(tmp_path, config, limit, stated):
    tokenizer = load_tokenizer(save_text_model(tmp_path, stated, **config))
    made = Collate(tokenizer, True)
    limit = min(limit, 30) if stated == 30 else limit
    [query] = rows_of(made.tokenize_queries([" ".join(["man"] * 40)]))
    assert len(query) == limit
    assert len(made.tokenize_distinct_words([["man " * 40]])[0]) == limit
    [query] = rows_of(Collate(tokenizer, True, max_tokens=8).tokenize_queries(["man " * 40]))
    assert len(query) == 8


def test_a_roberta_takes_as_many_tokens_as_its_tokenizer_gives():
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=4, max_position_embeddings=14, pad_token_id=1,
    )  # fmt: skip
    model, limit = RobertaModel(config), find_token_limit(config)
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))
