"""The space-time ViT of Frozen in Time (arXiv 2104.00650, section 3.1): divided attention.

Shapes: B clips, F frames, N patches a frame, S = 1 + F*N tokens, D width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.grouped_attention import Axis, GroupedAttention, find_kernel_axes
from model.half_precision import LayerNorm, cast_for_autocast
from utils.errors import UserError

LAYER_NORM_EPS = 1e-6
MAX_GRAPHS = 16  # of the blocks of a model
View = tuple[torch.Size, tuple[int, ...], int]  # size, stride, offset of a view


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
        """Return what is kept of a tensor: its numbers, or which view of the value it is."""
        if tensor.untyped_storage().data_ptr() != self._storage:
            # The output of an operation that keeps it for its own gradient, such as a softmax's,
            # would hold the graph that holds it. Only a backward pass takes that apart: where none
            # came, as when memory ran out, all of the graph before it would stay for good.
            return tensor.detach()
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
        size = self.proj.stride[0]
        # As one matrix product; a GPU's convolution would first turn the images around in memory.
        patches = cast_for_autocast(images).unfold(2, size, size).unfold(3, size, size)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, N, 3 * patch)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


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
        self.norm1 = LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = GroupedAttention(dim, num_heads, axis="space")
        self.timeattn = GroupedAttention(dim, num_heads, axis="time")
        self.norm2 = LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm3 = LayerNorm(dim, eps=LAYER_NORM_EPS)

    def forward(
        self,
        x: Tensor,
        num_frames: int,
        recompute: bool = False,
        kernel_axes: tuple[Axis, ...] = (),
    ) -> Tensor:
        """(B, 1 + F*N, D), CLS first -> the same; of the last block, only CLS (B, D).

        ``recompute``: keep neither normalised nor activated values for the backward pass, which
        computes them again: a third less memory for a hundredth more time. ``kernel_axes``: what
        ``find_kernel_axes`` says of ``x``.
        """
        tokens = self.norm3(x)
        with _recompute(recompute, tokens, lambda: self.norm3(x)):
            timed = x + self.timeattn(tokens, num_frames, kernel_axes)
        tokens = self.norm1(timed)
        with _recompute(recompute, tokens, lambda: self.norm1(timed)):
            if self.cls_only:
                y = x[:, 0] + self.attn.forward_cls(tokens)
            else:
                y = x + self.attn(tokens, num_frames, kernel_axes)
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
        self.norm = LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
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
        # From here on tokens have the dtype of the patches: under autocast 16 bits, or every sum
        # and norm would read and keep float32.
        patches = (patches + (position + time).to(patches.dtype)).flatten(1, 2)  # (B, F*N, D)
        cls = (self.cls_token + self.pos_embed[:, :1]).to(patches.dtype).expand(batch, -1, -1)
        x = torch.cat((cls, patches), dim=1)  # (B, 1 + F*N, D)
        kernel_axes = find_kernel_axes(x)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, frames, False, kernel_axes, use_reentrant=False)
            else:
                x = block(x, frames, True, kernel_axes)
        return self.norm(x)  # (B, D): CLS

    def list_blocks(self) -> list[nn.Module]:
        """Return the blocks, each of which runs once for a batch."""
        return list(self.blocks)

    def recompute_activations(self) -> None:
        """Let the backward pass compute each block again from its input."""
        self.activation_checkpointing = True

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Compile one block for all but the last: they are equal, so it takes seconds.

        Of each there is one graph for training and one for evaluation, for one number of clips, for
        any other and for a clip alone: more than torch compiles if it isn't told.
        """
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, MAX_GRAPHS)
        for block in self.blocks:
            block.compile(backend=backend)
