import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from base.registry import ARCHITECTURES
from model.frozen_in_time import FrozenInTime
from model.params import TextParams, VideoParams
from tests.model.small_models import SMALL_VIT, WIDTH, build, make_batch, write_text_model
from utils.checkpoint.files import CheckpointError
from utils.errors import UserError

MODES = {"fusion": ("vision", "ocr"), "ocr": ("ocr",), "vision": ("vision",)}
KEYS = {
    "fusion": {"text", "video", "fusion"},
    "ocr": {"text", "fusion"},
    "vision": {"text", "video"},
}
TEXTS = [["one", "long", "two"], ["longer"], ["two", "one"]]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module", params=MODES)
def mode(request, text_model):
    return request.param, build(text_model, modalities=MODES[request.param])


def run(model, batch):
    with torch.no_grad():
        return model(batch)


def test_each_mode_embeds_what_it_uses(mode):
    name, model = mode
    batch = make_batch(TEXTS)
    found = run(model, batch)
    assert found.keys() == KEYS[name] and model.video_key in found
    assert model.video_key == ("video" if name == "vision" else "fusion")
    assert all(value.shape == (3, 16) and value.isfinite().all() for value in found.values())
    unread = {"vision": {"words": None}, "ocr": {"video": None}}.get(name, {})
    again = run(model, replace(batch, **unread))  # needs nothing that it does not use
    assert all(again[key].equal(value) for key, value in found.items())
    parts = {part.split(".")[0] for part in model.state_dict()}
    assert ("video_model" in parts) == (name != "ocr")
    assert ("ocr_model" in parts) == (name != "vision")
    assert ({"type_embedding", "ocr_pos_embeds"} <= parts) == (name == "fusion")
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def test_permuted_videos_are_permuted_outputs(mode):
    _, model = mode
    batch, order = make_batch(TEXTS), torch.tensor([2, 0, 1])
    words = replace(
        batch.words,
        index=batch.words.index[order],
        mask=batch.words.mask[order],
        tracks=batch.words.tracks[order],
    )
    before = run(model, batch)
    after = run(model, replace(batch, video=batch.video[order], words=words))
    for key in before.keys() - {"text"}:
        torch.testing.assert_close(after[key], before[key][order], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(before[key][0], before[key][1], atol=1e-3)
    torch.testing.assert_close(after["text"], before["text"])


def test_padding_words_are_not_read(mode):
    name, model = mode
    batch = make_batch(TEXTS)
    before = run(model, batch)
    padding = ~batch.words.mask
    assert padding.any()
    words = replace(
        batch.words,
        index=batch.words.index.masked_fill(padding, 3),
        tracks=batch.words.tracks.masked_fill(padding[..., None], 7.0),
    )
    after = run(model, replace(batch, words=words))
    assert all(after[key].equal(before[key]) for key in before)


def reversed_words(batch, tracks=True):
    """The first video's three words the other way round."""
    index, vectors = batch.words.index.clone(), batch.words.tracks.clone()
    index[0] = index[0].flip(0)
    if tracks:
        vectors[0] = vectors[0].flip(0)
    return replace(batch, words=replace(batch.words, index=index, tracks=vectors))


def test_the_order_of_a_videos_words_does_not_matter(text_model):
    batch = make_batch(TEXTS)
    for name in ("ocr", "fusion"):
        model = build(text_model, modalities=MODES[name])
        before = run(model, batch)["fusion"]
        after = run(model, reversed_words(batch))["fusion"]
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
        # In fusion a word belongs to its track; mode ocr reads no tracks.
        other = run(model, reversed_words(batch, tracks=False))["fusion"]
        assert torch.allclose(other, before, rtol=1e-5, atol=1e-5) == (name == "ocr")


def test_fusion_depends_on_frames_words_and_tracks(text_model):
    model, batch = build(text_model), make_batch(TEXTS)
    before = run(model, batch)
    words = replace(batch.words, tracks=batch.words.tracks + 1)
    changes = {"video": batch.video + 1, "words": words}
    changes["words "] = replace(batch.words, index=(batch.words.index + 1) % 4)
    for name, value in changes.items():
        after = run(model, replace(batch, **{name.strip(): value}))
        assert not torch.allclose(after["fusion"], before["fusion"], atol=1e-4), name
        assert after["video"].equal(before["video"]) == (name != "video")


def test_a_batch_of_further_windows_has_no_queries(mode):
    _, model = mode
    batch = make_batch(TEXTS)
    empty = torch.zeros(0, 0, dtype=torch.int64)
    query = replace(batch.query, input_ids=empty, attention_mask=empty)
    found = run(model, replace(batch, query=query, query_row=empty.flatten()))
    assert found["text"].shape == (0, 16)
    assert found[model.video_key].equal(run(model, batch)[model.video_key])


def test_a_modality_named_twice_is_refused(text_model):
    for twice in (("vision", "vision"), ("ocr", "ocr")):
        with pytest.raises(UserError, match="arch.args.modalities: .* names one twice"):
            build(text_model, modalities=twice)


def test_heads_must_divide_the_width(text_model):
    with pytest.raises(UserError, match=f"fusion_heads: 5 does not divide .* width {WIDTH}"):
        build(text_model, fusion_heads=5)


def test_the_published_fusion_model_has_its_size():
    config = json.loads(Path("configs/TextVR_fusion.json").read_text())["arch"]
    args = dict(config["args"])
    video = VideoParams(**(args.pop("video_params") | {"pretrained": False}))
    text = TextParams(**(args.pop("text_params") | {"pretrained": False}))
    args["modalities"] = tuple(args["modalities"])
    with torch.device("meta"):
        model = ARCHITECTURES.get(config["type"])(video, text, **args)
    assert model.num_parameters() == pytest.approx(249e6, abs=0.5e6)
    assert isinstance(model.video_to_fusion, torch.nn.Identity)  # one width: no weight more


def test_without_projection_the_features_are_the_embeddings(text_model):
    for name, modalities in MODES.items():
        model = build(text_model, modalities=modalities, projection="")
        found = run(model, make_batch(TEXTS))
        assert {key: value.shape for key, value in found.items()} == dict.fromkeys(
            KEYS[name], (3, WIDTH)
        )
        projections = ("txt_proj.", "vid_proj.", "fusion_proj.")
        assert not [key for key in model.state_dict() if key.startswith(projections)]
    with pytest.raises(UserError, match=f'projection: "" needs .* 24 and {WIDTH}'):
        build(text_model, video={"embed_dim": 24}, modalities=("vision",), projection="")


def loaded(text_model, path, **options):
    return build(text_model, load_checkpoint=str(path), **options)


def test_a_checkpoint_is_loaded_to_the_last_weight(text_model, tmp_path):
    source = build(text_model)
    weights = {f"module.{name}": value for name, value in source.state_dict().items()}
    old = {"module.text_model.embeddings.position_ids": torch.arange(5)}  # holds no weight
    torch.save({"state_dict": weights | old, "epoch": 3}, tmp_path / "model.pth")
    torch.manual_seed(9)
    text = TextParams(model=str(text_model), pretrained=False)
    video = VideoParams(**SMALL_VIT)
    path = str(tmp_path / "model.pth")
    model = FrozenInTime(video, text, projection_dim=16, load_checkpoint=path)
    own = model.state_dict()
    assert all(own[name].equal(value) for name, value in source.state_dict().items())


def test_a_checkpoint_that_does_not_fit_is_an_error_that_lists_the_names(text_model, tmp_path):
    weights = build(text_model).state_dict()
    weights["stray"] = weights.pop("query_token")
    weights["txt_proj.1.bias"] = torch.zeros(3)
    path = tmp_path / "model.pth"
    torch.save(weights, path)
    with pytest.raises(CheckpointError) as caught:
        loaded(text_model, path)
    for text in (
        str(path),
        "missing key: query_token",
        "unexpected key: stray",
        "txt_proj.1.bias: (3,)",
    ):
        assert text in str(caught.value)
    with pytest.raises(CheckpointError, match="unexpected key: ocr_model"):
        loaded(text_model, path, modalities=("vision",))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        loaded(text_model, tmp_path / "nowhere.pth")


def test_inference_settings_are_what_differs_in_the_forward_pass():
    video = VideoParams(pretrained=False, vit_init="mine", time_init="rand", loading="strict")
    text = TextParams(model="some/folder", pretrained=False)
    arguments = {
        "video_params": video,
        "text_params": text,
        "load_checkpoint": "a.pth",
        "load_parts": ("video_model",),
        "ocr_encoder_grad": False,
        "modalities": ("vision", "ocr"),
        "fusion": "attention",
    }
    assert FrozenInTime.inference_settings() == {}
    assert FrozenInTime.inference_settings(**arguments) == {}
    small = VideoParams(arch_config="tiny_patch16_384", depth=3)
    changed = arguments | {"video_params": small, "modalities": ("ocr",), "fusion_heads": 4}
    assert FrozenInTime.inference_settings(**changed) == {
        "video_params.arch_config": "tiny_patch16_384",
        "video_params.depth": 3,
        "modalities": ["ocr"],
        "fusion_heads": 4,
    }
    larger = {"video_params": VideoParams(input_res=112), "load_temporal_fix": "interp"}
    assert FrozenInTime.inference_settings(**larger) == {
        "video_params.input_res": 112,
        "load_temporal_fix": "interp",
    }


def test_a_model_says_what_it_takes_and_starts_without_weights():
    arguments = {"text_params": TextParams(model="x"), "modalities": ("ocr",)}
    given = FrozenInTime.describe_input(**arguments, fusion="attention")
    assert given.tokenizer_name == "x" and given.uses_ocr and not given.uses_vision
    assert (given.frame_size, given.max_frames, given.mean) == (224, 4, None)
    off = FrozenInTime.without_initial_weights(**arguments, load_checkpoint="a.pth")
    assert not off["text_params"].pretrained and off["load_checkpoint"] == ""
