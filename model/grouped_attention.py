"""Divided attention: CLS sees every token, a patch sees CLS and its own group.

On a GPU it is one operation, ``textvr::attend_in_groups``, computed by Triton from what the linear
layer gives (model/attention_kernels.py); elsewhere it is the plain formula on groups.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, D width, H heads, C = D/H channels
a head, G groups of T patches.
"""

import functools
import importlib.util
import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention

logger = logging.getLogger(__name__)

FEW_KEYS = 32
MAX_SEQUENCES = 65_535  # that fused attention takes at once: an axis of CUDA's grid has no more
Axis = Literal["time", "space"]
Layer = tuple[Tensor, Tensor]  # weight and bias of a linear layer


class GroupedAttention(nn.Module):
    """Self-attention in which CLS sees every token and a patch sees CLS and its own group.

    Its group is, over ``time``, its position in all frames and, over ``space``, its frame.
    """

    def __init__(self, dim: int, num_heads: int, axis: Axis) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.axis = axis
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, num_frames: int, kernel_axes: tuple[Axis, ...] = ()) -> Tensor:
        """Attend; ``x`` and the result are (B, S, D), CLS first, then frame by frame.

        ``kernel_axes``: what ``find_kernel_axes`` says of ``x``.
        """
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, S, 3, H, C)
        if self.axis in kernel_axes:
            out, _ = attend_in_groups(qkv, num_frames, self.axis == "time")
            return self._project(out.flatten(2))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        groups = self._group(q[:, :, 1:], num_frames)  # (B, H, G, T, C)
        patches = _attend(
            groups.flatten(0, 2), self._with_cls(k, num_frames), self._with_cls(v, num_frames)
        )
        patches = self._ungroup(patches.view_as(groups)).transpose(1, 2).flatten(2)  # (B, F*N, D)
        return self._project(torch.cat((self._attend_from_cls(x)[:, None], patches), dim=1))

    def forward_cls(self, x: Tensor) -> Tensor:
        """Return only CLS (B, D) of what ``forward`` gives for (B, S, D)."""
        return self._project(self._attend_from_cls(x))

    def _project(self, x: Tensor) -> Tensor:
        """Apply ``proj``; over time, under autocast, less what it gives all channels alike.

        That makes no difference to the layer norm behind it, which alone reads the result. But the
        published weights start as ones, and training moves them by thousandths: less than from 1 to
        the next number of 16 bits, so that rounded as they are they would not learn.
        """
        if self.axis == "space" or not torch.is_autocast_enabled(x.device.type):
            return self.proj(x)
        weight = self.proj.weight
        return F.linear(x, weight - weight.detach().mean(0), self.proj.bias)

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

    Fused attention is made for long rows; for the few keys of a group over time plain products are
    faster.
    """
    if k.shape[1] <= FEW_KEYS:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        return scores.softmax(-1) @ v
    parts = zip(*(part[:, None].split(MAX_SEQUENCES) for part in (q, k, v)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part) for part in parts])[:, 0]


@torch.library.custom_op("textvr::attend_in_groups", mutates_args=(), device_types="cuda")
def attend_in_groups(qkv: Tensor, num_frames: int, over_time: bool) -> tuple[Tensor, Tensor]:
    """Return the output (B, S, H, C) of attention, and (B, H, S) float32 for the backward pass.

    Args:
        qkv: (B, S, 3, H, C) queries, keys and values, CLS first, then frame by frame.
        num_frames: F.
        over_time: a patch's group is its position in all frames; else its frame.
    """
    from model import attention_kernels

    return attention_kernels.attend(qkv.contiguous(), num_frames, over_time)


@attend_in_groups.register_fake
def _(qkv: Tensor, num_frames: int, over_time: bool) -> tuple[Tensor, Tensor]:
    batch, num_tokens, _, heads, channels = qkv.shape
    out = qkv.new_empty(batch, num_tokens, heads, channels)
    return out, qkv.new_empty(batch, heads, num_tokens, dtype=torch.float32)


@torch.library.custom_op("textvr::attend_in_groups_backward", mutates_args=(), device_types="cuda")
def _attend_in_groups_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_frames: int, over_time: bool
) -> Tensor:
    from model import attention_kernels

    tensors = grad.contiguous(), qkv.contiguous(), out, lse
    return attention_kernels.attend_backward(*tensors, num_frames, over_time)


@_attend_in_groups_backward.register_fake
def _(grad: Tensor, qkv: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.num_frames, ctx.over_time = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    sizes = ctx.num_frames, ctx.over_time
    return _attend_in_groups_backward(grad, *ctx.saved_tensors, *sizes), None, None


attend_in_groups.register_autograd(_backward, setup_context=_save_for_backward)


def find_kernel_axes(x: Tensor) -> tuple[Axis, ...]:
    """Return the axes over which attention within ``x`` is to be one operation.

    Exact float32 products have no matrix units: over space, torch's own kernel is faster for them.
    """
    if not is_kernel_usable(x.device, x.dtype):
        return ()
    is_exact = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return ("time",) if is_exact else ("time", "space")


def is_kernel_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether attention on tensors of this kind can be computed by Triton."""
    return device.type == "cuda" and dtype != torch.float64 and _try_triton(device)


@functools.cache
def _try_triton(device: torch.device) -> bool:
    """Say whether Triton works on a GPU; where it should and does not, one warning says why."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        attend_in_groups(torch.zeros(1, 3, 3, 1, 16, device=device), 1, True)
    except Exception as error:  # of Triton, its compiler, the driver: the types share no base class
        logger.warning(
            "attention is computed by the plain formula, which is slower: Triton does not work on "
            "%s (%s); it needs a C compiler, such as gcc",
            device, " ".join(str(error).split())[:300],
        )  # fmt: skip
        return False
    return True


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
