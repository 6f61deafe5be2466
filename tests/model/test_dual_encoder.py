"""DualEncoder on tiny random towers of every family, against what their libraries give."""

import json
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F

import model.registrations  # noqa: F401
from base.batch import Batch, Tokens
from data_loader.collate import lay_out_words
from model.adapters import LoraParams
from model.dual_encoder import DualEncoder, OcrBranch, TemporalParams
from model.open_clip_tower import split_open_clip
from model.towers import OPEN_CLIP, describe_tower, load_tower
from tests.model.small_models import write_text_model
from tests.model.small_towers import FAMILIES, SIZE, write_tower
from utils.errors import UserError

TEXTS = ["a red circle moves on the sign", "sale", "the sign reads casino"]
OCR = [["casino", "exit"], ["sale"], ["exit", "sale", "on"]]
FRAMES = 4


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> dict[str, str]:
    """Family -> name of a tiny tower; read only."""
    return {f: write_tower(tmp_path_factory.mktemp("towers") / f, f) for f in FAMILIES}


def build(tower: str, **options) -> DualEncoder:
    torch.manual_seed(1)
    return DualEncoder(tower, **options).eval()


def tokenize(tower: str, texts: list[str]) -> list[list[int]]:
    if not tower.startswith(OPEN_CLIP):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tower)
        return tokenizer(texts)["input_ids"]
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    ends = tokenizer.sot_token_id, tokenizer.eot_token_id
    return [[ends[0], *tokenizer.encode(text), ends[1]] for text in texts]


