"""The space-time ViT of Frozen in Time (arXiv 2104.00650, section 3.1): divided attention.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, D width, H heads, C = D/H channels
a head, G groups of T patches.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from utils.errors import UserError

LAYER_NORM_EPS = 1e-6
FEW_KEYS = 32
Layer = tuple[Tensor, Tensor]  # weight and bias of a linear layer
View = tuple[torch.Size, tuple[int, ...], int]  # size, stride, offset of a view


class GroupedAttention(nn.Module):
    """Self-attention in which CLS sees every token and a patch sees CLS and its own group.

    Its group is, over ``time``, its position in all frames and, over ``space``, its frame.
    """

    def __init__(self, dim: int, num_heads: int, axis: Literal["time", "space"]) -> None:
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
        return self.proj(torch.cat((self._attend_from_cls(x)[:, None], patches), dim=1))

    def forward_cls(self, x: Tensor) -> Tensor:
        """Return only CLS (B, D) of what ``forward`` gives for (B, S, D)."""
        return self.proj(self._attend_from_cls(x))

    def _attend_from_cls(self, x: Tensor) -> Tensor:
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        return attend_from_cls(x, *zip(weights, biases, strict=True), self.num_heads)

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


def attend_from_cls(
    x: Tensor, query: Layer, key: Layer, value: Layer, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Attend from the first token of (B, S, D) to all, without their keys and values: (B, D).

    q (key x) = (q key) x, and a weighted sum of (value x) is value times the weighted sum of x: two
    products for each head and clip, not for each of its tokens. Query, key and value are each a
    weight (D, D) and a bias (D,); the mask is (B, S) bool, False on padding.
    """
    mixed = compute_cls_attention(x, query, key, num_heads, mask) @ x  # (B, H, D)
    weight, bias = value
    out = torch.einsum("bhd,hcd->bhc", mixed, weight.unflatten(0, (num_heads, -1)))
    return out.flatten(1) + bias


def compute_cls_attention(
    x: Tensor, query: Layer, key: Layer, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Return the attention weights of ``attend_from_cls``, (B, H, S); a row sums to 1."""
    weight, bias = (part.unflatten(0, (num_heads, -1)) for part in key)  # (H, C, D), (H, C)
    q = F.linear(x[:, 0], *query).unflatten(1, (num_heads, -1))  # (B, H, C)
    q = q * q.shape[-1] ** -0.5
    scores = torch.einsum("bhc,hcd->bhd", q, weight) @ x.transpose(1, 2)  # (B, H, S)
    # The same for every token, so softmax ignores it; but so the bias has a gradient, of zero.
    scores = scores + (q * bias).sum(-1, keepdim=True)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(-1)


def recompute_in_backward(value: Tensor, compute: Callable[[], Tensor]) -> saved_tensors_hooks:
    """Selective recomputation: operations within do not keep ``value`` for the backward pass.

    ``compute`` gives it again there, and the gradients are the same to the bit. Its own inputs must
    not change in between.
    """
    recomputed = RecomputedValue(value, compute)
    return saved_tensors_hooks(recomputed.pack, recomputed.unpack)


class RecomputedValue:
    """The hooks of ``recompute_in_backward``.

    They are not the context itself: it refers to its hooks, and in such a cycle the inputs of
    ``compute`` would outlive the step, until the garbage collector comes by.
    """

    def __init__(self, value: Tensor, compute: Callable[[], Tensor]) -> None:
        self._storage = value.untyped_storage().data_ptr()
        self._compute = compute
        self._uses = self._uses_left = 0
        self._recomputed: Tensor | None = None

    def pack(self, tensor: Tensor) -> Tensor | View:
        """Return what is kept of a tensor: itself, or which view of the value it is."""
        if tensor.untyped_storage().data_ptr() != self._storage:
            return tensor
        self._uses += 1
        return tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(self, saved: Tensor | View) -> Tensor:
        """Return the tensor that ``pack`` was given."""
        if isinstance(saved, Tensor):
            return saved
        if self._recomputed is None:
            with torch.no_grad():
                self._recomputed = self._compute()
            self._uses_left = self._uses
        value = self._recomputed.as_strided(*saved)
        self._uses_left -= 1
        if not self._uses_left:
            self._recomputed = None
        return value


def _recompute(
    enabled: bool, value: Tensor, compute: Callable[[], Tensor]
) -> AbstractContextManager:
    """Return the context of the operations on ``value``; a compiler decides for itself."""
    if not enabled or torch.compiler.is_compiling():
        return nullcontext()
    return recompute_in_backward(value, compute)


class PatchEmbed(nn.Module):
    """Non-overlapping square patches of an image, projected to tokens."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, D), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """The feed-forward part of a block."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """(…, D) -> (…, D); ``recompute`` as in ``SpaceTimeBlock``."""
        hidden = self.fc1(x)
        active = self.act(hidden)
        with _recompute(recompute, active, lambda: self.act(hidden)):
            return self.fc2(active)


class SpaceTimeBlock(nn.Module):
    """Time attention, then space attention, then the MLP.

    The residual of the space attention is the block's input, not the output of the time
    attention: with a zero-initialised time attention the block is that of the image model.
    ``cls_only``, for the last block, computes no other token's output, for it is not read.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, cls_only: bool = False) -> None:
        super().__init__()
        self.cls_only = cls_only
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = GroupedAttention(dim, num_heads, axis="space")
        self.timeattn = GroupedAttention(dim, num_heads, axis="time")
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm3 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, num_frames: int, recompute: bool = False) -> Tensor:
        """(B, 1 + F*N, D), CLS first -> the same; of the last block, only CLS (B, D).

        ``recompute``: keep neither normalised nor activated values for the backward pass, which
        computes them again: a third less memory for a hundredth more time.
        """
        tokens = self.norm3(x)
        with _recompute(recompute, tokens, lambda: self.norm3(x)):
            timed = x + self.timeattn(tokens, num_frames)
        tokens = self.norm1(timed)
        with _recompute(recompute, tokens, lambda: self.norm1(timed)):
            if self.cls_only:
                y = x[:, 0] + self.attn.forward_cls(tokens)
            else:
                y = x + self.attn(tokens, num_frames)
        tokens = self.norm2(y)
        with _recompute(recompute, tokens, lambda: self.norm2(y)):
            return y + self.mlp(tokens, recompute)


