"""``ocr_encoder_grad: false``: what a model does whose word encoder is not trained."""

from dataclasses import replace

import pytest
import torch

from base.batch import Tokens
from base.criterion import cosine_similarity
from model.frozen_in_time import FrozenInTime
from model.loss import NormSoftmaxLoss
from model.params import TextParams, VideoParams
from tests.model.small_models import SMALL_VIT, build, make_batch, write_text_model

TEXTS = [["one", "long", "two"], ["longer"], ["two", "one"]]
DROPOUT = 0.4


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text"))


def batch_of():
    batch = make_batch(TEXTS)
    return replace(
        batch,
        video=batch.video.double(),
        words=replace(batch.words, tracks=batch.words.tracks.double()),
    )


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    embeds = model(batch)
    NormSoftmaxLoss().compute_loss(
        cosine_similarity(embeds["text"], embeds[model.video_key])
    ).backward()
    return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def frozen_the_plain_way(text_model, **options):
    """A model of the default kind whose word encoder is set still from outside."""
    model = build(text_model, **options).double()
    model.ocr_model.requires_grad_(False)
    return model


@pytest.mark.parametrize("modalities", [("vision", "ocr"), ("ocr",)])
def test_all_other_gradients_are_those_of_a_frozen_encoder(text_model, modalities):
    plain = frozen_the_plain_way(text_model, modalities=modalities)
    model = build(text_model, modalities=modalities, ocr_encoder_grad=False).double()
    batch = batch_of()
    expected, found = gradients(plain, batch), gradients(model, batch)
    assert found.keys() == expected.keys() and len(found) > 15
    assert not [name for name in found if name.startswith("ocr_model.")]
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, atol=1e-12, rtol=1e-12, msg=name)
    assert [name for name in gradients(build(text_model).double(), batch) if "ocr_model" in name]


def test_vectors_from_a_table_give_the_same_gradients(text_model):
    model, batch = build(text_model, ocr_encoder_grad=False).double(), batch_of()
    expected = gradients(model, batch)
    rows = [torch.tensor([ids]) for ids in batch.words.token_ids()]
    vectors = torch.cat([model.encode_words(Tokens(ids, torch.ones_like(ids))) for ids in rows])
    calls = []
    model.ocr_model.register_forward_pre_hook(lambda *_: calls.append(1))
    words = replace(batch.words, vectors=vectors.detach())
    found = gradients(model, replace(batch, words=words))
    assert not calls and found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, atol=1e-11, rtol=1e-10, msg=name)


def test_no_word_drops_out_and_no_graph_is_kept(text_model):
    model, batch = build(text_model, ocr_encoder_grad=False).double(), batch_of()
    for part in model.ocr_model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = DROPOUT
    seen = []
    model.ocr_model.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state))
    model.train()
    assert model.training and model.text_model.training and not model.ocr_model.training
    first = model(batch)["fusion"]
    assert torch.equal(first, model(batch)["fusion"])
    assert first.requires_grad and not any(vectors.requires_grad for vectors in seen)
    assert not model.eval().ocr_model.training


def test_a_model_as_it_is_built_does_not_drop_words_out_either(text_model):
    video, text = VideoParams(**SMALL_VIT), TextParams(model=str(text_model), pretrained=False)
    assert not FrozenInTime(video, text, ocr_encoder_grad=False).ocr_model.training
    assert FrozenInTime(video, text).ocr_model.training


def test_the_encoders_weights_are_among_those_without_gradient(text_model):
    def named(model):
        idle = {id(weight) for weight in model.parameters_without_gradient()}
        return {name.split(".")[0] for name, w in model.named_parameters() if id(w) in idle}

    assert named(build(text_model)) == {"vid_proj"}
    model = build(text_model, ocr_encoder_grad=False)
    assert named(model) == {"vid_proj", "ocr_model"} and model.frozen_word_encoder
    seeing = build(text_model, ocr_encoder_grad=False, modalities=("vision",))
    assert not named(seeing) and not seeing.frozen_word_encoder
