"""The training loop."""

import itertools
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from base.base_model import RetrievalModel
from base.base_trainer import BaseTrainer
from base.batch import Batch
from base.config import TrainerConfig
from trainer.data_report import DataReport
from trainer.evaluator.encode import Evaluation, Evaluator
from trainer.fixed_words import FixedWords
from trainer.loading import Loader, ahead, on_device
from trainer.memory import out_of_memory
from trainer.moments import SAVE, STOP, SaveMoments
from trainer.optim import Schedule
from trainer.passes import WholeBatch
from trainer.progress import Progress
from trainer.recorder import Recorder
from trainer.state import LAST, TrainingState
from utils.distributed import agree, gather_objects, ranks
from utils.errors import UserError
from utils.interrupt import Stopped, StopSignals
from utils.precision import Precision
from utils.seed import unchanged_random_state

logger = logging.getLogger(__name__)

MAX_SKIPPED = 10  # batches in a row
Turn = tuple[int, int]  # number of the loader, samples of the batch


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite; the weights are those before the step."""


class Trainer(BaseTrainer):
    """Trains a retrieval model with a contrastive loss.

    Args:
        model: on its device.
        passes: computes a batch's loss and gradients.
        precision: of the passes; steps the optimizer.
        optimizer: of the model's parameters.
        schedule: of the learning rate, or None.
        loaders: training loaders; they take turns, batch by batch.
        valid_loaders: validated after every epoch.
        evaluator: used for that.
        recorder: takes the numbers.
        run_dir: where checkpoints go.
        config: resolved, kept in every checkpoint.
        settings: the configuration's ``trainer`` block.
        course: the arguments of ``BaseTrainer``.
    """

    def __init__(
        self,
        model: RetrievalModel,
        passes: WholeBatch,
        precision: Precision,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        loaders: Sequence[Loader],
        valid_loaders: Sequence[Loader],
        evaluator: Evaluator,
        recorder: Recorder,
        run_dir: Path,
        config: dict[str, Any],
        settings: TrainerConfig,
        **course: Any,
    ) -> None:
        super().__init__(**course)
        self.model = model
        self.passes = passes
        self.precision = precision
        self.optimizer = optimizer
        self.schedule = schedule
        self.loaders = loaders
        self.valid_loaders = valid_loaders
        self.evaluator = evaluator
        self.recorder = recorder
        self.words = FixedWords(model, evaluator.device)
        self.settings = settings
        self.progress = Progress()
        parts = (model, optimizer, schedule, precision, self.best)
        self.state = TrainingState(run_dir, config, *parts, keep_last=settings.keep_last)
        self.report = DataReport()
        self.run_dir = run_dir

    def fit(self) -> None:
        """Train; what was done is kept however it ends.

        Raises:
            Stopped: SIGTERM or SIGINT came; the step was finished and saved.
        """
        every = (self.settings.save_every_steps, self.settings.save_every_minutes)
        self.recorder.resume(self.epoch if self.has_begun else -1)
        with StopSignals() as signals:
            self.moments = SaveMoments(signals, *every)
            try:
                super().fit()
            finally:
                self.recorder.close()
        self.state.raise_if_unsaved()

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; raises ``CheckpointError``."""
        self.progress, self.report = self.state.load(checkpoint)
        self.epoch, self.has_begun = self.progress.epoch, self.progress.has_begun
        logger.info(
            "resumed %s: epoch %d and %d batches, step %d",
            checkpoint, self.epoch, self.progress.batches, self.progress.step,
        )  # fmt: skip

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on every batch of the epoch that is left; returns the mean loss of each loader."""
        self.model.train()
        plan = plan_epoch(self.loaders, self.settings.max_samples_per_epoch)
        self.progress.begin_epoch(len(self.loaders))
        done, left = plan[: self.progress.batches], plan[self.progress.batches :]
        for number, loader in enumerate(self.loaders):
            total, first = (sum(turn == number for turn, _ in part) for part in (plan, done))
            loader.set_epoch(epoch, total, first)
            self._encode_fixed_words(loader)
        self.recorder.begin_epoch()
        batches = ahead(self._read(left), self.on_device, self.evaluator.device)
        with self._bar(epoch, plan, done) as bar:
            for (turn, size), ((_, batch), moved) in zip(left, batches, strict=True):
                self.report.add(batch)
                self.recorder.batch(self.loaders[turn], batch, epoch)
                loss = self.train_step(moved)
                self._count(turn, size, loss, batch)
                self.recorder.batch_done(self.progress.step, size)
                bar.update(size)
                bar.set_postfix(loss=f"{loss:.3f}")
                self._save_or_stop()
        return self.progress.mean_losses() | self.progress.means()

    def _read(self, turns: Sequence[Turn]) -> Iterator[tuple[Loader, Batch]]:
        """Yield the batches of an epoch's turns as they are read."""
        sources = [iter(loader) for loader in self.loaders]
        for turn, _ in turns:
            with unchanged_random_state(), self.recorder.waiting():
                batch = next(sources[turn])
            yield self.loaders[turn], batch

    def on_device(self, read: tuple[Loader, Batch]) -> Batch:
        """Return a loader's batch as a step takes it."""
        loader, batch = read
        return on_device(batch, loader, self.words.table(loader), self.evaluator.device)

    def train_step(self, batch: Batch) -> float:
        """One optimizer step, unless the loss is not finite; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.passes(batch)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, self.passes, batch) from None
        if math.isfinite(loss):
            norm = self.precision.step(self.optimizer, self.settings.clip_grad_norm)
            positive, negative = self.passes.similarity
            numbers = {
                "lr": self.optimizer.param_groups[0]["lr"],
                "gradient_norm": norm.item(),
                "similarity_positive": positive,
                "similarity_negative": negative,
            }
            self.progress.add(numbers)
            self.recorder.step(self.progress.step + 1, {"loss": loss, **numbers})
            if self.schedule:
                self.schedule.step_done()
        return loss

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate every validation loader."""
        log: dict[str, float] = {}
        for number, loader in enumerate(self.valid_loaders):
            self._encode_fixed_words(loader)
            known = self.moments.must_stop, self.words.table(loader)
            evaluation = self.evaluator.run(self.model, loader, *known)
            if evaluation is None:
                self._stop()
            self.report.merge(evaluation.report)
            self.recorder.evaluation(epoch, number, evaluation)
            log |= flat_log(evaluation, number)
        return log

    def _encode_fixed_words(self, loader: Loader) -> None:
        if not self.words.encode(loader, self.moments.must_stop):
            self._stop()

    def finish_epoch(self, epoch: int) -> None:
        """Count an epoch as done, and advance a schedule by epochs."""
        super().finish_epoch(epoch)
        self.progress.epoch_done(epoch)
        if self.schedule:
            self.schedule.epoch_done()

    def record(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch, and what of the data could not be used so far."""
        report = self.report.of_all()
        self.recorder.epoch(epoch, log | report.counts())
        if ranks().is_first:
            report.write(self.run_dir / "data_report.json")

    def save(self, epoch: int, improved: bool, keep: bool) -> None:
        """Write the checkpoints of an epoch."""
        self._save(improved, keep)

    def _save_or_stop(self) -> None:
        """Save where it is time to, and end the run where it was asked to stop."""
        wish = agree(self.moments.wish(self.progress.step), self.evaluator.device)
        if wish == STOP:
            self._stop()
        if wish == SAVE:
            self._save()

    def _save(self, improved: bool = False, keep: bool = False) -> None:
        self.state.save(self.progress, self.report, improved, keep)
        self.moments.saved()

    def _stop(self) -> NoReturn:
        self._save()
        agree(0, self.evaluator.device)  # a process that ends first would stop the one that writes
        self.state.raise_if_unsaved()
        raise Stopped(
            f"stopped and saved after step {self.progress.step}; go on with "
            f"python train.py -r {self.run_dir / LAST}",
            self.moments.signals.received or signal.SIGTERM,
        )

    def _count(self, turn: int, size: int, loss: float, batch: Batch) -> None:
        """Count a batch; one whose loss is not finite is written down, and left out or the end."""
        if math.isfinite(loss):
            self.progress.batch_done(turn, size, loss)
            return
        self.progress.batch_skipped()
        videos = list(itertools.chain.from_iterable(gather_objects(batch.ids)))
        where = {"epoch": self.epoch + 1, "after_step": self.progress.step}
        file = self.recorder.not_finite(where | {"loss": str(loss), "videos": videos})
        text = f"the loss is {loss} at step {self.progress.step + 1} (epoch {self.epoch + 1})"
        if self.settings.on_nan == "skip" and self.progress.skipped <= MAX_SKIPPED:
            logger.warning("%s; the batch is skipped, its videos are listed in %s", text, file)
            return
        last = self.run_dir / LAST
        again = f" or trainer.on_nan to skip, then resume with -r {last}" if last.exists() else ""
        raise NonFiniteLossError(
            f"{text}; stopped before the optimizer step, so the weights are those of step "
            f"{self.progress.step}. The batch: {', '.join(batch.ids[:4])}"
            f"{' …' if len(batch) > 4 else ''}, listed in {file}. Lower optimizer.args.lr or set "
            f"trainer.clip_grad_norm{again}"
        )

    def _bar(self, epoch: int, plan: Sequence[Turn], done: Sequence[Turn]) -> tqdm:
        total, initial = (sum(size for _, size in part) for part in (plan, done))
        return tqdm(
            total=total, initial=initial, desc=f"epoch {epoch}", unit=" samples",
            dynamic_ncols=True, disable=not ranks().is_first,
        )  # fmt: skip


def plan_epoch(loaders: Sequence[Loader], max_samples: int | None) -> list[Turn]:
    """Return (loader, number of samples) of each batch of an epoch.

    The loaders take turns until one of them ends or ``max_samples`` are reached; batches are
    never cut, so the last may go past it.
    """
    plan: list[Turn] = []
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