def pad(rows: list[list[int]]) -> Tokens:
    """Pad with a token that stands in no text, so that a model which reads padding is seen."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [1] * (length - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Tokens(ids, (torch.arange(length) < lengths[:, None]).long())


def make_batch(tower: str, frames: int = FRAMES, video: Tensor | None = None) -> Batch:
    """Three random videos with the words of ``OCR`` and a query each."""
    distinct = sorted({word for words in OCR for word in words})
    tokens = dict(zip(distinct, tokenize(tower, distinct), strict=True))
    rng = np.random.default_rng(0)
    tracks = [rng.random((len(words), 12), dtype=np.float32) for words in OCR]
    if video is None:
        generator = torch.Generator().manual_seed(0)
        video = torch.randn(len(OCR), frames, 3, SIZE, SIZE, generator=generator)
    return Batch(
        ids=list("abc"),
        video_index=torch.arange(3),
        query=pad(tokenize(tower, TEXTS)),
        query_row=torch.arange(3),
        video=video,
        num_frames=torch.full((3,), video.shape[1]),
        words=lay_out_words(tokens, OCR, tracks, pad_id=1),
    )


def draw_images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(3 * FRAMES)]


def score_by_library(tower: str) -> tuple[Tensor, Tensor]:
    """Return the clips as the library prepares them, and its cosines of texts and clips."""
    images = draw_images()
    if tower.startswith(OPEN_CLIP):
        import open_clip

        source = f"local-dir:{split_open_clip(tower)[0]}"
        model, _, prepare = open_clip.create_model_and_transforms(source)
        model = model.eval()
        from PIL import Image

        pixels = torch.stack([prepare(Image.fromarray(image)) for image in images])
        texts = open_clip.get_tokenizer(source)(TEXTS)
        with torch.no_grad():
            image_vectors = torch.cat([model.encode_image(image[None]) for image in pixels])
            text_vectors = model.encode_text(texts)
        return _compare(pixels, image_vectors, text_vectors)
    model = transformers.AutoModel.from_pretrained(tower).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tower)
    texts = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
    texts = {key: texts[key] for key in ("input_ids", "attention_mask")}
    if model.config.model_type.startswith("siglip"):  # as its page and its processor do
        del texts["attention_mask"]
    with torch.no_grad():
        text_vectors = model.get_text_features(**texts).pooler_output
        if model.config.model_type == "videoprism":
            processor = transformers.AutoVideoProcessor.from_pretrained(tower)
            clips = [np.stack(images[i : i + FRAMES]) for i in range(0, len(images), FRAMES)]
            pixels = processor(clips, return_tensors="pt")["pixel_values_videos"]
            vectors = model.get_video_features(pixel_values_videos=pixels).pooler_output[:, 0]
            return pixels, F.normalize(text_vectors, dim=1) @ F.normalize(vectors, dim=1).T
        processor = transformers.AutoImageProcessor.from_pretrained(tower)
        single = [processor(images=image, return_tensors="pt") for image in images]
        image_vectors = torch.cat([model.get_image_features(**one).pooler_output for one in single])
    if model.config.model_type == "siglip2":  # patches, not pixels
        square = transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2)
        pixels = square(images=images, return_tensors="pt")["pixel_values"]
    else:
        pixels = torch.cat([one["pixel_values"] for one in single])
    return _compare(pixels, image_vectors, text_vectors)


def _compare(pixels: Tensor, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    frames = F.normalize(images, dim=-1).unflatten(0, (3, FRAMES))
    clips = F.normalize(frames.mean(1), dim=-1)
    return pixels.unflatten(0, (3, FRAMES)), F.normalize(texts, dim=-1) @ clips.T


def score(model: DualEncoder, batch: Batch) -> Tensor:
    with torch.no_grad():
        embeds = model(batch)
    text, video = embeds["text"], embeds[model.video_key]
    return F.normalize(text, dim=-1) @ F.normalize(video, dim=-1).T


@pytest.mark.parametrize("modalities", [("vision",), ("vision", "ocr")])
@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_it_is_the_librarys_zero_shot(towers, family, modalities):
    tower = towers[family]
    video, expected = score_by_library(tower)
    model = build(tower, modalities=modalities)
    torch.testing.assert_close(
        score(model, make_batch(tower, video=video)), expected, rtol=0, atol=1e-6
    )
    assert (expected.std() > 1e-3).item()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "videoprism"])
def test_zero_shot_with_a_temporal_transformer_is_the_mean(towers, family):
    tower = towers[family]
    batch = make_batch(tower)
    plain = build(tower, modalities=("vision",))
    temporal = build(
        tower, modalities=("vision",), temporal=TemporalParams(head="transformer", layers=2)
    )
    torch.testing.assert_close(score(temporal, batch), score(plain, batch), rtol=0, atol=1e-6)
    with torch.no_grad():
        temporal.temporal.positions.normal_()
        temporal.temporal.layers.layers[0].linear2.weight.normal_()
    assert (score(temporal, batch) - score(plain, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_query_encoder_apart_is_that_of_the_whole(towers, family, tmp_path):
    tower = towers[family]
    model = build(tower, modalities=("vision",), lora=LORA.get(family))
    _move(model)
    model.merge_adapters()
    batch = make_batch(tower)
    whole = model.embed_queries(batch.query)
    model.tower.save_text_config(tmp_path)
    if not tower.startswith(OPEN_CLIP):
        transformers.AutoTokenizer.from_pretrained(tower).save_pretrained(tmp_path)
    apart = DualEncoder.build_query_encoder(tmp_path, tower=tower).eval()
    weights = model.state_dict()
    apart.load_state_dict({name: weights[name] for name in apart.state_dict()})
    torch.testing.assert_close(apart(batch.query), whole, rtol=1e-6, atol=1e-5)
    assert not any("vis" in name for name in apart.state_dict())
    assert apart(Tokens(torch.zeros(0, 4, dtype=int), torch.zeros(0, 4, dtype=int))).shape == (
        0, whole.shape[1],
    )  # fmt: skip


LORA = {
    family: LoraParams(rank=2, match=("*q_proj.weight",))
    for family in ("clip", "metaclip_2", "siglip", "siglip2")
} | {family: LoraParams(rank=2, match=("*in_proj_weight",)) for family in ("open_clip",)}


def _move(model: DualEncoder) -> None:
    """Change every weight that is trained, as a step does."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("residual", [True, False])
def test_every_trained_weight_gets_a_gradient(towers, family, residual):
    model = build(towers[family], ocr=OcrBranch(residual=residual)).train()
    _move(model)  # behind a gate that is shut nothing is reached
    batch = make_batch(towers[family])
    embeds = model(batch)
    similarity = F.normalize(embeds["text"], dim=-1) @ F.normalize(embeds["fusion"], dim=-1).T
    similarity.log_softmax(1).diagonal().sum().backward()
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    silent = {
        name for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    }  # fmt: skip
    assert not silent


@pytest.mark.parametrize("family", FAMILIES)
def test_words_and_queries_do_not_depend_on_padding_or_order(towers, family):
    tower = towers[family]
    model, batch = build(tower), make_batch(tower)
    distinct = sorted({word for words in OCR for word in words})
    rows = tokenize(tower, distinct)
    with torch.no_grad():
        packed = F.normalize(model.tower.encode_words(batch.words), dim=-1)
        single = {
            word: model.encode_words(pad([ids]))[0]
            for word, ids in zip(distinct, rows, strict=True)
        }
    order = sorted(distinct, key=lambda word: len(rows[distinct.index(word)]))
    for word, vector in zip(order, packed, strict=True):
        torch.testing.assert_close(vector, single[word], rtol=0, atol=2e-6)


