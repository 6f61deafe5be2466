"""The space-time ViT of Frozen in Time (arXiv 2104.00650, section 3.1).

Shapes: B clips, F frames, N patches a frame, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import GroupedAttention
from model.recomputed import kept_unless
from utils.errors import UserError

LAYER_NORM_EPS = 1e-6
TimeInit = Literal["zeros", "rand"]


class PatchEmbed(nn.Module):
    """Non-overlapping square patches of an image, projected to tokens."""

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """The feed-forward part of a block."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, lean: bool = False) -> Tensor:
        """(…, D) -> (…, D); ``lean`` as in ``SpaceTimeBlock``."""
        hidden = self.fc1(x)
        active = self.act(hidden)
        with kept_unless(lean, active, lambda: self.act(hidden)):
            return self.fc2(active)


class SpaceTimeBlock(nn.Module):
    """Time attention, then space attention, then the MLP.

    The residual of the space attention is the block's input, not the output of the time
    attention: with a zero-initialised time attention the block is that of the image model.

    Args:
        dim: width of a token.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP, in multiples of ``dim``.
        cls_only: compute no other token's output, for it is not read.
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

    def forward(self, x: Tensor, num_frames: int, lean: bool = False) -> Tensor:
        """(B, 1 + F*N, D) -> the same; of the last block, CLS alone (B, D).

        Args:
            x: the tokens, CLS first.
            num_frames: F.
            lean: keep neither normalised nor activated values for the backward pass, which
                computes them again: a third less memory for a hundredth more time.
        """
        tokens = self.norm3(x)
        with kept_unless(lean, tokens, lambda: self.norm3(x)):
            timed = x + self.timeattn(tokens, num_frames)
        tokens = self.norm1(timed)
        with kept_unless(lean, tokens, lambda: self.norm1(timed)):
            if self.cls_only:
                y = x[:, 0] + self.attn.of_cls(tokens)
            else:
                y = x + self.attn(tokens, num_frames)
        tokens = self.norm2(y)
        with kept_unless(lean, tokens, lambda: self.norm2(y)):
            return y + self.mlp(tokens, lean)


class SpaceTimeTransformer(nn.Module):
    """A ViT over the patches of all frames of a clip.

    Args:
        input_res: side of a frame in pixels; a multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        in_chans: colour channels.
        embed_dim: width D of a token.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP, in multiples of D.
        num_frames: the longest clip; a shorter one uses the first temporal embeddings.
        time_init: ``zeros`` makes the untrained model equal to the image model; ``rand``
            initialises the time attention like every other layer.

    Attributes:
        recomputes: whether the backward pass computes each block once more, from its input and
            the same random state, so that the forward pass need not keep what is inside a block.
    """

    def __init__(
        self,
        input_res: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_frames: int = 4,
        time_init: TimeInit = "zeros",
    ) -> None:
        super().__init__()
        if input_res % patch_size:
            raise ValueError(f"input_res {input_res} is not a multiple of patch size {patch_size}")
        self.recomputes = False
        self.num_frames = num_frames
        self.embed_dim = embed_dim
        self.input_res = input_res
        num_patches = (input_res // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, embed_dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(embed_dim, num_heads, mlp_ratio, cls_only=number == depth - 1)
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self._init_weights(time_init)

    def forward(self, video: Tensor) -> Tensor:
        """Return the clip feature (B, D) of normalised frames (B, F, C, H, W).

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
            x = self._run(block, x, frames)
        return self.norm(x)  # (B, D): CLS

    def _run(self, block: nn.Module, x: Tensor, frames: int) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(block, x, frames, use_reentrant=False)
        return block(x, frames, lean=True)

    def _init_weights(self, time_init: TimeInit) -> None:
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
