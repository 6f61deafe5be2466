"""Contrastive losses on the similarities of queries (rows) and videos (columns) of a batch."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from base.registry import LOSSES


@LOSSES.register("NormSoftmaxLoss")
class NormSoftmaxLoss(nn.Module):
    """Symmetric InfoNCE: the cross-entropy of the rows plus that of the columns (a sum).

    Frozen in Time (arXiv 2104.00650), section 3.3.

    Args:
        temperature: what similarities are divided by.
    """

    def __init__(
        self,
        temperature: Annotated[
            float, Field(gt=0, description="What similarities are divided by.")
        ] = 0.05,
    ) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, similarity: Tensor) -> Tensor:
        """Return the loss of a square matrix (B, B) whose diagonal holds the right pairs."""
        logits = similarity / self.temperature
        target = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


@LOSSES.register("MaxMarginRankingLoss")
class MaxMarginRankingLoss(nn.Module):
    """Hinge on the margin of the right pair over every other of its row and of its column.

    Args:
        margin: by how much the right pair shall be ahead.
        fix_norm: leave the right pairs themselves out of the mean.
    """

    def __init__(
        self,
        margin: Annotated[float, Field(ge=0, description="Wanted distance.")] = 0.2,
        fix_norm: Annotated[
            bool, Field(description="Leave the right pairs themselves out of the mean.")
        ] = True,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.fix_norm = fix_norm

    def forward(self, similarity: Tensor) -> Tensor:
        """Return the loss of a square matrix (B, B) whose diagonal holds the right pairs."""
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
