"""DistilBERT layers for packed texts: texts of any lengths laid end to end, none of them padded.

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
        groups: Groups | None = None,
        **_: object,
    ) -> Tensor:
        """Take padded texts (N, T, D), or packed texts (1, M, D) group by group with ``groups``.

        The mask of padded texts is (N, 1, T or 1, T), bool or added to the scores. The result has
        the same form; of the last layer (N, 1, D) or (1, N, D), the first tokens.
        """
        if groups is not None:
            return self._run(hidden_states[0], groups, None)[None]
        count, length = hidden_states.shape[:2]
        mask = attention_mask
        if mask is not None and self.first_only:
            mask = mask[:, :, :1]
        out = self._run(hidden_states.flatten(0, 1), ((length, count),), mask)
        return out.unflatten(0, (count, -1))

    def _run(self, *inputs: object) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._compute, *inputs, use_reentrant=False)
        return self._compute(*inputs)

    def _compute(self, x: Tensor, groups: Groups, mask: Tensor | None) -> Tensor:
        layer = self.attention
        keys = self._split_heads(layer.k_lin(x), groups)
        values = self._split_heads(layer.v_lin(x), groups)
        if self.first_only:
            x = torch.cat([part[:, 0] for part in _split_groups(x, groups)])  # (N, D)
            groups = tuple((1, count) for _, count in groups)
        queries = self._split_heads(layer.q_lin(x), groups)
        dropout = layer.dropout.p if self.training else 0.0
        attended = [
            scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]  # each (n, H, T, C)
        flat = torch.cat([part.transpose(1, 2).reshape(-1, x.shape[1]) for part in attended])
        y = self.sa_layer_norm(layer.out_lin(flat) + x)
        return self.output_layer_norm(self.ffn(y) + y)

    def _split_heads(self, x: Tensor, groups: Groups) -> list[Tensor]:
        """(M, D) -> (n, H, T, C) of each group."""
        heads = self.attention.n_heads
        return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in _split_groups(x, groups)]


def _split_groups(x: Tensor, groups: Groups) -> list[Tensor]:
    """(M, D) -> (n, T, D) of each group."""
    parts = x.split([length * count for length, count in groups])
    return [part.unflatten(0, (n, t)) for part, (t, n) in zip(parts, groups, strict=True)]


def use_packed_layers(model: "DistilBertModel") -> None:
    """Replace each layer by a ``PackedLayer``; of the last, only first tokens are computed."""
    layers = model.transformer.layer
    for number, layer in enumerate(layers):
        layers[number] = PackedLayer(layer, first_only=number == len(layers) - 1)


def encode_packed(model: "DistilBertModel", ids: Tensor, groups: Groups) -> Tensor:
    """Return the first token's vector of each text, (N, D), by a model with packed layers.

    ``ids`` are (N, T of the longest) int64, group by group; padding is not read.
    """
    rows = ids.split([count for _, count in groups])
    flat = torch.cat([row[:, :t].flatten() for row, (t, _) in zip(rows, groups, strict=True)])
    positions = torch.arange(ids.shape[1], device=ids.device)
    positions = torch.cat([positions[:length].repeat(count) for length, count in groups])
    output = model(input_ids=flat[None], position_ids=positions[None], groups=groups)
    return output.last_hidden_state[0]