def test_siglip_pads_with_its_tokenizers_token(towers):
    model = load_tower(towers["siglip"], pretrained=True)
    assert model.text_config.pad_token_id == 0  # its configuration says 1


def test_padding_frames_do_not_count(towers):
    for family in ("clip", "videoprism"):
        model, batch = build(towers[family], modalities=("vision",)), make_batch(towers[family])
        short = make_batch(towers[family], video=batch.video[:, :2])
        batch.num_frames = torch.tensor([2, 2, 2])
        batch.video[:, 2:] = 7.0
        torch.testing.assert_close(score(model, batch), score(model, short), rtol=0, atol=1e-6)


def test_frames_in_chunks_are_those_at_once(towers):
    batch = make_batch(towers["clip"])
    models = [build(towers["clip"], modalities=("vision",), frames_at_once=n) for n in (None, 5, 1)]
    with torch.no_grad():
        frames = [model.embed_frames(batch) for model in models]
    assert frames[0].shape == (3, FRAMES, 24)
    for other in frames[1:]:
        torch.testing.assert_close(other, frames[0], rtol=0, atol=1e-6)
    others = {"videoprism": {"modalities": ("vision",)}, "clip": {"ocr": OcrBranch(residual=False)}}
    for family, options in others.items():
        with pytest.raises(UserError, match="as a whole"):
            build(towers[family], **options).embed_frames(batch)


@pytest.fixture
def fused(towers) -> tuple[DualEncoder, Batch]:
    """A fusing model whose gate is open, and its batch."""
    model = build(towers["clip"])
    with torch.no_grad():
        model.gate.proj.weight.normal_()
        model.query_token.normal_()
    return model, make_batch(towers["clip"])


def test_videos_and_frames_are_embedded_with_the_tower_run_once(fused, towers, monkeypatch):
    batch = fused[1]
    batch.num_frames = torch.tensor([FRAMES, 2, 1])
    for encoder in (fused[0], build(towers["siglip"], modalities=("vision",))):
        with torch.no_grad():
            wanted = encoder.embed_videos_apart(batch), encoder.embed_frames(batch)
            encode = Mock(side_effect=encoder.tower.encode_images)
            monkeypatch.setattr(encoder.tower, "encode_images", encode)
            found = encoder.embed_videos_and_frames(batch)
        assert encode.call_count == 1 and found[0].keys() == wanted[0].keys()
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_each_modality_alone(fused):
    """Without words the fusion layer sees the frames alone, without frames the words."""
    model, batch = fused
    with torch.no_grad():
        apart, attention = model.examine_fusion(batch)
        whole = model.embed_videos(batch)["fusion"]
        batch.video = None
        words_only = model.embed_videos(batch)
    torch.testing.assert_close(apart["whole"], whole)
    assert set(words_only) == {"fusion"}
    torch.testing.assert_close(apart["vision"], words_only["fusion"])
    assert not torch.allclose(apart["ocr"], whole) and not torch.allclose(apart["vision"], whole)
    assert attention.shape == (3, 2 + 3)  # query token, video, the longest video's words
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    assert attention[1, 3:].eq(0).all()  # the second video has one word


def test_words_change_the_fused_embedding_of_their_video_only(fused):
    model, batch = fused
    with torch.no_grad():
        before = model.embed_videos(batch)["fusion"]
        batch.words.index[0, 0] = batch.words.index[1, 0]
        after = model.embed_videos(batch)["fusion"]
    assert not torch.allclose(after[0], before[0], atol=1e-4)
    torch.testing.assert_close(after[1:], before[1:])


def test_modalities_are_also_embedded_alone_in_training(fused):
    model, batch = fused
    model.request_unimodal_embeds(["vision", "ocr"])
    apart = model.embed_videos_apart(batch)
    embeds = model.train().embed_videos(batch)
    torch.testing.assert_close(embeds["only_vision"], apart["ocr"])
    torch.testing.assert_close(embeds["only_ocr"], apart["vision"])


def test_words_that_are_known_are_not_encoded_again(fused, monkeypatch):
    model, batch = fused
    with torch.no_grad():
        expected = model.embed_videos(batch)["fusion"]
        vectors = model._encode_distinct_words(batch.words)
        batch.words.vectors = vectors
        monkeypatch.setattr(model.tower, "encode_words", None)
        torch.testing.assert_close(model.embed_videos(batch)["fusion"], expected)


