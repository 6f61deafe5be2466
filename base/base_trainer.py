"""The course of a training run: epochs, validation, the best one, early stop, checkpoints."""

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass
class BestValue:
    """The best value of the monitored quantity so far.

    Attributes:
        mode: ``min`` or ``max``.
        name: what is monitored, such as ``val_loss_0``.
        patience: epochs without improvement after which training stops; None: never.
        value: the best so far; None before the first.
        epochs_without: epochs since then.
        epoch: the epoch of the best, where it is known.
    """

    mode: str
    name: str
    patience: int | None = None
    value: float | None = None
    epochs_without: int = 0
    epoch: int | None = None

    def update(self, log: dict[str, float], epoch: int | None = None) -> bool:
        """Take in the log of ``epoch``; returns whether it is the best so far."""
        new = log[self.name]
        if math.isfinite(new) and self._is_better(new):
            self.value, self.epochs_without, self.epoch = new, 0, epoch
            return True
        self.epochs_without += 1
        return False

    def _is_better(self, new: float) -> bool:
        if self.value is None:
            return True
        return new < self.value if self.mode == "min" else new > self.value

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.patience is not None and self.epochs_without >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("mode", "name", "value", "epochs_without", "epoch")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; another monitored quantity starts afresh."""
        if (state["mode"], state["name"]) == (self.mode, self.name):
            self.value, self.epochs_without = state["value"], state["epochs_without"]
            self.epoch = state.get("epoch")  # checkpoints of version 2 lack it


class BaseTrainer(ABC):
    """Runs epochs; what one epoch does is the subclass's.

    Args:
        epochs: the last epoch; they count from 1.
        save_period: keep a checkpoint every so many epochs, beside the best and the last.
        best: the monitored quantity; None: there is no best.
        validate_first: also validate before the first epoch.
    """

    def __init__(
        self, epochs: int, save_period: int, best: BestValue | None, validate_first: bool
    ) -> None:
        self.epochs = epochs
        self.save_period = save_period
        self.best = best
        self.validate_first = validate_first
        self.epoch = 0  # the last one finished
        self.has_begun = False  # whether this or an earlier run has taken a step

    def fit(self) -> None:
        """Train from the epoch after ``self.epoch`` to the last, or to the early stop."""
        if self.validate_first and self.epoch == 0 and not self.has_begun:
            self.record(0, self.validate(0))
        while self.epoch < self.epochs and not (self.best and self.best.exhausted):
            epoch = self.epoch + 1
            log = self.train_epoch(epoch) | self.validate(epoch)
            self.finish_epoch(epoch)
            improved = self.best is not None and self.best.update(log, epoch)
            self.record(epoch, log)
            self.save(epoch, improved, keep=epoch % self.save_period == 0)
        if self.best and self.best.exhausted:
            logger.info(
                "stopped after epoch %d: %s has not improved on %s for %d epochs",
                self.epoch,
                self.best.name,
                self.best.value,
                self.best.epochs_without,
            )
        else:
            logger.info("%d of %d epochs are done", self.epoch, self.epochs)

    @abstractmethod
    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; returns what to log."""

    @abstractmethod
    def validate(self, epoch: int) -> dict[str, float]:
        """Validate every loader; returns what to log."""

    def finish_epoch(self, epoch: int) -> None:
        """Count an epoch as done: it is trained and validated."""
        self.epoch = epoch

    @abstractmethod
    def record(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""

    @abstractmethod
    def save(self, epoch: int, improved: bool, keep: bool) -> None:
        """Write the last checkpoint, the best if ``improved``, and a numbered one if ``keep``."""
