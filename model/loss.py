"""Contrastive losses on the similarities of queries (rows) and videos (columns) of a batch."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from base.criterion import Criterion
from base.registry import LOSSES


@LOSSES.register("NormSoftmaxLoss")
class NormSoftmaxLoss(Criterion):
    """Symmetric InfoNCE: the cross-entropy of the rows plus that of the columns (a sum).

    Frozen in Time (arXiv 2104.00650), section 3.3.

    Args:
        temperature: What similarities are divided by.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 0.05) -> None:
        super().__init__()
        self.temperature = temperature

    def compute_logits(self, similarity: Tensor) -> Tensor:
        """Divide by the temperature."""
        return similarity / self.temperature

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor | None = None) -> Tensor:
        """Return the loss of (B, B) similarities, the right pairs on the diagonal."""
        logits = self.compute_logits(similarity)
        target = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


@LOSSES.register("MaxMarginRankingLoss")
class MaxMarginRankingLoss(Criterion):
    """Hinge on the margin of the right pair over every other of its row and of its column.

    Args:
        margin: Wanted distance.
        fix_norm: Leave the right pairs themselves out of the mean.
    """

    def __init__(self, margin: Annotated[float, Field(ge=0)] = 0.2, fix_norm: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.fix_norm = fix_norm

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor | None = None) -> Tensor:
        """Return the loss of (B, B) similarities, the right pairs on the diagonal."""
        right = similarity.diagonal()
        over_rows = F.relu(self.margin - (right[:, None] - similarity))
        over_columns = F.relu(self.margin - (right[None, :] - similarity))
        hinges = over_rows + over_columns  # (B, B)
        if not self.fix_norm:
            return hinges.mean() / 2
        if len(hinges) == 1:
            return hinges.sum() * 0.0  # no other pair: nothing to rank
        others = ~torch.eye(len(hinges), dtype=torch.bool, device=hinges.device)
        return hinges[others].mean() / 2
