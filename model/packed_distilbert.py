"""DistilBERT layers for packed texts: texts of any lengths laid end to end, none of them padded.

Shapes: M tokens of all texts, N texts, D width, H heads, C channels a head; a group is n texts of
T tokens each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from model.grouped_attention import Layer, is_kernel_usable
from model.half_precision import cast_for_autocast, cast_together

if TYPE_CHECKING:
    from transformers import DistilBertModel

Groups = tuple[tuple[int, int], ...]  # (T, n) of each


@dataclass(frozen=True)
class Texts:
    """Which tokens are a text.

    Attributes:
        groups: runs of equally long texts, with their padding where they have some.
        bounds: (2, M) int32 on a GPU, where each token's text begins, and where it ends without its
            padding: by them all texts go through one operation. None: each group is one.
        first: (N,) int64 beside ``bounds``, the first token of each text.
    """

    groups: Groups
    bounds: Tensor | None = None
    first: Tensor | None = None


class PackedLayer(nn.Module):
    """A replacement of transformers' DistilBERT layer, with its weights and their names.

    Only attention has to know where a text ends: everything else is computed for the tokens of all
    texts at once. ``first_only``, for the last layer, returns only the first token of each text.
    """

    def __init__(self, layer: nn.Module, first_only: bool) -> None:
        super().__init__()
        self.attention = layer.attention
        self.sa_layer_norm = layer.sa_layer_norm
        self.ffn = layer.ffn
        self.output_layer_norm = layer.output_layer_norm
        self.first_only = first_only
        self.activation_checkpointing = False
        self.train(layer.training)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        texts: Texts | None = None,
        **_: object,
    ) -> Tensor:
        """Take padded texts (N, T, D), or packed ones (1, M, D) with ``texts``.

        The mask of padded texts is (N, 1, T or 1, T), bool or added to the scores; it is not used
        where ``texts`` has bounds. The result has the same form; of the last layer (N, 1, D) or
        (1, N, D), the first tokens.
        """
        count, length = hidden_states.shape[:2]
        if texts is None:
            texts = Texts(((length, count),))
        mask = attention_mask
        if mask is not None and self.first_only:
            mask = mask[:, :, :1]
        inputs = hidden_states.flatten(0, 1), texts, mask
        if self.activation_checkpointing and torch.is_grad_enabled():
            out = checkpoint(self._compute, *inputs, use_reentrant=False)
        else:
            out = self._compute(*inputs)
        return out.unflatten(0, (count, -1))

    def _compute(self, x: Tensor, texts: Texts, mask: Tensor | None) -> Tensor:
        """(M, D) -> the same; of the last layer (N, D)."""
        layer, ffn = self.attention, self.ffn
        parts = (
            layer.q_lin, layer.k_lin, layer.v_lin, layer.out_lin, self.sa_layer_norm,
            ffn.lin1, ffn.lin2, self.output_layer_norm,
        )  # fmt: skip
        x = cast_for_autocast(x)
        cast = cast_together([w for part in parts for w in (part.weight, part.bias)])
        weights = LayerWeights(*zip(cast[::2], cast[1::2], strict=True))
        settings = LayerSettings(
            layer.n_heads, self.sa_layer_norm.eps, ffn.activation, layer.dropout.p, ffn.dropout.p,
            self.training,
        )  # fmt: skip
        with torch.autocast(x.device.type, enabled=False):
            if texts.bounds is None:
                groups = texts.groups, mask, self.first_only
                return _compute_by_groups(x, weights, settings, *groups)
            seed = torch.empty(1, dtype=torch.int64, device=x.device)
            if self.training:
                seed.random_()
            first = texts.first if self.first_only else None
            return _compute_at_once(x, weights, settings, texts.bounds, first, seed)


class LayerWeights(NamedTuple):
    """Weight and bias of each part of a layer."""

    query: Layer
    key: Layer
    value: Layer
    out: Layer
    norm: Layer
    hidden: Layer
    output: Layer
    last_norm: Layer


class LayerSettings(NamedTuple):
    """What a layer knows beside its weights."""

    num_heads: int
    eps: float
    activation: Callable[[Tensor], Tensor]
    attention_dropout: float
    dropout: float
    training: bool

    def get_attention_dropout(self) -> float:
        """Return the share of attention's weights that are dropped."""
        return self.attention_dropout if self.training else 0.0


def _compute_by_groups(
    x: Tensor, weights: LayerWeights, settings: LayerSettings, groups: Groups,
    mask: Tensor | None, first_only: bool,
) -> Tensor:  # fmt: skip
    """Compute a layer with one attention a group: (M, D) -> (M or N, D)."""
    keys, values = F.linear(x, *weights.key), F.linear(x, *weights.value)
    of_queries = groups
    if first_only:
        x = torch.cat([part[:, 0] for part in _split_groups(x, groups)])
        of_queries = tuple((1, count) for _, count in groups)
    parts = (
        _split_heads(F.linear(x, *weights.query), of_queries, settings.num_heads),
        _split_heads(keys, groups, settings.num_heads),
        _split_heads(values, groups, settings.num_heads),
    )
    attended = [
        scaled_dot_product_attention(
            *part, attn_mask=mask, dropout_p=settings.get_attention_dropout()
        )
        for part in zip(*parts, strict=True)
    ]  # each (n, H, T, C)
    attended = torch.cat([part.transpose(1, 2).reshape(-1, x.shape[1]) for part in attended])
    return _finish_layer(x, attended, weights, settings)


