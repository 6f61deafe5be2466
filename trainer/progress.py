"""Where a training run is, to the batch."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """What is done of a run; kept in its checkpoints.

    Attributes:
        epoch: the last one finished; they count from 1.
        step: optimizer steps done.
        batches: of the epoch that has begun, the batches done; 0 between epochs.
        loss_sum: of these, by loader: the sum of losses, weighted by samples.
        count: and the samples.
        skipped: batches left out in a row because their loss was not finite.
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    loss_sum: list[float] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    skipped: int = 0

    def begin_epoch(self, num_loaders: int) -> None:
        """Start counting anew, unless the epoch has begun in an earlier run."""
        if self.batches == 0:
            self.loss_sum, self.count = [0.0] * num_loaders, [0] * num_loaders

    def batch_done(self, loader: int, size: int, loss: float) -> None:
        """Take in a batch that the optimizer stepped on."""
        self.batches += 1
        self.step += 1
        self.skipped = 0
        self.loss_sum[loader] += loss * size
        self.count[loader] += size

    def batch_skipped(self) -> None:
        """Take in a batch that the optimizer did not step on."""
        self.batches += 1
        self.skipped += 1

    def epoch_done(self, epoch: int) -> None:
        """Finish an epoch."""
        self.epoch, self.batches = epoch, 0

    def mean_losses(self) -> dict[str, float]:
        """Return the mean loss of each loader in this epoch, as it is logged."""
        pairs = zip(self.loss_sum, self.count, strict=True)
        return {f"loss_{i}": total / count for i, (total, count) in enumerate(pairs) if count}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return the progress that a checkpoint kept."""
        return cls(**state)
