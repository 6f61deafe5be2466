"""Fusion layers: the query token, the video feature and the OCR words become one vector.

A fusion is registered in ``FUSIONS``, is built as ``(dim, num_heads)`` and has ``forward(tokens,
mask) -> (B, D)``. Tokens are the query token, the video feature where there is one, then the words.
Reports show what it attends to where it also has ``attention(tokens, mask) -> (B, S)``.

Shapes: B videos, S tokens, D width.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from base.registry import FUSIONS
from model.grouped_attention import Layer, attend_from_cls, compute_cls_attention
from utils.errors import UserError

DEFAULT_FUSION = "attention"


@FUSIONS.register(DEFAULT_FUSION)
class FusionAttention(nn.Module):
    """One self-attention layer, of which only the first token's output is used (TextVR, section 4).

    There is no output projection, residual, dropout or feed-forward part.
    """

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__()
        if dim % num_heads:
            raise UserError(
                f"arch.args.fusion_heads: {num_heads} does not divide the text model's width {dim}"
            )
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the first token's output (B, D) of (B, S, D); the mask is False on padding."""
        return attend_from_cls(tokens, *self._layers(), self.num_heads, mask)

    def attention(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the weight of each token in the first token's output, (B, S) float32, for reports.

        The mean over the heads; a row sums to 1, padding has 0.
        """
        query, key, _ = self._layers()
        return compute_cls_attention(tokens, query, key, self.num_heads, mask).float().mean(1)

    def _layers(self) -> Iterator[Layer]:
        return ((layer.weight, layer.bias) for layer in (self.query, self.key, self.value))