def _compute_at_once(
    x: Tensor, weights: LayerWeights, settings: LayerSettings, bounds: Tensor,
    first: Tensor | None, seed: Tensor,
) -> Tensor:  # fmt: skip
    """Compute a layer with one attention for all texts: (M, D) -> (M or N, D)."""
    heads = (
        F.linear(x, *part).unflatten(1, (settings.num_heads, -1))
        for part in (weights.query, weights.key, weights.value)
    )
    attended = _AttendInTexts.apply(*heads, bounds, settings.get_attention_dropout(), seed).flatten(
        1
    )
    if first is not None:
        x, attended = x[first], attended[first]
    return _finish_layer(x, attended, weights, settings)


def _finish_layer(
    x: Tensor, attended: Tensor, weights: LayerWeights, settings: LayerSettings
) -> Tensor:
    """Return a layer's output of its input and of what attention gives, (M, D) each."""
    y = F.linear(attended, *weights.out) + x
    y = F.layer_norm(y, y.shape[-1:], *weights.norm, settings.eps)
    z = F.linear(settings.activation(F.linear(y, *weights.hidden)), *weights.output)
    z = F.dropout(z, settings.dropout, settings.training) + y
    return F.layer_norm(z, z.shape[-1:], *weights.last_norm, settings.eps)


def _split_heads(x: Tensor, groups: Groups, num_heads: int) -> list[Tensor]:
    """(M, D) -> (n, H, T, C) of each group."""
    parts = _split_groups(x, groups)
    return [part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in parts]


def _split_groups(x: Tensor, groups: Groups) -> list[Tensor]:
    """(M, D) -> (n, T, D) of each group."""
    parts = x.split([length * count for length, count in groups])
    return [part.unflatten(0, (n, t)) for part, (t, n) in zip(parts, groups, strict=True)]


class _AttendInTexts(torch.autograd.Function):
    """``attend_in_texts`` of model/attention_kernels.py and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, dropout: float, seed: Tensor
    ) -> Tensor:
        from model import attention_kernels

        out, lse = attention_kernels.attend_in_texts(q, k, v, bounds, dropout, seed)
        ctx.save_for_backward(q, k, v, out, lse, bounds, seed)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from model import attention_kernels

        *tensors, seed = ctx.saved_tensors
        tensors = grad.contiguous(), *tensors
        grads = attention_kernels.attend_in_texts_backward(*tensors, ctx.dropout, seed)
        return *grads, None, None, None


def use_packed_layers(model: "DistilBertModel") -> None:
    """Replace each layer by a ``PackedLayer``; of the last, only first tokens are computed."""
    layers = model.transformer.layer
    for number, layer in enumerate(layers):
        layers[number] = PackedLayer(layer, first_only=number == len(layers) - 1)


def encode_padded(model: "DistilBertModel", ids: Tensor, mask: Tensor) -> Tensor:
    """Return the first token's vector of each text, (N, D), by a model with packed layers.

    ``ids`` and ``mask`` are (N, T), padding behind the tokens.
    """
    if not is_kernel_usable(ids.device, model.dtype):
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    # Without a mask: of one, transformers would ask the GPU whether it is all ones, and wait.
    count, length = ids.shape
    first = torch.arange(0, count * length, length, device=ids.device)
    bounds = torch.stack((first, first + mask.sum(1)))[:, :, None].expand(-1, -1, length)
    place = torch.arange(length, device=ids.device).repeat(count)
    texts = Texts(((length, count),), bounds.to(torch.int32).flatten(1), first)
    output = model(input_ids=ids.flatten()[None], position_ids=place[None], texts=texts)
    return output.last_hidden_state[0]


def encode_packed(model: "DistilBertModel", ids: Tensor, groups: Groups) -> Tensor:
    """Return the first token's vector of each text, (N, D), by a model with packed layers.

    ``ids`` are (N, T of the longest) int64, group by group; padding is not read.
    """
    lengths = torch.tensor([length for length, _ in groups])
    lengths = lengths.repeat_interleave(torch.tensor([count for _, count in groups]))  # (N,)
    first = lengths.cumsum(0) - lengths
    text = torch.arange(len(lengths)).repeat_interleave(lengths)  # (M,), of each token
    place = torch.arange(len(text)) - first[text]
    parts = (text * ids.shape[1] + place, place, first[text], (first + lengths)[text], first)
    if ids.is_cuda:  # in one copy from page-locked memory, for which the GPU's queue need not end
        whole = torch.cat(parts).pin_memory().to(ids.device, non_blocking=True)
        parts = whole.split([len(part) for part in parts])
    token, place, begin, end, first = parts
    texts = Texts(groups)
    if is_kernel_usable(ids.device, model.dtype):
        texts = Texts(groups, torch.stack((begin, end)).to(torch.int32), first)
    flat = ids.flatten()[token]
    output = model(input_ids=flat[None], position_ids=place[None], texts=texts)
    return output.last_hidden_state[0]
