"""Which queries a report shows, and how the fusion layer attends in their videos."""

import numpy as np
import pytest
import torch
from torch import nn

from base.batch import Batch, SampleKey
from evaluation.examples import (
    choose_best_and_worst,
    compute_margins,
    compute_word_attention,
    count_similarities,
    rank_top_videos,
)
from model.fusion import FusionAttention
from model.text_encoder import encode_words
from tests.conftest import MakeConfig
from tests.evaluation.scored_matrices import queries, random_case
from trainer.build import build_loader, build_model

CPU = torch.device("cpu")


def attend_by_hand(layer: FusionAttention, tokens: torch.Tensor) -> list[float]:
    """The first token's attention (S,), head by head, in float64 without a library's softmax."""
    dim = tokens.shape[-1] // layer.num_heads
    query = layer.query(tokens[:1])[0].detach().double().numpy()
    keys = layer.key(tokens).detach().double().numpy()
    total = np.zeros(len(tokens))
    for head in range(layer.num_heads):
        part = slice(head * dim, (head + 1) * dim)
        powers = np.exp(keys[:, part] @ query[part] / dim**0.5)
        total += powers / powers.sum()
    return (total / layer.num_heads).tolist()


def test_attention_equals_a_computation_by_hand_and_leaves_out_padding():
    torch.manual_seed(0)
    layer, tokens = FusionAttention(24, 4), 3 * torch.randn(2, 6, 24)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    found = layer.attention(tokens, mask)
    assert found[0].tolist() == pytest.approx(attend_by_hand(layer, tokens[0]), abs=1e-6)
    assert found[1, :4].tolist() == pytest.approx(attend_by_hand(layer, tokens[1, :4]), abs=1e-6)
    assert found[1, 4:].tolist() == [0, 0]
    assert found.max() > 0.3  # not flat, so that an order of tokens shows


def test_attention_is_that_of_the_forward_pass():
    """With one head the output is the values, weighted by the attention."""
    torch.manual_seed(1)
    layer, tokens = FusionAttention(16, 1), 2 * torch.randn(3, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 3 + [False] * 2])
    weighted = torch.einsum("bs,bsd->bd", layer.attention(tokens, mask), layer.value(tokens))
    assert torch.allclose(layer(tokens, mask), weighted, atol=1e-6)


def sharpen(model: nn.Module) -> nn.Module:
    """Give the model far larger fusion weights, so that its attention is not flat."""
    with torch.no_grad():
        for weight in (model.fusion_model.query.weight, model.fusion_model.key.weight):
            weight.mul_(12)
        model.query_token.normal_()
    return model.eval()


