"""Divided space-time attention: one attention module, two ways of grouping the patches.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, H heads, C channels a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Axis = Literal["time", "space"]


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
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, S, C)
        cls = scaled_dot_product_attention(q[:, :, :1], k, v)  # (B, H, 1, C)
        patches = scaled_dot_product_attention(
            self._group(q[:, :, 1:], num_frames),
            self._with_cls(k, num_frames),
            self._with_cls(v, num_frames),
        )
        out = torch.cat((cls, self._ungroup(patches)), dim=2)  # (B, H, S, C)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))

    def _group(self, patches: Tensor, num_frames: int) -> Tensor:
        """(B, H, F*N, C) -> (B, H, groups, tokens of a group, C)."""
        framed = patches.unflatten(2, (num_frames, -1))  # (B, H, F, N, C)
        return framed.transpose(2, 3) if self.axis == "time" else framed

    def _ungroup(self, groups: Tensor) -> Tensor:
        """(B, H, groups, tokens of a group, C) -> (B, H, F*N, C)."""
        framed = groups.transpose(2, 3) if self.axis == "time" else groups
        return framed.flatten(2, 3)

    def _with_cls(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(B, H, S, C) -> (B, H, groups, 1 + tokens of a group, C): CLS stands in every group."""
        groups = self._group(tokens[:, :, 1:], num_frames)
        cls = tokens[:, :, None, :1].expand(-1, -1, groups.shape[2], -1, -1)
        return torch.cat((cls, groups), dim=3)
