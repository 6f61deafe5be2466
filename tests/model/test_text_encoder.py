import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from base.batch import Tokens
from model.text_encoder import encode_tokens, encode_words, load_text_model
from tests.model.small_models import WIDTH, build, make_batch, write_text_model
from utils.errors import UserError

TEXTS = [["one", "two"], ["long"], ["two"], ["longer", "one", "long"]]
KINDS = ["distilbert", "bert"]
NAMED = ["distilbert-base-uncased", "bert-base-uncased"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_text_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def changed(folder, tmp_path, change):
    """A copy of a model folder whose weights ``change`` has changed."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    weights = change(load_file(copy / "model.safetensors"))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def refused(name, pretrained=True):
    with pytest.raises(UserError) as caught:
        load_text_model(str(name), pretrained)
    assert str(name) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def tokens(*lengths):
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    return Tokens(ids * mask, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_weights_of_a_folder_are_loaded_exactly(folders, kind):
    saved = load_file(folders[kind] / "model.safetensors")
    for seed in (1, 2):
        torch.manual_seed(seed)
        own = load_text_model(str(folders[kind]), True).state_dict()
        assert own.keys() == saved.keys() and all(own[n].equal(saved[n]) for n in saved)


@pytest.mark.parametrize("kind", KINDS)
def test_without_pretrained_the_shapes_are_the_same_and_the_weights_are_not(folders, kind):
    own = load_text_model(str(folders[kind]), False).state_dict()
    saved = load_file(folders[kind] / "model.safetensors")
    assert {n: w.shape for n, w in own.items()} == {n: w.shape for n, w in saved.items()}
    weights = [n for n, w in saved.items() if w.ndim == 2]
    assert weights and not any(own[n].equal(saved[n]) for n in weights)


@pytest.mark.parametrize("part", ["attention", "embeddings", ""])
def test_missing_weights_are_an_error_and_never_random(folders, tmp_path, part):
    names = [n for n in load_file(folders["distilbert"] / "model.safetensors") if part in n]
    kept = {"nothing.of_it": torch.ones(1)}
    folder = changed(
        folders["distilbert"], tmp_path, lambda w: kept | {n: w[n] for n in w if n not in names}
    )
    message = refused(folder)
    assert names and all(f"missing {name}" in message for name in names)


def test_weights_of_another_shape_are_listed(folders, tmp_path):
    name = "embeddings.word_embeddings.weight"
    folder = changed(folders["bert"], tmp_path, lambda w: w | {name: torch.zeros(3, WIDTH)})
    assert f"{name} is (3, {WIDTH}), the model's (50, {WIDTH})" in refused(folder)


def test_unexpected_layers_are_an_error(folders, tmp_path):
    layer = "transformer.layer.1.ffn.lin1.bias"  # config.json says one layer
    folder = changed(folders["distilbert"], tmp_path, lambda w: w | {layer: torch.zeros(48)})
    assert f"unexpected {layer}" in refused(folder)


@pytest.mark.parametrize("prefix", ["", "distilbert."])
def test_heads_of_other_tasks_are_reported_and_do_no_harm(folders, tmp_path, caplog, prefix):
    """The hub's distilbert-base-uncased is a masked language model."""
    saved = load_file(folders["distilbert"] / "model.safetensors")
    folder = changed(
        folders["distilbert"],
        tmp_path,
        lambda w: {prefix + n: w[n] for n in w} | {"vocab_transform.bias": torch.zeros(3)},
    )
    with caplog.at_level(logging.INFO, logger="model.text_encoder"):
        own = load_text_model(str(folder), True).state_dict()
    assert all(own[n].equal(saved[n]) for n in saved)
    assert "not used: vocab_transform.bias" in caplog.text
    layer = changed(
        folder, tmp_path / "more", lambda w: w | {f"{prefix}transformer.x.bias": torch.zeros(3)}
    )
    assert f"unexpected {prefix}transformer.x.bias" in refused(layer)


def test_a_bert_without_pooler_is_an_error(folders, tmp_path):
    folder = changed(
        folders["bert"], tmp_path, lambda w: {n: w[n] for n in w if not n.startswith("pooler")}
    )
    assert "missing pooler.dense.bias; missing pooler.dense.weight" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_damaged_or_missing_files_are_errors(folders, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(folders["distilbert"], folder)
    (folder / "model.safetensors").unlink()
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    assert "must hold config.json and model.safetensors" in refused(folder)
    assert load_text_model(str(folder), False).config.hidden_size == WIDTH


@pytest.mark.parametrize(
    "config",
    [None, "{", "[1]", "{}", '{"model_type": "zzz"}', '{"model_type": "distilbert", "dim": "x"}'],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_folder_without_a_good_configuration(tmp_path, offline, config, pretrained):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert "must hold config.json" in refused(tmp_path, pretrained)


def test_contradicting_sizes(folders, tmp_path):
    config = json.loads((folders["distilbert"] / "config.json").read_text()) | {"n_heads": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "config.json" in refused(tmp_path, pretrained=False)


@pytest.mark.parametrize("pretrained", [True, False])
def test_without_network_the_message_says_which_file_to_put_where(offline, pretrained):
    message = refused("no-such-text-model", pretrained)
    files = "config.json and model.safetensors" if pretrained else "config.json"
    assert f"without network put {files} of it into a folder" in message
    assert "arch.args.text_params.model" in message


@pytest.mark.parametrize("name", NAMED)
def test_the_published_models_are_built_without_network(offline, name):
    with torch.device("meta"):
        model = load_text_model(name, False)
    assert model.config.hidden_size == 768 and model.config.vocab_size == 30522
    count = sum(weight.numel() for weight in model.parameters())
    assert count == {"distilbert": 66_362_880, "bert": 109_482_240}[name.split("-")[0]]
    with pytest.raises(UserError, match="model.safetensors"):
        load_text_model(name, True)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bert_uses_its_pooler_and_others_the_first_token(folders, kind):
    model = load_text_model(str(folders[kind]), True).eval()
    given = tokens(6, 3)
    output = model(input_ids=given.input_ids, attention_mask=given.attention_mask)
    first = output.last_hidden_state[:, 0]
    found = encode_tokens(model, given)
    if kind == "bert":
        assert found.equal(output.pooler_output) and not torch.allclose(found, first, atol=1e-2)
    else:
        assert found.equal(first)
    alone = encode_tokens(model, Tokens(given.input_ids[1:, :3], given.attention_mask[1:, :3]))
    torch.testing.assert_close(found[1:], alone, rtol=1e-5, atol=1e-5)  # padding is not read


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_no_text_gives_no_vectors(folders, kind):
    model = load_text_model(str(folders[kind]), True).eval()
    empty = torch.zeros(0, 0, dtype=torch.int64)
    found = encode_tokens(model, Tokens(empty, empty))
    assert found.shape == (0, WIDTH) and found.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_words_in_groups_equal_words_padded_with_a_mask(folders, kind):
    model = load_text_model(str(folders[kind]), True).eval()
    words = make_batch([["longer", "one", "two"], ["long", "one"]]).words
    assert [count for _, count in words.groups] == [2, 1, 1]
    mask = (words.input_ids != 0).long()
    padded = encode_tokens(model, Tokens(words.input_ids, mask))
    torch.testing.assert_close(encode_words(model, words), padded, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(padded[0], padded[1], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_and_width_works_in_fusion(folders, kind):
    model = build(folders[kind], video={"embed_dim": 24})
    embeds = model(make_batch([["one"], ["two", "long"]]))
    assert {name: value.shape for name, value in embeds.items()} == {
        "text": (2, 16),
        "video": (2, 16),
        "fusion": (2, 16),
    }
    embeds["fusion"].sum().backward()
    assert model.video_to_fusion.weight.shape == (WIDTH, 24)
    assert model.video_to_fusion.weight.grad.abs().sum() > 0


def test_a_batch_without_queries_has_no_vectors(tmp_path):
    model = load_text_model(str(write_text_model(tmp_path)), True)
    none = Tokens(*(torch.zeros(0, 0, dtype=torch.int64) for _ in "im"))
    assert encode_tokens(model, none).shape == (0, model.config.hidden_size)
