"""DualEncoder on tiny random towers of every family, against what their libraries give."""

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

import model.registrations  # noqa: F401
from base.batch import Batch, Tokens
from data_loader.collate import lay_out_words
from model.adapters import LoraParams
from model.dual_encoder import DualEncoder, OcrBranch, TemporalParams
from model.open_clip_tower import split_open_clip
from model.towers import OPEN_CLIP, load_tower
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
    with pytest.raises(UserError, match="as a whole"):
        build(towers["videoprism"], modalities=("vision",)).embed_frames(batch)
