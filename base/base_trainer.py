"""The course of a training run: epochs, validation, the best one, early stop, checkpoints."""

import logging
import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from base.registry import nearest
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class Monitor:
    """The value that says which epoch is best: ``trainer.monitor``.

    Attributes:
        mode: ``min`` or ``max``.
        name: what is monitored, such as ``val_loss_0``.
        patience: epochs without improvement after which training stops; None: never.
        value: the best so far; None before the first.
        epochs_without: epochs since then.
        epoch: the epoch of the best, where it is known.
        selected_on: the kind of videos that it looks at: ``test``, ``val`` or ``val_share``; None:
            not known.
        videos: which ones these are, for the log; "": not known.
    """

    mode: str
    name: str
    patience: int | None = None
    value: float | None = None
    epochs_without: int = 0
    epoch: int | None = None
    selected_on: str | None = None
    videos: str = ""

    def update(self, log: dict[str, float], epoch: int | None = None) -> bool:
        """Take in the log of ``epoch``; returns whether it is the best so far."""
        new = log.get(self.name, math.nan)
        if math.isfinite(new) and self._is_better(new):
            self.value, self.epochs_without, self.epoch = new, 0, epoch
            return True
        self.epochs_without += 1
        return False

    def check_logged(self, log: dict[str, float], epoch: int) -> None:
        """Raise a ``UserError`` where the monitored value is not in the log of an epoch."""
        if self.name in log:
            return
        reason = f'trainer.monitor: epoch {epoch} has no "{self.name}"'
        if self.name.startswith("val_loss"):
            reason += ": a validation video has no caption, so there is no validation loss"
        raise UserError(
            f"{reason}{nearest(self.name, log)} The epoch is saved: go on from its checkpoint with "
            "--set trainer.monitor=…"
        )

    def _is_better(self, new: float) -> bool:
        if self.value is None:
            return True
        return new < self.value if self.mode == "min" else new > self.value

    @property
    def is_exhausted(self) -> bool:
        """Whether training should stop."""
        return self.patience is not None and self.epochs_without >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("mode", "name", "value", "epochs_without", "epoch", "selected_on")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; another value, or one of other videos, starts afresh."""
        before = state.get("selected_on") or self.selected_on  # older checkpoints lack it
        same = (state["mode"], state["name"], before) == (self.mode, self.name, self.selected_on)
        if same:
            self.value, self.epochs_without = state["value"], state["epochs_without"]
            self.epoch = state.get("epoch")  # checkpoints of version 2 lack it


class BaseTrainer(ABC):
    """Runs epochs; what one epoch does is the subclass's.

    Args:
        epochs: the last epoch; they count from 1.
        save_period: keep a checkpoint every so many epochs, beside the best and the last.
        monitor: says which epoch is best; None: there is no best.
        validate_first: also validate before the first epoch.
        validation_period: validate every so many epochs, and after the last; only these count for
            the monitor.
    """

    def __init__(
        self,
        epochs: int,
        save_period: int,
        monitor: Monitor | None,
        validate_first: bool,
        validation_period: int = 1,
    ) -> None:
        self.epochs = epochs
        self.save_period = save_period
        self.monitor = monitor
        self.validate_first = validate_first
        self.validation_period = validation_period
        self.epoch = 0  # the last one finished
        self.has_begun = False  # whether this or an earlier run has taken a step

    def fit(self) -> None:
        """Train from the epoch after ``self.epoch`` to the last, or to the early stop.

        Raises:
            UserError: the monitored value was not logged; the epoch is saved.
        """
        if self.monitor is not None and self.monitor.videos:
            how = f"{self.monitor.mode} {self.monitor.name}"
            logger.info("the best epoch is selected by %s on %s", how, self.monitor.videos)
        with self.manage_run():
            if self.validate_first and self.epoch == 0 and not self.has_begun:
                self.log_epoch(0, self.validate(0))
            while self.epoch < self.epochs and not self.stops_early:
                epoch = self.epoch + 1
                log = self.train_epoch(epoch)
                is_validated = epoch % self.validation_period == 0 or epoch == self.epochs
                if is_validated:
                    log |= self.validate(epoch)
                self.finish_epoch(epoch)
                monitor = self.monitor if is_validated else None
                improved = monitor is not None and monitor.update(log, epoch)
                self.log_epoch(epoch, log)
                self.save_epoch(improved, keep=epoch % self.save_period == 0)
                if monitor is not None:
                    monitor.check_logged(log, epoch)
        if self.stops_early:
            logger.info(
                "stopped after epoch %d: %s has not improved on %s for %d epochs",
                self.epoch, self.monitor.name, self.monitor.value, self.monitor.epochs_without,
            )  # fmt: skip
        else:
            logger.info("%d of %d epochs are done", self.epoch, self.epochs)

    @property
    def stops_early(self) -> bool:
        """Whether the monitored value has not improved for too long."""
        return self.monitor is not None and self.monitor.is_exhausted

    def manage_run(self) -> AbstractContextManager:
        """Return the context that the whole of ``fit`` runs in."""
        return nullcontext()

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
    def log_epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""

    @abstractmethod
    def save_epoch(self, improved: bool, keep: bool) -> None:
        """Write the last checkpoint, the best if ``improved``, and a numbered one if ``keep``."""
