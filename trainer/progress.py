"""Where a training run is, to the batch."""

import math
from collections.abc import Mapping
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
        sums: of the epoch that has begun, by name: the sum of its steps' numbers.
        num_summed: and how many of them were finite, which those in ``sums`` are.
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    loss_sum: list[float] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    num_summed: dict[str, int] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        """Whether a batch was trained on; a run stopped in its first validation has none."""
        return self.epoch > 0 or self.batches > 0

    def begin_epoch(self, num_loaders: int) -> None:
        """Start counting anew, unless the epoch has begun in an earlier run."""
        if self.batches == 0:
            self.loss_sum, self.count = [0.0] * num_loaders, [0] * num_loaders
            self.sums, self.num_summed = {}, {}

    def batch_done(self, loader: int, size: int, loss: float) -> None:
        """Take in a batch that the optimizer stepped on."""
        self.batches += 1
        self.step += 1
        self.skipped = 0
        self.loss_sum[loader] += loss * size
        self.count[loader] += size

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take in the numbers of an optimizer step; those that are not finite have no mean."""
        for name, value in numbers.items():
            if math.isfinite(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.num_summed[name] = self.num_summed.get(name, 0) + 1

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

    def means(self) -> dict[str, float]:
        """Return the mean over this epoch's steps of each number that was added."""
        return {name: total / self.num_summed[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return the progress that a checkpoint kept."""
        return cls(**state)
