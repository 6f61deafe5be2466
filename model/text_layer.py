"""A DistilBERT layer for texts of any lengths laid end to end, none of them padded.

Shapes: M tokens of all texts, N texts, D width, H heads, C channels a head; a group is n texts of
T tokens each.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import DistilBertModel

Groups = tuple[tuple[int, int], ...]  # (T, n) of each


class TextLayer(nn.Module):
    """Stands in the place of a layer of transformers' DistilBERT, with its weights and names.

    Only attention has to know where a text ends: everything else is computed for the tokens of all
    texts at once.

    Args:
        layer: transformers' own.
        first_only: give the first token of each text alone, for the others are not read.

    Attributes:
        recomputes: whether the backward pass computes the layer once more, from its input and the
            same random state.
    """

    def __init__(self, layer: nn.Module, first_only: bool) -> None:
        super().__init__()
        self.attention = layer.attention
        self.sa_layer_norm = layer.sa_layer_norm
        self.ffn = layer.ffn
        self.output_layer_norm = layer.output_layer_norm
        self.first_only = first_only
        self.recomputes = False
        self.train(layer.training)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        groups: Groups | None = None,
        **_: object,
    ) -> Tensor:
        """Take padded texts (N, T, D), or texts end to end (1, M, D) with ``groups``.

        Args:
            hidden_states: the tokens, group by group.
            attention_mask: of padded texts, (N, 1, T or 1, T), bool or added to the scores; None:
                nothing is padded.
            groups: of texts end to end.

        Returns:
            The tokens in the same form; of the last layer (N, 1, D) or (1, N, D), the first ones.
        """
        if groups is not None:
            return self._recomputed(hidden_states[0], groups, None)[None]
        count, length = hidden_states.shape[:2]
        mask = attention_mask
        if mask is not None and self.first_only:
            mask = mask[:, :, :1]
        out = self._recomputed(hidden_states.flatten(0, 1), ((length, count),), mask)
        return out.unflatten(0, (count, -1))

    def _recomputed(self, *inputs: object) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(self._run, *inputs, use_reentrant=False)
        return self._run(*inputs)

    def _run(self, x: Tensor, groups: Groups, mask: Tensor | None) -> Tensor:
        own = self.attention
        keys, values = self._heads(own.k_lin(x), groups), self._heads(own.v_lin(x), groups)
        if self.first_only:
            x = torch.cat([part[:, 0] for part in _split(x, groups)])  # (N, D)
            groups = tuple((1, count) for _, count in groups)
        queries = self._heads(own.q_lin(x), groups)
        drop = own.dropout.p if self.training else 0.0
        seen = [
            scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]  # each (n, H, T, C)
        flat = torch.cat([part.transpose(1, 2).reshape(-1, x.shape[1]) for part in seen])
        y = self.sa_layer_norm(own.out_lin(flat) + x)
        return self.output_layer_norm(self.ffn(y) + y)

    def _heads(self, x: Tensor, groups: Groups) -> list[Tensor]:
        """(M, D) -> (n, H, T, C) of each group."""
        heads = self.attention.n_heads
        return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in _split(x, groups)]


def _split(x: Tensor, groups: Groups) -> list[Tensor]:
    """(M, D) -> (n, T, D) of each group."""
    parts = x.split([length * count for length, count in groups])
    return [part.unflatten(0, (n, t)) for part, (t, n) in zip(parts, groups, strict=True)]


def use_text_layers(model: "DistilBertModel") -> None:
    """Put a ``TextLayer`` in the place of each layer; of the last, only first tokens are read."""
    layers = model.transformer.layer
    for number, layer in enumerate(layers):
        layers[number] = TextLayer(layer, first_only=number == len(layers) - 1)


def encode_packed(model: "DistilBertModel", ids: Tensor, groups: Groups) -> Tensor:
    """Return the first token's vector of each text, (N, D).

    Args:
        model: with ``use_text_layers``.
        ids: (N, T of the longest) int64, group by group; what is behind a text is not read.
        groups: in the order of ``ids``.
    """
    rows = ids.split([count for _, count in groups])
    flat = torch.cat([row[:, :t].flatten() for row, (t, _) in zip(rows, groups, strict=True)])
    places = torch.arange(ids.shape[1], device=ids.device)
    place = torch.cat([places[:length].repeat(count) for length, count in groups])
    output = model(input_ids=flat[None], position_ids=place[None], groups=groups)
    return output.last_hidden_state[0]
