"""Parts of one's own: each is one class and one registration, and is built and trained."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig

from base.criterion import Criterion
from base.registry import FUSIONS, LOSSES, METRICS, TEXT_ENCODERS, VIDEO_ENCODERS, UnknownNameError
from model.loss import NormSoftmaxLoss
from model.params import VideoParams
from model.text_encoder import TextEncoder
from tests.model.small_models import build, make_batch, write_text_model
from utils.errors import UserError

TEXTS = [["one", "long", "two"], ["longer"], ["two", "one"]]


class GatedMean(nn.Module):
    """A fusion: the mean of the gated tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        gated = tokens * self.gate(tokens).sigmoid() * mask[..., None]
        return gated.sum(1) / mask.sum(1, keepdim=True)


class FrameMean(nn.Module):
    """A video encoder: a convolution, and the mean over places and frames."""

    embed_dim = 12

    def __init__(self, params: VideoParams) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.embed_dim, params.patch_size)

    def forward(self, video: Tensor) -> Tensor:
        return (
            self.conv(video.flatten(0, 1)).relu().mean((2, 3)).unflatten(0, video.shape[:2]).mean(1)
        )


class BagOfWordsConfig(PreTrainedConfig):
    model_type = "bag_of_words"
    hidden_size = 20
    vocab_size = 50


class BagOfWords(nn.Module):
    """A text model that is none of transformers'."""

    dtype = torch.float32

    def __init__(self, config: BagOfWordsConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


class MeanOfTokens(TextEncoder):
    """A text encoder: the mean over the tokens."""

    model_class = BagOfWords

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.run(input_ids, attention_mask).last_hidden_state
        return (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)


class OwnSigmoidLoss(Criterion):
    """A loss that learns its scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def compute_logits(self, similarity: Tensor) -> Tensor:
        return similarity * self.log_scale.exp() + self.bias

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor) -> Tensor:
        sign = 2 * torch.eye(len(similarity), device=similarity.device) - 1
        return -F.logsigmoid(sign * self.compute_logits(similarity)).sum(1).mean()


class MultiPositiveLoss(Criterion):
    """A loss whose positives are all videos of equal captions."""

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor) -> Tensor:
        equal = caption_ids[:, None] == caption_ids
        logits = similarity / 0.05
        return (logits.logsumexp(1) - logits.masked_fill(~equal, -torch.inf).logsumexp(1)).mean()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The parts of this file, registered for one test."""
    for registry in (FUSIONS, VIDEO_ENCODERS, TEXT_ENCODERS, LOSSES, METRICS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    FUSIONS.register("GatedMean")(GatedMean)
    VIDEO_ENCODERS.register("FrameMean")(FrameMean)
    TEXT_ENCODERS.register("bag_of_words")(MeanOfTokens)
    LOSSES.register("OwnSigmoidLoss")(OwnSigmoidLoss)
    LOSSES.register("MultiPositiveLoss")(MultiPositiveLoss)
    METRICS.register("top1", keys=("top1",))(lambda similarity, video_of_query: {"top1": 0.0})


def step(model, batch, criterion) -> float:
    embeds = model(batch)
    ids = batch.query.hash_texts()
    loss, logits = criterion(embeds["text"], embeds[model.video_key], ids)
    loss.backward()
    assert logits.shape == (3, 3) and not logits.requires_grad
    return loss.item()


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("fusion_model", {"fusion": "GatedMean"}),
        ("video_model", {"video": {"model": "FrameMean"}}),
        ("video_model", {"video": {"model": "FrameMean"}, "modalities": ("vision",)}),
    ],
)
def test_a_fusion_and_a_video_encoder_are_trained(part, options, tmp_path):
    model = build(write_text_model(tmp_path), **options).train()
    batch = make_batch(TEXTS)
    assert step(model, batch, NormSoftmaxLoss()) > 0
    own = dict(getattr(model, part).named_parameters())
    assert own and all(weight.grad.abs().sum() > 0 for weight in own.values())
    idle = [w for w in model.parameters_without_gradient()]
    assert all(w.grad is not None for w in model.parameters() if not any(w is i for i in idle))
    apart = model.embed_videos_apart(batch)
    if "ocr" in options.get("modalities", ("ocr",)):
        assert apart.keys() == {"whole", "vision", "ocr"}
        assert not apart["whole"].allclose(apart["ocr"])
    has_attention = part == "video_model" and model.uses_ocr
    assert (model.attend_to_words(batch) is not None) == has_attention


def test_a_text_encoder_of_ones_own_is_trained(tmp_path):
    AutoConfig.register("bag_of_words", BagOfWordsConfig, exist_ok=True)
    BagOfWordsConfig().save_pretrained(tmp_path)
    model, batch = build(tmp_path, fusion_heads=4).train(), make_batch(TEXTS)
    assert step(model, batch, NormSoftmaxLoss()) > 0
    for text_model in (model.text_model, model.ocr_model):
        assert text_model.embedding.weight.grad.abs().sum() > 0
    queries = batch.query
    apart = model.embed_queries(queries)
    encoder = type(model).build_query_encoder(text_folder=tmp_path, projection_dim=16)
    encoder.load_state_dict({n: model.state_dict()[n] for n in encoder.state_dict()})
    assert encoder(queries).equal(apart)


def test_a_loss_trains_its_own_parameters(tmp_path):
    model, criterion = build(write_text_model(tmp_path)).train(), LOSSES.get("OwnSigmoidLoss")()
    step(model, make_batch(TEXTS), criterion)
    assert all(weight.grad.abs() > 0 for weight in criterion.parameters())
    assert criterion.state_dict().keys() == {"log_scale", "bias"}


def test_a_loss_sees_which_captions_are_equal(tmp_path):
    model, batch = build(write_text_model(tmp_path)), make_batch(TEXTS)
    criterion = LOSSES.get("MultiPositiveLoss")()
    before = step(model, batch, criterion)
    batch.query.input_ids[2] = batch.query.input_ids[0]  # the first and the third: equal captions
    ids = batch.query.hash_texts()
    similarity = torch.tensor([[0.9, 0.1, 0.8], [0.2, 0.7, 0.1], [0.8, 0.0, 0.9]])
    expected = [((s / 0.05).logsumexp(0) - (s[p] / 0.05).logsumexp(0)).item()
                for s, p in zip(similarity, ([0, 2], [1], [0, 2]), strict=True)]  # fmt: skip
    found = criterion.compute_loss(similarity, ids).item()
    assert found == pytest.approx(sum(expected) / 3, rel=1e-4) and before > 0


def test_metrics_declare_their_keys():
    assert METRICS.entry("top1").keys == ("top1",)


def test_a_video_encoder_without_checkpointing_says_so(tmp_path):
    model = build(write_text_model(tmp_path), {"model": "FrameMean"})
    with pytest.raises(UserError, match=r"trainer\.activation_checkpointing: the video encoder Fr"):
        model.recompute_activations()
    weights = {"video_model.pos_embed": torch.ones(1, 8, 32)}
    assert model.adapt_weights(weights) == (weights, [])  # the ViT's affair


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    folder = write_text_model(tmp_path)
    with pytest.raises(UnknownNameError, match='unknown fusion "atention"; did you mean "attent'):
        build(folder, fusion="atention")
    with pytest.raises(UnknownNameError, match='unknown video encoder .*"SpaceTimeTransformer"'):
        build(folder, {"model": "SpaceTimeTransfomer"})
