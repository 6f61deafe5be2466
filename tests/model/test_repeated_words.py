"""``ocr_encoder_dropout``: drawn for each place of a word, as published, or once for a batch."""

import json
from dataclasses import replace

import pytest
import torch

from base.criterion import cosine_similarity
from model.frozen_in_time import FrozenInTime
from model.loss import NormSoftmaxLoss
from model.text_encoder import encode_words
from tests.model.kernels_on_cpu import load_interpreted_kernels, use_kernels_on_cpu
from tests.model.small_models import build, make_batch, write_text_model
from tests.trainer.test_grad_cache import gradients, made, step
from trainer.build import build_loader, build_trainer
from utils.checkpoint.files import load_checkpoint

TEXTS = [["one", "two", "one"], ["long"], ["two"], ["longer", "one", "long"], ["two", "longer"]]
CPU = torch.device("cpu")
OCCURRENCE = "arch.args.ocr_encoder_dropout=occurrence"


def make_model(folder, kind, dropout):
    write_text_model(folder, kind)
    config = json.loads((folder / "config.json").read_text())
    if kind == "bert":
        config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    else:
        config |= {"dropout": dropout, "attention_dropout": dropout}
    (folder / "config.json").write_text(json.dumps(config))
    return build(folder).train()


def place_vectors(model, words) -> list[list[torch.Tensor]]:
    """What the word encoder makes of each word of each video."""
    torch.manual_seed(3)
    vectors = encode_words(model.ocr_model, words).detach()
    assert len(vectors) == len(words.input_ids) == sum(count for _, count in words.groups)
    rows = zip(words.index, words.mask, strict=True)
    return [[vectors[word] for word in index[mask]] for index, mask in rows]


def is_same(one, other) -> bool:
    return torch.allclose(one, other, atol=1e-5)


KINDS = ("distilbert", "bert", "kernels")
# Rows of a tile beyond the last token are computed, too, and not stored.
ignore_triton = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@ignore_triton
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_drawn_for_each_place_of_a_repeated_word(kind, tmp_path, monkeypatch):
    model = make_model(tmp_path, kind, 0.3)
    if kind == "kernels":
        use_kernels_on_cpu(monkeypatch, load_interpreted_kernels())
    words = make_batch(TEXTS).words
    once, repeated = place_vectors(model, words), place_vectors(model, words.repeat())
    pairs = [((0, 1), (2, 0)), ((0, 0), (0, 2)), ((1, 0), (3, 2)), ((3, 0), (4, 1))]
    for (row, place), (other_row, other_place) in pairs:
        assert torch.equal(once[row][place], once[other_row][other_place])
        assert not is_same(repeated[row][place], repeated[other_row][other_place])


@ignore_triton
@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_outputs_and_gradients_are_equal(kind, tmp_path, monkeypatch):
    model = make_model(tmp_path, kind, 0.0)
    if kind == "kernels":
        use_kernels_on_cpu(monkeypatch, load_interpreted_kernels())
    batch, found = make_batch(TEXTS), []
    for words in (batch.words, batch.words.repeat()):
        model.zero_grad(set_to_none=True)
        embeds = model(replace(batch, words=words))
        similarity = cosine_similarity(embeds["text"], embeds["fusion"])
        NormSoftmaxLoss().compute_loss(similarity).backward()
        found.append({"fusion": embeds["fusion"].detach()} | gradients(model))
    assert found[0].keys() == found[1].keys() and len(found[0]) > 30
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_every_place_with_a_word_is_encoded_and_no_padding(tmp_path):
    words = make_batch(TEXTS).words
    repeated = words.repeat()
    assert len(words.input_ids) == 4 and words.mask.numel() == 15
    assert len(repeated.input_ids) == words.mask.sum() == 10
    assert repeated.index[words.mask].sort().values.tolist() == list(range(10))
    assert torch.equal(repeated.mask, words.mask) and repeated.tracks is words.tracks
    own = words.input_ids[words.index[words.mask]]
    assert torch.equal(repeated.input_ids[repeated.index[words.mask]], own)
    lengths = (repeated.input_ids != 0).sum(1).tolist()
    assert lengths == sorted(lengths) == repeated.lengths
    # Known vectors go along, and a word that is there as often already stays so.
    vectors = torch.arange(8.0).view(4, 2)
    known = replace(words, vectors=vectors).repeat()
    assert torch.equal(known.vectors[known.index[words.mask]], vectors[words.index[words.mask]])
    again = repeated.repeat()
    assert torch.equal(again.index, repeated.index) and again.groups == repeated.groups


