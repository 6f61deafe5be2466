"""A fusion by one modality alone: batches without frames, and embeddings for unimodal losses."""

import json
from dataclasses import replace

import pytest
import torch

from base.base_model import RetrievalModel
from tests.model.small_models import build, make_batch, write_text_model
from utils.errors import UserError

TEXTS = [["one", "two"], ["long"], ["two", "longer", "one"]]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    folder = write_text_model(tmp_path_factory.mktemp("model") / "text")
    config = json.loads((folder / "config.json").read_text())
    config |= {"dropout": 0.0, "attention_dropout": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_without_frames_the_words_alone_are_embedded(text_model):
    model, batch = build(text_model), make_batch(TEXTS)
    with torch.no_grad():
        apart = model.embed_videos_apart(batch)
        words_alone = model(replace(batch, video=None, num_frames=None))
    assert set(words_alone) == {"text", "fusion"}
    torch.testing.assert_close(words_alone["fusion"], apart["vision"], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(words_alone["fusion"], apart["whole"], atol=1e-3)


def test_a_step_without_frames_leaves_the_vision_branch_alone(text_model):
    model = build(text_model).train()
    embeds = model(replace(make_batch(TEXTS), video=None, num_frames=None))
    embeds["fusion"].sum().backward()
    branches = model.list_branches()
    assert all(weight.grad is None for weight in branches["vision"])
    assert all(weight.grad is not None for weight in branches["ocr"])


def test_unimodal_embeddings_are_those_without_the_other_modality(text_model):
    model, batch = build(text_model), make_batch(TEXTS)
    model.request_unimodal_embeds(["vision", "ocr"])
    assert set(model(batch)) == {"text", "video", "fusion"}  # in evaluation there are none
    embeds, apart = model.train()(batch), model.eval().embed_videos_apart(batch)
    torch.testing.assert_close(embeds["fusion"], apart["whole"])
    torch.testing.assert_close(embeds["only_vision"], apart["ocr"])
    torch.testing.assert_close(embeds["only_ocr"], apart["vision"])
    assert not torch.allclose(embeds["only_vision"], embeds["only_ocr"], atol=1e-3)


def test_a_model_of_one_modality_has_none_beside_its_own(text_model):
    model = build(text_model, modalities=("ocr",)).train()
    model.request_unimodal_embeds(["ocr"])
    assert set(model(make_batch(TEXTS))) == {"text", "fusion"} and not model.fuses_modalities


def test_an_architecture_without_them_says_so():
    class Plain(RetrievalModel):
        def forward(self, batch):
            return {}

        describe_input = None

    with pytest.raises(UserError, match="trainer.unimodal_losses: Plain has none; set them to 0"):
        Plain().request_unimodal_embeds(["vision"])


def test_branches_hold_every_trained_weight_once(text_model):
    model = build(text_model)
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    branches = model.list_branches()
    assert set(branches) == {"text", "ocr", "fusion", "vision"}
    found = [id(weight) for part in branches.values() for weight in part]
    assert len(found) == len(set(found))
    assert set(found) == {id(weight) for weight in model.parameters() if weight.requires_grad}