class SpaceTimeTransformer(nn.Module):
    """A ViT over the patches of all frames of a clip; ``input_res`` and ``patch_size`` in pixels.

    ``num_frames`` is the longest clip: a shorter one uses the first temporal embeddings.
    ``time_init="zeros"`` makes the untrained model equal to the image model; ``rand`` initialises
    the time attention like every other layer.
    """

    def __init__(
        self,
        input_res: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_frames: int = 4,
        time_init: Literal["zeros", "rand"] = "zeros",
    ) -> None:
        super().__init__()
        if input_res % patch_size:
            raise ValueError(f"input_res {input_res} is not a multiple of patch size {patch_size}")
        self.activation_checkpointing = False
        self.num_frames = num_frames
        self.embed_dim = embed_dim
        self.input_res = input_res
        num_patches = (input_res // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, embed_dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(embed_dim, num_heads, mlp_ratio, cls_only=number == depth - 1)
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if time_init == "zeros":
            for block in self.blocks:
                nn.init.zeros_(block.timeattn.qkv.weight)
                nn.init.ones_(block.timeattn.proj.weight)

    def forward(self, video: Tensor) -> Tensor:
        """Return the clip feature (B, D) of normalised frames (B, F, 3, height, width).

        Raises:
            UserError: more frames than ``num_frames``, or frames of another size.
        """
        batch, frames, _, height, width = video.shape
        if frames > self.num_frames:
            raise UserError(
                f"clips of {frames} frames, but the model takes {self.num_frames}: lower "
                "data_loader.args.video_params.num_frames"
            )
        if (height, width) != (self.input_res, self.input_res):
            raise UserError(
                f"frames of {width}x{height}, but the model takes {self.input_res} square: look at "
                "input_res of arch, data_loader and its tsfm_params"
            )
        patches = self.patch_embed(video.flatten(0, 1)).unflatten(0, (batch, frames))
        position = self.pos_embed[:, None, 1:]  # (1, 1, N, D)
        time = self.temporal_embed[:, :frames, None]  # (1, F, 1, D)
        patches = (patches + (position + time)).flatten(1, 2)  # (B, F*N, D)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = torch.cat((cls, patches), dim=1)  # (B, 1 + F*N, D)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, frames, use_reentrant=False)
            else:
                x = block(x, frames, recompute=True)
        return self.norm(x)  # (B, D): CLS

    def recompute_activations(self) -> None:
        """Let the backward pass compute each block again from its input and random state."""
        self.activation_checkpointing = True
