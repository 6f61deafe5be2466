"""Modality collapse: a fusion that learns one of its modalities and never the other.

The modality that is learned first takes most of the loss away, and what is left may not be enough
to learn the other from: its branch then gets hardly any gradient, and the results are those of a
model that never had it. Wang et al., "What Makes Training Multi-Modal Classification Networks
Hard?", arXiv 1905.12681; for this model, ``docs/fusion.md``.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from base.base_model import RetrievalModel
from base.batch import Batch
from trainer.grad_cache import ComputeLoss
from utils.distributed import gather

logger = logging.getLogger(__name__)

MODALITIES = ("vision", "ocr")
WHAT = {"vision": "the frames", "ocr": "the OCR words"}
MIN_GAIN = 0.02  # of the loss: what the loss rises by, at least, without a modality that is used
MIN_GAIN_OF_OTHER = 0.1  # and without one that is learned
EPOCHS = 2  # in a row
REMEDY = (
    "trainer.ocr_warmup_steps, trainer.unimodal_losses and arch.args.ocr_encoder_init help against "
    "it (docs/fusion.md)"
)


@torch.no_grad()
def measure_modalities(
    model: RetrievalModel,
    batch: Batch,
    compute_loss: ComputeLoss,
    chunk_size: int | None,
) -> dict[str, float]:
    """Return what a batch's loss is, and would be without each modality; and the attention.

    Without dropout, and no random number is drawn.

    Args:
        model: one that fuses both.
        batch: on the model's device.
        compute_loss: of the embeddings of all processes.
        chunk_size: videos that are encoded at a time; None: all at once.

    Returns:
        ``fused_loss``, ``fused_loss_without_vision``, ``fused_loss_without_ocr``, and of the
        fusion layer's attention the shares of the frames and of the words, ``attention_vision``
        and ``attention_ocr``, in [0, 1].
    """
    was_training, size = model.training, chunk_size or len(batch)
    model.eval()
    try:
        chunks = [batch.rows(start, start + size) for start in range(0, len(batch), size)]
        text = torch.cat([model.embed_queries(chunk.query) for chunk in chunks])
        apart, shares = zip(*(model.examine_fusion(chunk) for chunk in chunks), strict=True)
    finally:
        model.train(was_training)
    losses = {}
    for name in apart[0]:
        embeds = {"text": text, model.video_key: torch.cat([part[name] for part in apart])}
        losses[name] = compute_loss(embeds, batch)[0]
    found = {"fused_loss": losses.pop("whole")}
    found |= {f"fused_loss_without_{name}": loss for name, loss in losses.items()}
    if shares[0] is not None:
        both = [torch.stack([rows[:, 1], rows[:, 2:].sum(1)], dim=1) for rows in shares]  # (B, 2)
        means = gather(torch.cat(both)[: len(batch) - batch.num_fillers]).mean(0)
        found |= {"attention_vision": means[0], "attention_ocr": means[1]}
    return {name: float(value) for name, value in found.items()}


@dataclass
class CollapseWatch:
    """Says once of each modality that it contributes nothing, with what helps.

    Attributes:
        epochs: modality -> epochs in a row without a contribution.
        said: the modalities that were warned of.
    """

    epochs: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def check(self, numbers: Mapping[str, float]) -> None:
        """Warn of a modality without which the loss is no higher, now and in the epoch before.

        Nothing is said before the other one is learned.

        Args:
            numbers: an epoch's; those of ``measure_modalities`` count.
        """
        if "fused_loss" not in numbers:
            return
        loss = numbers["fused_loss"]
        gains = {name: numbers[f"fused_loss_without_{name}"] - loss for name in MODALITIES}
        for name, other in (MODALITIES, MODALITIES[::-1]):
            unused = gains[name] < MIN_GAIN * loss and gains[other] > MIN_GAIN_OF_OTHER * loss
            self.epochs[name] = self.epochs.get(name, 0) + 1 if unused else 0
            if self.epochs[name] == EPOCHS and name not in self.said:
                self.said.add(name)
                logger.warning(
                    "modality collapse: without %s the loss is %.3f, with both %.3f, so the fusion "
                    "does not use them; %s",
                    WHAT[name], loss + gains[name], loss, REMEDY,
                )  # fmt: skip
