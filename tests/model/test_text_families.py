"""How each family of text models is pooled: one vector a text, by the text and nothing else."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from base.batch import Tokens, Words
from base.registry import TEXT_ENCODERS
from model.text_encoder import encode_tokens, encode_words, get_text_encoder, load_text_model
from tests.model.small_models import build, make_batch
from utils.errors import UserError

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "dim": 16, "embedding_size": 16, "num_hidden_layers": 2,
    "n_layers": 2, "num_attention_heads": 2, "n_heads": 2, "intermediate_size": 24,
    "hidden_dim": 24, "max_position_embeddings": 20, "initializer_range": 0.3,
    "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3,
}  # fmt: skip
VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
VISION |= {"intermediate_size": 8, "patch_size": 4}
WHOLE = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
# Begin and end of a text, as tokenizers write them, and six words at most.
TEXTS = [[2, 7, 3], [2, 8, 3], [2, 7, 8, 9, 10, 11, 12, 3], [2, 12, 8, 9, 10, 11, 7, 3]]


def config_of(kind):
    if kind in WHOLE:
        text = {name: value for name, value in SIZES.items() if name != "dim"}
        return WHOLE[kind][0](text_config=text | {"projection_size": 24}, vision_config=VISION)
    extra = {"siglip_text_model": {"projection_size": 24}, "rembert": {"input_embedding_size": 16}}
    return AutoConfig.for_model(kind, **SIZES, **extra.get(kind, {}))


def load(kind, folder):
    config_of(kind).save_pretrained(folder)
    torch.manual_seed(0)
    model = load_text_model(str(folder), pretrained=False).eval()
    with torch.no_grad():  # poolers and heads start too small to show anything
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def tokens_of(texts, width, pad_id):
    ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids in texts])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts])
    return Tokens(ids, mask)


@pytest.mark.parametrize("kind", TEXT_ENCODERS.names())
def test_vectors_tell_texts_apart_and_do_not_depend_on_padding(kind, tmp_path):
    model = load(kind, tmp_path)
    pad_id = model.config.pad_token_id
    found = encode_tokens(model, tokens_of(TEXTS, 8, pad_id))
    assert found.shape == (4, 24 if "siglip" in kind else 16)
    distances = torch.cdist(found, found) + torch.eye(4)
    assert distances.min() > 1e-2, distances  # a CLIP's first token is the same in every text
    words = tokens_of(TEXTS, 8, pad_id).input_ids
    words = Words(words, groups=((3, 2), (8, 2)), index=None, mask=None, tracks=None)
    same = {
        "padding": encode_tokens(model, tokens_of(TEXTS, 13, pad_id)),
        "words": encode_words(model, words),
        "alone": torch.cat([encode_tokens(model, tokens_of([t], len(t), pad_id)) for t in TEXTS]),
    }
    for name, other in same.items():
        torch.testing.assert_close(other, found, rtol=1e-4, atol=1e-4, msg=name)
    found.square().sum().backward()  # no weight is left without a gradient but the unused parts'
    unused = tuple(f"{part}." for part in get_text_encoder(model).find_unused_parts())
    idle = [n for n, w in model.named_parameters() if w.requires_grad and w.grad is None]
    assert all(name.startswith(unused) for name in idle), idle


@pytest.mark.parametrize("kind", WHOLE)
def test_the_text_side_of_a_whole_model_is_loaded_exactly(kind, tmp_path, caplog):
    caplog.set_level("INFO", logger="model")
    whole = WHOLE[kind][1](config_of(kind))
    whole.save_pretrained(tmp_path)
    own = load_text_model(str(tmp_path), pretrained=True)
    saved = whole.text_model.state_dict()
    assert own.state_dict().keys() == saved.keys()
    assert all(value.equal(saved[name]) for name, value in own.state_dict().items())
    assert "weights of other tasks, not used: logit_" in caplog.text
    own.config.save_pretrained(tmp_path / "query_encoder")  # as an index keeps it
    again = load_text_model(str(tmp_path / "query_encoder"), pretrained=False)
    again.load_state_dict(own.state_dict())
    given = tokens_of(TEXTS, 8, 1)
    assert encode_tokens(again.eval(), given).equal(encode_tokens(own.eval(), given))
    # Layers that the configuration does not know are no other task's.
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"unexpected \S*encoder\.layers\.1\."):
        load_text_model(str(tmp_path), pretrained=True)


def test_the_vectors_are_those_that_transformers_pools(tmp_path):
    clip, siglip = (load(kind, tmp_path / kind) for kind in ("clip_text_model", "siglip"))
    given = tokens_of(TEXTS, 8, 1)
    ends = clip(given.input_ids, given.attention_mask).last_hidden_state
    ends = ends[torch.arange(4), torch.tensor([len(ids) - 1 for ids in TEXTS])]
    torch.testing.assert_close(encode_tokens(clip, given), ends)
    padded = tokens_of(TEXTS, 20, 1).input_ids  # as SigLIP was trained: to its length, unmasked
    torch.testing.assert_close(encode_tokens(siglip, given), siglip(padded).pooler_output)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_family_that_is_not_known_is_refused_by_name(pretrained, tmp_path):
    AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:  # before any weight: there is no file of them
        load_text_model(str(tmp_path), pretrained)
    for part in (str(tmp_path), '"gpt2"', "distilbert", "siglip_text_model", "TEXT_ENCODERS"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["clip", "siglip", "roberta"])
def test_a_family_works_in_a_fusion_model(kind, tmp_path):
    config_of(kind).save_pretrained(tmp_path)
    model = build(tmp_path).train()
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    batch = make_batch([["one"], ["two", "long"]])
    expected = model.eval()(batch)["fusion"]
    model.train().recompute_activations()
    model(batch)["fusion"].square().sum().backward()
    model(batch)["text"].square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    torch.testing.assert_close(model.eval()(batch)["fusion"], expected, rtol=1e-4, atol=1e-4)


def test_half_precision_in_a_configuration_does_not_make_half_a_model(tmp_path):
    config = config_of("distilbert")
    config.dtype = torch.float16
    config.save_pretrained(tmp_path)
    assert load_text_model(str(tmp_path), pretrained=False).dtype == torch.float32
    assert AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).dtype == torch.float16