@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_have_each_place_once_and_draw_what_their_first_pass_drew(tmp_path, recompute):
    model, batch = made(tmp_path, dropout=0.3)
    batch.words = batch.words.repeat()
    chunks = [batch.rows(0, 4), batch.rows(4, 6)]
    places = [int(chunk.words.mask.sum()) for chunk in chunks]
    assert [len(chunk.words.input_ids) for chunk in chunks] == places == [7, 3]
    torch.manual_seed(5)
    embeds = [model(chunk) for chunk in chunks]
    text, video = (torch.cat([e[key] for e in embeds]) for key in ("text", model.video_key))
    loss = NormSoftmaxLoss().compute_loss(cosine_similarity(text, video), batch.query.hash_texts())
    loss.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    if recompute:
        model.recompute_activations()
    torch.manual_seed(5)
    assert step(model, 4, batch) == pytest.approx(loss.item(), abs=1e-12)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name], atol=1e-11, rtol=1e-9)


def words_of(config, training, split="train"):
    loader = build_loader(config, 0, training=training, split=split)
    loader.set_epoch(1, 99)
    return [batch.words for batch in loader]


def test_training_alone_repeats_words_and_only_where_they_drop_out(make_config):
    frozen = "arch.args.ocr_encoder_grad=false"
    for changes, repeats in (([OCCURRENCE], True), ([], False), ([OCCURRENCE, frozen], False)):
        config = make_config(*changes, "data_loader.args.batch_size=8", kind="ocr")
        [words] = words_of(config, training=True)
        assert (len(words.input_ids) == words.mask.sum()) == repeats
        if repeats:
            assert len(set(words.token_ids())) < len(words.input_ids)
        for split in ("train", "test"):
            for words in words_of(config, training=False, split=split):
                assert len(set(words.token_ids())) == len(words.input_ids) < words.mask.sum()


def train(config, folder) -> dict[str, torch.Tensor]:
    folder.mkdir()
    trainer = build_trainer(config, folder, CPU)
    trainer.fit()
    return load_checkpoint(folder / "model_last.pth")["state_dict"]


def test_a_run_differs_with_dropout_and_not_without(make_config, dropout_text_model, tmp_path):
    differ = {}
    for name, more in (("none", []), ("some", [str(dropout_text_model)])):
        more = [f"arch.args.text_params.model={folder}" for folder in more]
        # Plain descent, so that the difference in rounding stays as small as it is.
        more += ['optimizer={"type": "SGD", "args": {"lr": 0.01}}']
        one = train(make_config(*more, kind="ocr"), tmp_path / f"{name}_word")
        other = train(make_config(*more, OCCURRENCE, kind="ocr"), tmp_path / f"{name}_occurrence")
        assert one.keys() == other.keys()
        differ[name] = max((one[key] - other[key]).abs().max().item() for key in one)
    assert differ["none"] < 1e-5 < 1e-4 < differ["some"]


def test_the_setting_is_of_training_alone_and_known_before_the_model_is_built():
    arguments = {"ocr_encoder_dropout": "occurrence"}
    assert FrozenInTime.describe_input(**arguments).repeat_words
    assert not FrozenInTime.describe_input().repeat_words
    assert FrozenInTime.inference_settings(**arguments) == {}
