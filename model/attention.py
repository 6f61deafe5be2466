"""Divided space-time attention: one attention module, two ways of grouping the patches.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, D width, H heads, C = D/H channels
a head, G groups of T patches.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention

Axis = Literal["time", "space"]
Layer = tuple[Tensor, Tensor]  # weight and bias of a linear layer
FEW_KEYS = 32


class GroupedAttention(nn.Module):
    """Self-attention in which CLS sees every token and a patch sees CLS and its own group.

    Frozen in Time (arXiv 2104.00650), section 3.1. Over ``time`` the group of a patch is its
    position in all frames, over ``space`` it is its frame.

    Args:
        dim: width of a token.
        num_heads: attention heads; must divide ``dim``.
        axis: what a patch's group is.
    """

    def __init__(self, dim: int, num_heads: int, axis: Axis) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.axis = axis
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Attend; ``x`` and the result are (B, S, D), CLS first, then frame by frame."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        groups = self._group(q[:, :, 1:], num_frames)  # (B, H, G, T, C)
        patches = _attend(
            groups.flatten(0, 2), self._with_cls(k, num_frames), self._with_cls(v, num_frames)
        )
        patches = self._ungroup(patches.view_as(groups)).transpose(1, 2).flatten(2)  # (B, F*N, D)
        return self.proj(torch.cat((self._seen_by_cls(x)[:, None], patches), dim=1))

    def of_cls(self, x: Tensor) -> Tensor:
        """Return CLS alone (B, D) of what ``forward`` gives for (B, S, D)."""
        return self.proj(self._seen_by_cls(x))

    def _seen_by_cls(self, x: Tensor) -> Tensor:
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        return first_token_attention(x, *zip(weights, biases, strict=True), self.num_heads)

    def _group(self, patches: Tensor, num_frames: int) -> Tensor:
        """(B, H, F*N, C) -> (B, H, G, T, C)."""
        framed = patches.unflatten(2, (num_frames, -1))  # (B, H, F, N, C)
        return framed.transpose(2, 3) if self.axis == "time" else framed

    def _ungroup(self, groups: Tensor) -> Tensor:
        """(B, H, G, T, C) -> (B, H, F*N, C)."""
        framed = groups.transpose(2, 3) if self.axis == "time" else groups
        return framed.flatten(2, 3)

    def _with_cls(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(B, H, S, C) -> (B*H*G, 1 + T, C): CLS stands in every group."""
        groups = self._group(tokens[:, :, 1:], num_frames)
        cls = tokens[:, :, None, :1].expand(-1, -1, groups.shape[2], -1, -1)
        return torch.cat((cls, groups), dim=3).flatten(0, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend within each group: (groups, T, C), (groups, 1 + T, C) twice -> (groups, T, C).

    The fused kernel of the CPU is made for long rows; for the few keys of a group over time plain
    products are faster.
    """
    if q.device.type == "cpu" and k.shape[1] <= FEW_KEYS:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        return scores.softmax(-1) @ v
    return scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def first_token_attention(
    x: Tensor, query: Layer, key: Layer, value: Layer, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Attention of the first token to all, without their keys and values: (B, D).

    q (key x) = (q key) x, and a weighted sum of (value x) is value times the weighted sum of x: two
    products for each head and clip, not for each of its tokens.

    Args:
        x: the tokens (B, S, D).
        query: weight (D, D) and bias (D,).
        key: the same.
        value: the same.
        num_heads: H.
        mask: (B, S) bool, False on padding; None: there is none.
    """
    seen = first_token_shares(x, query, key, num_heads, mask) @ x  # (B, H, D)
    weight, bias = value
    out = torch.einsum("bhd,hcd->bhc", seen, weight.unflatten(0, (num_heads, -1)))
    return out.flatten(1) + bias


def first_token_shares(
    x: Tensor, query: Layer, key: Layer, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Return each token's weight in ``first_token_attention``, (B, H, S); a row sums to 1."""
    weight, bias = (part.unflatten(0, (num_heads, -1)) for part in key)  # (H, C, D), (H, C)
    q = F.linear(x[:, 0], *query).unflatten(1, (num_heads, -1))  # (B, H, C)
    q = q * q.shape[-1] ** -0.5
    scores = torch.einsum("bhc,hcd->bhd", q, weight) @ x.transpose(1, 2)  # (B, H, S)
    # The same for every token, so it changes nothing but that the bias has a gradient, of zero.
    scores = scores + (q * bias).sum(-1, keepdim=True)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(-1)
