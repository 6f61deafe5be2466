"""The training loop."""

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from base.base_model import RetrievalModel
from base.base_trainer import BaseTrainer
from base.batch import Batch
from trainer.data_report import DataReport
from trainer.evaluator.encode import Evaluation, Evaluator, Loader
from trainer.optim import Schedule
from trainer.recorder import Recorder
from trainer.state import LAST, TrainingState
from utils.errors import UserError
from utils.seed import unchanged_random_state
from utils.similarity import cosine_similarity

logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite; the weights are those before the step."""


class Trainer(BaseTrainer):
    """Trains a retrieval model with a contrastive loss.

    Args:
        model: on its device.
        loss: of a batch's similarity matrix.
        optimizer: of the model's parameters.
        schedule: of the learning rate, or None.
        loaders: training loaders; they take turns, batch by batch.
        valid_loaders: validated after every epoch.
        evaluator: used for that.
        recorder: takes the numbers.
        run_dir: where checkpoints go.
        config: resolved, kept in every checkpoint.
        max_samples: training samples an epoch; None: until the shortest loader ends.
        clip_grad_norm: largest norm of the gradient; None: not clipped.
        course: the arguments of ``BaseTrainer``.
    """

    def __init__(
        self,
        model: RetrievalModel,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        loaders: Sequence[Loader],
        valid_loaders: Sequence[Loader],
        evaluator: Evaluator,
        recorder: Recorder,
        run_dir: Path,
        config: dict[str, Any],
        max_samples: int | None = None,
        clip_grad_norm: float | None = None,
        **course: Any,
    ) -> None:
        super().__init__(**course)
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.loaders = loaders
        self.valid_loaders = valid_loaders
        self.evaluator = evaluator
        self.recorder = recorder
        self.state = TrainingState(run_dir, config, model, optimizer, schedule, self.best)
        self.max_samples = max_samples
        self.clip_grad_norm = clip_grad_norm
        self.report = DataReport()
        self.step = 0  # optimizer steps done
        self.run_dir = run_dir

    def fit(self) -> None:
        """Train; the numbers of the last steps are kept however it ends."""
        try:
            super().fit()
        finally:
            self.recorder.close()

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; raises ``CheckpointError``."""
        self.epoch, self.step = self.state.load(checkpoint)
        logger.info("resumed %s: epoch %d, step %d", checkpoint, self.epoch, self.step)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on every batch of the epoch; returns the mean loss of each loader."""
        self.model.train()
        plan = plan_epoch(self.loaders, self.max_samples)
        loss_sum, count = [0.0] * len(self.loaders), [0] * len(self.loaders)
        for number, loader in enumerate(self.loaders):
            loader.set_epoch(epoch, sum(turn == number for turn, _ in plan))
        batches = [iter(loader) for loader in self.loaders]
        samples = sum(size for _, size in plan)
        with tqdm(total=samples, desc=f"epoch {epoch}", unit=" samples", dynamic_ncols=True) as bar:
            for turn, size in plan:
                with unchanged_random_state():
                    batch = next(batches[turn])
                self.report.add(batch)
                loss = self.train_step(self.loaders[turn].to_device(batch, self.evaluator.device))
                loss_sum[turn] += loss * size
                count[turn] += size
                bar.update(size)
                bar.set_postfix(loss=f"{loss:.3f}")
        if self.schedule:
            self.schedule.epoch_done()
        return {f"loss_{i}": loss_sum[i] / count[i] for i in range(len(self.loaders))}

    def train_step(self, batch: Batch) -> float:
        """One optimizer step; returns the loss.

        Raises:
            NonFiniteLossError: before anything is changed.
        """
        embeds = self.model(batch)
        similarity = cosine_similarity(embeds["text"], embeds[self.model.video_key])
        loss = self.loss(similarity)
        value = loss.item()
        if not math.isfinite(value):
            self._refuse(value, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.recorder.step(self.step, value, self.optimizer.param_groups[0]["lr"])
        if self.schedule:
            self.schedule.step_done()
        return value

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate every validation loader."""
        log: dict[str, float] = {}
        for number, loader in enumerate(self.valid_loaders):
            evaluation = self.evaluator.run(self.model, loader)
            self.report.merge(evaluation.report)
            log |= flat_log(evaluation, number)
        return log

    def record(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch, and what of the data could not be used so far."""
        self.recorder.epoch(epoch, log | self.report.counts())
        self.report.write(self.run_dir / "data_report.json")

    def save(self, epoch: int, improved: bool, keep: bool) -> None:
        """Write the checkpoints of an epoch."""
        self.state.save(epoch, self.step, improved, keep)

    def _refuse(self, value: float, batch: Batch) -> None:
        last = self.run_dir / LAST
        again = f", then resume with -r {last}" if last.exists() else ""
        raise NonFiniteLossError(
            f"the loss is {value} at step {self.step + 1} (epoch {self.epoch + 1}); stopped before "
            f"the optimizer step, so the weights are those of step {self.step}. The batch: "
            f"{', '.join(batch.ids[:4])}{' …' if len(batch) > 4 else ''}. Lower optimizer.args.lr "
            f"or set trainer.clip_grad_norm{again}"
        )


def plan_epoch(loaders: Sequence[Loader], max_samples: int | None) -> list[tuple[int, int]]:
    """Return (loader, number of samples) of each batch of an epoch.

    The loaders take turns until one of them ends or ``max_samples`` are reached; batches are
    never cut, so the last may go past it.
    """
    plan: list[tuple[int, int]] = []
    left = [len(loader.dataset) for loader in loaders]
    total = 0
    for turn in itertools.cycle(range(len(loaders))):
        if left[turn] == 0 or (max_samples is not None and total >= max_samples):
            return plan
        samples = min(left[turn], loaders[turn].batch_size)
        plan.append((turn, samples))
        left[turn] -= samples
        total += samples
    return plan


def flat_log(evaluation: Evaluation, number: int) -> dict[str, float]:
    """Return an evaluation's numbers under the names that ``monitor`` uses."""
    log = {f"val_loss_{number}": evaluation.loss} if evaluation.loss is not None else {}
    for metric, values in evaluation.metrics.items():
        log |= {f"val_{number}_{metric}_{key}": value for key, value in values.items()}
    return log
