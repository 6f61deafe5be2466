"""The fusion of the query token, the video feature and the OCR words (TextVR, section 4)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.attention import Layer, first_token_attention, first_token_shares


class FusionAttention(nn.Module):
    """One self-attention layer, of which only the first token's output is used.

    There is no output projection, residual, dropout or feed-forward part. The other tokens are only
    attended to.

    Args:
        dim: width of a token; a multiple of ``num_heads``.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"fusion width {dim} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the first token's output (B, D).

        Args:
            tokens: (B, S, D).
            mask: (B, S) bool, False on padding.
        """
        return first_token_attention(tokens, *self._layers(), self.num_heads, mask)

    def attention(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the share of each token in the first token's output, (B, S) float32.

        The mean over the heads; a row sums to 1, padding has 0. For looking at, not for training.

        Args:
            tokens: (B, S, D).
            mask: (B, S) bool, False on padding.
        """
        query, key, _ = self._layers()
        return first_token_shares(tokens, query, key, self.num_heads, mask).float().mean(1)

    def _layers(self) -> Iterator[Layer]:
        """The weights and biases of query, key and value."""
        return ((layer.weight, layer.bias) for layer in (self.query, self.key, self.value))


def fusion_tokens(
    query_token: Tensor, words: Tensor, words_mask: Tensor, video: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the tokens of the fusion layer (B, S, D) and their mask (B, S).

    Args:
        query_token: (1, D).
        words: (B, L, D).
        words_mask: (B, L) bool.
        video: (B, D), or None where the model sees no frames.
    """
    batch = len(words)
    parts = [query_token.expand(batch, -1)[:, None], words]
    if video is not None:
        parts.insert(1, video[:, None])
    seen = words_mask.new_ones(batch, len(parts) - 1)
    return torch.cat(parts, dim=1), torch.cat((seen, words_mask), dim=1)
