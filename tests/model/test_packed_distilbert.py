"""DistilBERT with the project's layers beside transformers' own, of the same weights."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DistilBertConfig, DistilBertModel

from base.batch import Words
from model.packed_distilbert import encode_packed, use_packed_layers
from model.text_encoder import encode_words
from tests.model.kernels_on_cpu import make_stand_ins, use_kernels_on_cpu

GROUPS = ((3, 4), (5, 1), (6, 2))


@pytest.fixture
def models():
    """Transformers' own of three layers, and one with the project's layers."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 40}
    config = DistilBertConfig(**sizes, initializer_range=0.3)
    plain, own = DistilBertModel(config).double().eval(), DistilBertModel(config).double().eval()
    own.load_state_dict(plain.state_dict())
    names = list(own.state_dict())
    use_packed_layers(own)
    assert list(own.state_dict()) == names
    return plain, own


def words() -> Words:
    count, most = sum(n for _, n in GROUPS), GROUPS[-1][0]
    ids = torch.randint(5, 50, (count, most), generator=torch.Generator().manual_seed(1))
    return Words(ids, GROUPS, index=None, mask=None, tracks=None)


def with_gradients(model, encode):
    model.zero_grad()
    vectors = encode()
    vectors.square().sum().backward()
    return [vectors.detach()] + [weight.grad.clone() for weight in model.parameters()]


def one_by_one(model):
    given, found, start = words(), [], 0
    for length, count in GROUPS:
        for row in given.input_ids[start : start + count]:
            found.append(model(input_ids=row[None, :length]).last_hidden_state[:, 0])
        start += count
    return torch.cat(found)


def test_texts_end_to_end_are_those_of_transformers_one_by_one(models):
    plain, own = models
    expected = with_gradients(plain, lambda: one_by_one(plain))
    found = with_gradients(own, lambda: encode_words(own, words()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_padded_texts_are_those_of_transformers(models):
    plain, own = models
    ids = words().input_ids
    mask = (torch.arange(6) < torch.tensor([3, 3, 3, 3, 5, 6, 6])[:, None]).long()
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        found = own(input_ids=ids, attention_mask=mask).last_hidden_state
    assert found.shape == (7, 1, 24)  # the others are not computed
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-10, atol=1e-10)


def test_dropout_is_that_of_the_configuration(models):
    own = models[1].train()
    given = words()

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encode_packed(own, given.input_ids, GROUPS)

    assert torch.equal(drawn(1), drawn(1)) and not torch.allclose(drawn(1), drawn(2))
    for part in own.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    torch.testing.assert_close(drawn(1), encode_words(own.eval(), given))


class CountLaunches(TorchDispatchMode):
    """Counts operations that a GPU would be asked for: all but views and empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in results)
        self.count += not is_view and "empty" not in operation.name()
        return operation(*args, **(kwargs or {}))


def test_words_of_any_lengths_are_few_launches(monkeypatch):
    """As many operations for forty lengths as for three, though they are too small to fill a GPU.

    Counted are those of the host's bookkeeping, too.
    """
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "dim": 24, "n_layers": 6, "n_heads": 4, "hidden_dim": 40}
    model = DistilBertModel(DistilBertConfig(**sizes)).train()
    use_packed_layers(model)
    counts = []
    for num_lengths in (3, 40):
        kernels = make_stand_ins()
        use_kernels_on_cpu(monkeypatch, kernels)
        groups = tuple((length, 2) for length in range(2, 2 + num_lengths))
        ids = torch.randint(5, 50, (2 * num_lengths, groups[-1][0]))
        with CountLaunches() as launches, torch.autocast("cpu", torch.bfloat16):
            vectors = encode_packed(model, ids, groups)
        assert vectors.shape == (2 * num_lengths, 24)
        counts.append(launches.count + kernels.calls["texts"])
    assert 6 * 10 < counts[0] == counts[1] <= 200, counts
