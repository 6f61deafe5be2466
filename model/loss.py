"""Contrastive losses on the similarities of queries (rows) and videos (columns) of a batch.

``NormSoftmaxLoss`` and ``MaxMarginRankingLoss`` are those of the published systems, with settings
that stay as they are. ``SoftmaxLoss`` and ``SigmoidLoss`` learn theirs; image-text models are
pretrained with them. Shapes: B videos of all processes and as many queries.
"""

import logging
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from base.base_model import RetrievalModel
from base.criterion import Criterion
from base.registry import LOSSES
from utils.errors import UserError

logger = logging.getLogger(__name__)

Positives = Annotated[
    Literal["diagonal", "captions"],
    Field(
        description="Right pairs: diagonal, a video and its own caption; captions, also the videos "
        "of equal captions."
    ),
]
CLIP_TEMPERATURE = 0.07  # CLIP's start, arXiv 2103.00020, section 2.5
SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0  # SigLIP's, arXiv 2303.15343, section 3.2


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


@LOSSES.register("SoftmaxLoss")
class SoftmaxLoss(Criterion):
    """Symmetric InfoNCE with a learned temperature: half the rows' and half the columns' loss.

    CLIP (arXiv 2103.00020), figure 3; the loss of CLIP4Clip (arXiv 2104.08860), section 3.4, and
    of towers of CLIP's kind. At an equal temperature it is half of ``NormSoftmaxLoss``.

    With ``positives: "captions"`` a query of several right videos has the mean of their
    log-probabilities (supervised contrastive loss, arXiv 2004.11362, equation 2), and likewise a
    video. Where no two captions of a batch are equal, both are the same. For data sets whose
    captions repeat, or that have several a video: ``diagonal`` calls right videos wrong there.

    The scale, 1 / temperature, is set to ``max_scale`` after each optimizer step that took it
    further, as in CLIP and CLIP4Clip. Its gradient is never cut off: at the limit a step further
    is undone, and a step back counts.

    Args:
        temperature: What similarities are divided by at first; null: that with which the model's
            pretraining ended, and CLIP's 0.07 where none is known.
        max_scale: Most that the learned factor, 1 / temperature, may become.
    """

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] | None = None,
        max_scale: Annotated[float, Field(gt=0)] = 100.0,
        positives: Positives = "diagonal",
    ) -> None:
        super().__init__()
        if temperature is not None and 1 / temperature > max_scale * (1 + 1e-6):
            raise UserError(
                f"loss.args.temperature: {temperature:g} is a scale of {1 / temperature:g}, more "
                f"than loss.args.max_scale {max_scale:g}; raise one of them"
            )
        self.temperature = temperature
        self.max_scale = max_scale
        self.positives = positives
        scale = min(1 / (temperature or CLIP_TEMPERATURE), max_scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @torch.no_grad()
    def start_from(self, model: RetrievalModel) -> None:
        """Take the scale with which the model's pretraining ended, unless a temperature is set."""
        if self.temperature is not None or model.initial_scale is None:
            return
        if model.initial_scale > self.max_scale:
            logger.info(
                "the model's pretraining ended with a scale of %.4g; the loss starts from %g "
                "(loss.args.max_scale)",
                model.initial_scale, self.max_scale,
            )  # fmt: skip
        self.log_scale.fill_(math.log(min(model.initial_scale, self.max_scale)))

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Set a scale beyond ``max_scale`` to it."""
        self.log_scale.clamp_(max=math.log(self.max_scale))

    def get_logged_values(self) -> dict[str, float]:
        """Return the ``temperature``."""
        return {"temperature": (-self.log_scale).exp().item()}

    def compute_logits(self, similarity: Tensor) -> Tensor:
        """Divide by the temperature."""
        return similarity * self.log_scale.exp()

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor | None = None) -> Tensor:
        """Return the loss of (B, B) similarities, the own pairs on the diagonal."""
        logits = self.compute_logits(similarity)
        right = find_right_pairs(similarity, caption_ids, self.positives).to(logits)
        share = right / right.sum(1, keepdim=True)  # of the columns alike: who is right is mutual
        return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2


@LOSSES.register("SigmoidLoss")
class SigmoidLoss(Criterion):
    """SigLIP's loss: each pair by itself is right or wrong, with a learned scale and bias.

    -log sigmoid(z * (scale * cosine + bias)) with z = 1 for right pairs and -1 for the others,
    summed over all pairs and divided by B (arXiv 2303.15343, algorithm 1). For towers of SigLIP's
    kind, whose scale and bias it takes over, and for small batches, in which a softmax has few
    wrong pairs to compare with.

    With ``positives: "captions"`` the pairs of equal captions are right, too. The loss of a batch
    without equal captions is the same.

    Args:
        scale: What cosines are multiplied by at first; null: that with which the model's
            pretraining by this loss ended, and SigLIP's 10 where there was none.
        bias: What is added to them then; null: likewise, and -10.
    """

    def __init__(
        self,
        scale: Annotated[float, Field(gt=0)] | None = None,
        bias: float | None = None,
        positives: Positives = "diagonal",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.initial_bias = bias
        self.positives = positives
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale or SIGLIP_SCALE)))
        self.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS if bias is None else float(bias)))

    @torch.no_grad()
    def start_from(self, model: RetrievalModel) -> None:
        """Take scale and bias of the model's pretraining, unless they are set.

        The scale of a model without a bias is that of a softmax. With this loss it would begin by
        calling all pairs right, so it is not taken.
        """
        if model.initial_bias is None:
            return
        if self.initial_bias is None:
            self.bias.fill_(model.initial_bias)
        if self.scale is None and model.initial_scale is not None:
            self.log_scale.fill_(math.log(model.initial_scale))

    def get_logged_values(self) -> dict[str, float]:
        """Return ``logit_scale`` and ``logit_bias``."""
        return {"logit_scale": self.log_scale.exp().item(), "logit_bias": self.bias.item()}

    def compute_logits(self, similarity: Tensor) -> Tensor:
        """Return the log-odds that each pair is right."""
        return similarity * self.log_scale.exp() + self.bias

    def compute_loss(self, similarity: Tensor, caption_ids: Tensor | None = None) -> Tensor:
        """Return the loss of (B, B) similarities, the own pairs on the diagonal."""
        right = find_right_pairs(similarity, caption_ids, self.positives)
        logits = self.compute_logits(similarity)
        return -F.logsigmoid(torch.where(right, logits, -logits)).sum() / len(logits)


def find_right_pairs(
    similarity: Tensor, caption_ids: Tensor | None, positives: Literal["diagonal", "captions"]
) -> Tensor:
    """Return which pairs are right, (B, B) bool and symmetric, on the device of ``similarity``."""
    if positives == "captions":
        return caption_ids[:, None] == caption_ids
    return torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
