"""Linear layers in 8-bit integers: near to float32, for every family of text models."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from base.batch import Tokens
from base.registry import TEXT_ENCODERS
from model.int8_linear import Int8Weight, is_int8_usable, quantize_linears
from model.text_encoder import encode_tokens, load_text_model
from tests.model.test_text_families import config_of, tokens_of

pytestmark = pytest.mark.skipif(not is_int8_usable(), reason="needs an x86 CPU")

WIDTH, HIDDEN = 64, 160


def use_realistic_weights(model: nn.Module, num_outliers: int = 0) -> nn.Module:
    """Draw weights as trained models have them; some channels of each norm are very large."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                noise = torch.randn(weight.shape, generator=generator)
                if isinstance(module, nn.LayerNorm) and name == "weight":
                    weight.copy_(1 + 0.1 * noise)
                    weight[torch.randperm(len(weight), generator=generator)[:num_outliers]] *= 15
                elif isinstance(module, nn.Embedding):
                    weight.copy_(0.3 * noise)
                else:
                    weight.copy_(noise * (0.05 if weight.dim() == 1 else weight.shape[-1] ** -0.5))
    return model.eval()


def find_least_cosine(found, expected) -> float:
    return float(F.cosine_similarity(found.double(), expected.double()).min())


def make_texts(count: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 15, (count,), generator=generator).tolist()
    texts = [torch.randint(4, 50, (length,), generator=generator).tolist() for length in lengths]
    return [[2, *text, 3] for text in texts]


def test_outputs_are_near_and_do_not_depend_on_other_rows():
    torch.manual_seed(0)
    layer, x = nn.Linear(WIDTH, HIDDEN), torch.randn(5, 7, WIDTH)
    expected = layer(x)
    returned = quantize_linears(layer, lambda: layer(x))
    assert returned.equal(expected) and isinstance(layer.weight, Int8Weight)
    with torch.inference_mode():
        found = layer(x)
        assert found.shape == expected.shape
        assert 1e-4 < (found - expected).norm() / expected.norm() < 0.02
        alone = torch.stack([layer(row) for row in x[2]])
        torch.testing.assert_close(alone, found[2])
        torch.testing.assert_close(layer(torch.cat([x, 100 * x]))[:5], found)
        assert layer(x[:0]).shape == (0, 7, HIDDEN)


def test_large_channels_leave_something_of_the_others():
    torch.manual_seed(0)
    x = torch.randn(200, WIDTH)
    x[:, :2] *= 100
    errors = []
    for samples in (x[:100], torch.ones(1, WIDTH)):  # the second says nothing of channels
        layer = nn.Linear(WIDTH, HIDDEN)
        layer.weight.data[:, :2] /= 100
        expected = layer(x)
        quantize_linears(layer, lambda layer=layer, samples=samples: layer(samples))
        with torch.inference_mode():
            errors.append(float((layer(x) - expected).norm() / expected.norm()))
    assert errors[0] < 0.05 < errors[1] / 2


class Parts(nn.Module):
    """A layer that is used twice, one that samples leave out, and attention of torch's own."""

    def __init__(self):
        super().__init__()
        self.twice, self.unused = nn.Linear(8, 8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, other=False):
        x = self.twice(self.twice(x))
        x = self.attention(x, x, x)[0]
        return self.unused(x) if other else x


def test_what_samples_do_not_use_stays_in_float32():
    torch.manual_seed(0)
    model, x = Parts().eval(), torch.randn(3, 5, 8)
    expected, others = model(x), model(x, other=True)
    model.unused.half()  # as they are kept
    assert quantize_linears(model, lambda: model(x)).equal(expected)
    assert isinstance(model.twice.weight, Int8Weight)
    assert model.unused.weight.dtype == torch.float32 and len([*model.unused.parameters()]) == 2
    assert isinstance(model.attention.out_proj.weight, nn.Parameter)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, atol=0.05, rtol=0.05)
        model.unused.float()
        torch.testing.assert_close(model(x, other=True), others, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", TEXT_ENCODERS.names())
def test_every_family_is_near_float32_alone_and_in_a_batch(kind, tmp_path):
    config = config_of(kind)
    config.save_pretrained(tmp_path)
    model = use_realistic_weights(load_text_model(str(tmp_path), pretrained=False))
    pad_id = model.config.pad_token_id
    samples = tokens_of(make_texts(8, seed=1), 17, pad_id)
    texts = make_texts(30, seed=2)
    given = tokens_of(texts, 17, pad_id)
    with torch.inference_mode():
        expected = encode_tokens(model, given)
        before = encode_tokens(model, samples)
        torch.testing.assert_close(
            quantize_linears(model, lambda: encode_tokens(model, samples)), before
        )
        found = encode_tokens(model, given)
        alone = [encode_tokens(model, tokens_of([text], len(text), pad_id)) for text in texts]
    assert not found.equal(expected)
    assert find_least_cosine(found, expected) > 0.99
    assert find_least_cosine(torch.cat(alone), found) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distilbert", "clip_text_model"])
def test_a_text_model_of_full_size_is_near_float32(kind, tmp_path):
    from transformers import CLIPTextConfig, DistilBertConfig

    configs = {"distilbert": DistilBertConfig(), "clip_text_model": CLIPTextConfig()}
    configs[kind].save_pretrained(tmp_path)
    model = use_realistic_weights(load_text_model(str(tmp_path), pretrained=False), 3)
    ids = torch.randint(1000, 30000, (24, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 101, model.config.eos_token_id or 102
    tokens, mask = ids, torch.ones_like(ids)
    with torch.inference_mode():
        expected = encode_tokens(model, Tokens(tokens, mask))
        quantize_linears(model, lambda: encode_tokens(model, Tokens(tokens[:8], mask[:8])))
        found = encode_tokens(model, Tokens(tokens, mask))
    assert find_least_cosine(found, expected) > 0.99