@torch.no_grad()
def tokens_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The fusion layer's tokens (S, D) of a batch of one video, from the paper's description."""
    words = encode_words(model.ocr_model, batch.words)[batch.words.index[0]]
    if not model.uses_vision:
        return torch.cat((model.query_token, words))
    video = model.video_to_fusion(model.video_model(batch.video))
    words = words + model.ocr_pos_embeds(batch.words.tracks[0])
    types = model.type_embedding.weight
    return torch.cat((model.query_token + types[0], video + types[1], words + types[2]))


@pytest.mark.parametrize("kind", ["fusion", "ocr"])
def test_each_word_has_its_own_attention(make_config: MakeConfig, kind: str):
    config = make_config(kind=kind)
    loader = build_loader(config, 0, training=False, split="test")
    model = sharpen(build_model(config, CPU))
    model.train()

    def collate(samples):
        return loader.to_device(loader.batches.collate_fn(samples), CPU)

    videos = list(range(len(loader.dataset.entries)))[::-1]
    found = compute_word_attention(model, loader.dataset, videos, collate)
    assert model.training
    assert list(found) == videos
    lengths = set()
    model.eval()
    batch = collate([loader.dataset[SampleKey(0, video)] for video in videos[:2]])
    with torch.no_grad():
        shares = model.attend_to_words(batch)
    assert shares[:, 0].tolist() == pytest.approx([found[v].query_token for v in videos[:2]])
    assert shares.sum(1).tolist() == pytest.approx([1, 1])
    for video, attention in found.items():
        sample = loader.dataset[SampleKey(0, video)]
        expected = attend_by_hand(model.fusion_model, tokens_of(model, collate([sample])))
        own = [attention.query_token, *attention.shares]
        own[1:1] = [] if attention.video is None else [attention.video]
        assert sum(own) == pytest.approx(1, abs=1e-6)
        assert own == pytest.approx(expected, abs=1e-5)
        assert attention.words == tuple(sample.words)
        assert (attention.video is None) == (kind == "ocr")
        lengths.add(len(attention.words))
    assert len(lengths) > 1  # so that there was padding
    assert max(max(item.shares) - min(item.shares) for item in found.values()) > 0.02


def test_a_video_without_words_has_the_empty_words_share(make_config: MakeConfig):
    config = make_config('data_loader.args.ocr_params={"min_length": 99}')
    loader = build_loader(config, 0, training=False, split="test")
    model = build_model(config, CPU).eval()
    found = compute_word_attention(
        model,
        loader.dataset,
        [3],
        lambda samples: loader.to_device(loader.batches.collate_fn(samples), CPU),
    )
    assert found[3].words == () and len(found[3].shares) == 1
    assert found[3].query_token + found[3].video + found[3].shares[0] == pytest.approx(1)


def test_a_model_without_fusion_layer_has_no_attention(make_config: MakeConfig):
    config = make_config(kind="vision")
    loader = build_loader(config, 0, training=False, split="test")
    collate = loader.batches.collate_fn
    assert compute_word_attention(build_model(config, CPU), loader.dataset, [0], collate) == {}


def test_best_and_worst_go_by_rank_then_by_margin():
    ranks, margin = np.array([1, 1, 3, 9, 3, 1]), np.array([0.1, 0.5, -0.1, -0.9, -0.3, 0.5])
    captions = ["a", "b", "c", "d", "e", "B "]  # b and B are equal
    assert choose_best_and_worst(ranks, margin, captions, 2) == ([1, 0], [3, 4])
    assert choose_best_and_worst(ranks, margin, captions, 9) == ([1, 0, 2], [3, 4])
    assert choose_best_and_worst(np.array([1]), np.array([0.0]), ["a"], 9) == ([0], [])


@pytest.mark.parametrize("seed", range(4))
def test_margins_tops_and_histogram_equal_loops(seed: int):
    matrix, found = random_case(seed)
    margin = compute_margins(matrix, found.video_of_query)
    equal = set(zip(*(part.tolist() for part in found.get_equal_caption_pairs()), strict=True))
    histogram = count_similarities(matrix, found, bins=6)
    counts = {"right": [0] * 6, "wrong": [0] * 6}
    for row, own in enumerate(found.video_of_query):
        others = [score for column, score in enumerate(matrix[row]) if column != own]
        assert margin[row] == matrix[row, own] - max(others)
        order = sorted(range(len(matrix[row])), key=lambda column: -matrix[row, column])
        assert rank_top_videos(matrix[row]) == order[:5]
        for column, score in enumerate(matrix[row]):  # scores are 0 … 5, bins 5 / 6 wide
            counts["right" if (row, column) in equal else "wrong"][int(score)] += 1
    assert {name: histogram[name] for name in counts} == counts
    assert histogram["edges"] == pytest.approx([5 / 6 * edge for edge in range(7)])


def test_one_video_and_equal_scores_are_no_error():
    alone = queries(["a", "b"], [0, 0])
    matrix = np.full((2, 1), 0.25, np.float32)
    assert compute_margins(matrix, alone.video_of_query).tolist() == [np.inf, np.inf]
    assert sum(count_similarities(matrix, alone)["right"]) == 2