def test_words_of_an_encoder_of_their_own(towers, tmp_path):
    encoder = write_text_model(tmp_path, "distilbert")
    model = build(towers["clip"], ocr=OcrBranch(encoder=str(encoder)))
    wanted = DualEncoder.describe_input(towers["clip"], ocr=OcrBranch(encoder=str(encoder)))
    assert (wanted.tokenizer_name, wanted.word_tokenizer_name) == (towers["clip"], str(encoder))
    batch = make_batch(towers["clip"])
    with torch.no_grad():
        packed = model._encode_distinct_words(batch.words)
        ids = batch.words.input_ids
        single = model.encode_words(Tokens(ids, (ids != 1).long()))
    torch.testing.assert_close(packed, single, rtol=0, atol=1e-6)
    assert not model.frozen_word_encoder
    assert {"ocr", "fusion", "text", "vision"} == set(model.list_branches())


def test_branches_are_the_sides_of_the_tower(towers):
    for family in FAMILIES:
        model = build(towers[family], modalities=("vision",))
        branches = model.list_branches()
        named = dict(model.named_parameters())
        texts = {n for n, w in named.items() if any(w is t for t in branches["text"])}
        assert set(branches) == {"text", "vision"}
        assert texts and all("text" in name for name in texts)


def test_reading_alone_needs_no_vision_side(towers):
    model, batch = build(towers["clip"], modalities=("ocr",)), make_batch(towers["clip"])
    assert not any("vis" in name for name in model.state_dict())
    batch.video = None
    with torch.no_grad():
        found = model.embed_videos(batch)["fusion"]
        words = F.normalize(model.tower.encode_words(batch.words), dim=-1)
    shown = batch.words.index[1, 0]  # a video of one word is that word, untrained
    torch.testing.assert_close(found[1], words[shown], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_follows_float32(towers, family):
    model, batch = build(towers[family]), make_batch(towers[family])
    expected = score(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = score(model, batch)
    assert (found - expected).abs().max() < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_gradients(towers, family):
    grads = []
    for recompute in (False, True):
        model, batch = build(towers[family]).train(), make_batch(towers[family])
        if recompute:
            model.recompute_activations()
        embeds = model(batch)
        (embeds["text"] @ embeds["fusion"].T).square().sum().backward()
        grads.append([w.grad for w in model.parameters() if w.grad is not None])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
def test_a_compiled_tower_gives_the_same(towers, family):
    torch._dynamo.reset()
    model, batch = build(towers[family]), make_batch(towers[family])
    names, expected = list(model.state_dict()), score(model, batch)
    model.compile_encoders("aot_eager")
    torch.testing.assert_close(score(model, batch), expected, rtol=0, atol=1e-5)
    assert list(model.state_dict()) == names
    assert counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()


def test_a_tower_of_unknown_pooling_is_refused(tmp_path):
    write_text_model(tmp_path, "bert")
    with pytest.raises(UserError, match=r'is a "bert" model, and how one turns images'):
        load_tower(str(tmp_path), pretrained=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "must hold config.json and"),
        (lambda f: (f / "config.json").write_text("{}"), "must hold config.json"),
        (lambda f: (f / "config.json").unlink(), "must hold config.json"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, change, said):
    folder = tmp_path / "tower"
    write_tower(folder, "clip")
    change(folder)
    with pytest.raises(UserError) as caught:
        load_tower(str(folder), pretrained=True)
    assert str(folder) in str(caught.value) and said in str(caught.value)


def test_weights_of_other_sizes_are_refused(tmp_path):
    folder = tmp_path / "tower"
    write_tower(folder, "clip")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"do not fit its config\.json: .*fc1"):
        load_tower(str(folder), pretrained=True)


def test_open_clip_names(monkeypatch):
    taken = describe_tower("open_clip:PE-Core-B-16")
    assert (taken.frame_size, taken.resize, taken.max_tokens) == (224, "square", 32)
    quick = describe_tower("open_clip:ViT-B-32/openai")
    assert quick.resize == "shorter_side" and quick.interpolation == "bicubic"
    for name, said in (
        ("open_clip:PE-Core-B-61", "did you mean"),
        ("open_clip:PE-Core-B-16/mata", 'did you mean "meta"'),
        ("open_clip:ViT-B-32", "name one"),
    ):
        with pytest.raises(UserError, match=said):
            describe_tower(name)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        describe_tower("open_clip:PE-Core-B-16")
