"""The training loop.

From the command line to the model: ``main``, ``fit`` (base/base_trainer.py), ``train_epoch``,
``train_step``, ``forward``.
"""

import itertools
import logging
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from base.base_data_loader import BaseDataLoader
from base.base_trainer import BaseTrainer
from base.batch import Batch
from base.config import TrainerConfig
from evaluation.data_report import DataReport
from evaluation.embedding_cache import WordVectorCache
from evaluation.evaluator import Evaluation, Evaluator
from evaluation.prefetch import move_to_device, prefetch_to_device
from trainer.checkpoint_folder import LAST
from trainer.checkpointing import SAVE, STOP, Progress, SaveSchedule, TrainingState
from trainer.collapse import CollapseWatch, measure_modalities
from trainer.grad_cache import GradientCache
from trainer.optim import Schedule
from trainer.out_of_memory import ChunkSizeFinder, GpuMemory
from trainer.parallel import Parallel
from trainer.tracking import Tracker
from utils.distributed import all_reduce_max, gather, gather_objects, get_dist_info
from utils.errors import UserError
from utils.interrupt import Stopped, StopSignals, WaitInterrupted
from utils.precision import Precision
from utils.seed import preserve_random_state

logger = logging.getLogger(__name__)

MAX_SKIPPED = 10  # batches in a row
Turn = tuple[int, int]  # number of the loader, samples of the batch


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite; the weights are those before the step."""


@dataclass(frozen=True)
class Step:
    """An optimizer step whose numbers may still be on the device.

    Attributes:
        turn: loader and number of samples.
        ids: the videos of this process.
        numbers: (4 + branches,) loss, mean logit of the right pairs and of the others, norm of the
            gradient and of each branch's.
        lr: learning rate of the first parameter group.
    """

    turn: Turn
    ids: list[str]
    numbers: Tensor
    lr: float


class Trainer(BaseTrainer):
    """Trains a retrieval model with a contrastive loss.

    Args:
        parallel: of the model and the criterion: how several processes train them.
        inputs: what the run depends on beside ``config``, which its checkpoints keep.
    """

    def __init__(
        self,
        parallel: Parallel,
        precision: Precision,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        loaders: Sequence[BaseDataLoader],
        valid_loaders: Sequence[BaseDataLoader],
        evaluator: Evaluator,
        tracker: Tracker,
        run_dir: Path,
        config: dict[str, Any],
        settings: TrainerConfig,
        inputs: dict[str, Any] | None = None,
        **course: Any,
    ) -> None:
        super().__init__(**course)
        self.parallel = parallel
        self.model = model = parallel.model
        self.criterion = parallel.criterion
        self.precision = precision
        self.optimizer = optimizer
        self.schedule = schedule
        self.loaders = loaders
        self.valid_loaders = valid_loaders
        self.evaluator = evaluator
        self.tracker = tracker
        self.run_dir = run_dir
        self.settings = settings
        self.device = evaluator.device
        self.unimodal_losses = settings.unimodal_losses.weights()
        if self.unimodal_losses:
            model.request_unimodal_embeds(self.unimodal_losses)
        size, only = settings.chunk_size, [f"only_{name}" for name in self.unimodal_losses]
        parts = ("text", model.video_key, *only), precision, parallel.agree_on_passes
        self.grad_cache = None if size is None else GradientCache(size, *parts)
        memory = GpuMemory(self.device)
        self.chunk_finder = ChunkSizeFinder(
            model, precision, optimizer, size, memory if parallel.can_run_alone else None
        )
        self.branches = parallel.list_branches()
        self.collapse_watch = CollapseWatch()
        self.word_vectors = WordVectorCache(model)
        self.progress = Progress()
        self.report = DataReport()
        self.state = TrainingState(
            run_dir, config, parallel, optimizer, schedule, precision, self.monitor,
            keep_last=settings.keep_last, inputs=inputs,
        )  # fmt: skip
        # On a GPU a look at the loss waits for the step. There, from the first loss on that is not
        # finite, the fused optimizer leaves the weights as they are, without anyone looking.
        self.looks_at_every_loss = (
            self.device.type != "cuda"
            or settings.on_nan == "skip"
            or precision.scaler.is_enabled()
            or not all(group.get("fused") for group in optimizer.param_groups)
        )
        self.has_diverged = torch.zeros((), device=self.device)
        self.steps: list[Step] = []  # whose numbers have not been read

    @contextmanager
    def manage_run(self) -> Iterator[None]:
        """Note signals, finish writing however the run ends, and say what could not be saved.

        Raises:
            Stopped: SIGTERM or SIGINT came; the step was finished and saved.
        """
        every = (self.settings.save_every_steps, self.settings.save_every_minutes)
        self.tracker.resume(self.progress if self.has_begun else None)
        with StopSignals() as signals:
            self.save_schedule = SaveSchedule(signals, *every)
            try:
                yield
            except WaitInterrupted:  # between two steps, or in a validation
                self._stop()
            finally:
                self.tracker.close()
        self.state.raise_if_unsaved()

    def resume(self, checkpoint: Path, allow_changes: bool | None = None) -> None:
        """Go on from a checkpoint; arguments and errors are those of ``TrainingState.load``."""
        self.progress, self.report = self.state.load(checkpoint, allow_changes)
        self.epoch, self.has_begun = self.progress.epoch, self.progress.has_begun
        logger.info(
            "resumed %s: epoch %d and %d batches, step %d",
            checkpoint, self.epoch, self.progress.batches, self.progress.step,
        )  # fmt: skip

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on every batch of the epoch that is left; returns the mean loss of each loader."""
        self.model.train()
        self.criterion.train()
        plan = plan_epoch(self.loaders, self.settings.max_samples_per_epoch)
        self.progress.begin_epoch(len(self.loaders))
        done, left = plan[: self.progress.batches], plan[self.progress.batches :]
        for number, loader in enumerate(self.loaders):
            total, first = (sum(turn == number for turn, _ in part) for part in (plan, done))
            loader.set_epoch(epoch, total, first)
            self._encode_frozen_words(loader, self.precision)
        self.tracker.begin_epoch()
        batches = prefetch_to_device(self._read_batches(left), self.prepare_batch, self.device)
        with self._progress_bar(epoch, plan, done) as bar:
            for turn, ((_, batch), moved) in zip(left, batches, strict=True):
                self.report.add(batch)
                if self.progress.batches + len(self.steps) == 0:
                    self.tracker.log_clips(self.loaders[turn[0]], batch, epoch)
                with self.chunk_finder.explain_out_of_memory(moved):
                    numbers = self.train_step(moved)
                lr = self.optimizer.param_groups[0]["lr"]
                self.steps.append(Step(turn, batch.ids, numbers, lr))
                is_last = self.progress.batches + len(self.steps) == len(plan)
                if is_last and self.model.fuses_modalities:
                    self._measure_modalities(moved)
                if self.schedule is not None and self.is_usable(numbers[0]):
                    self.schedule.finish_step()
                self.tracker.finish_batch(turn[1])
                bar.update(turn[1])
                if self.looks_at_every_loss or len(self.steps) >= self.settings.log_every:
                    bar.set_postfix(loss=f"{self._read_steps():.3f}")
                self._save_or_stop()
        self._read_steps()
        means = self.progress.means()
        if self.progress.step > self.settings.ocr_warmup_steps:
            self.collapse_watch.check(means)
        return self.progress.mean_losses() | means | self.criterion.get_logged_values()

    def _measure_modalities(self, batch: Batch) -> None:
        """Add to the epoch's numbers what each modality contributes, measured on its last batch."""
        with (
            self.parallel.gather_weights(), self.precision.set_tf32(), self.precision.autocast()
        ):  # fmt: skip
            parts = self.model, batch, self.compute_loss, self.settings.chunk_size
            self.progress.add(measure_modalities(*parts))

    def train_step(self, batch: Batch) -> Tensor:
        """Take one optimizer step; returns its numbers (see ``Step``) on the device.

        A loss that is not finite changes no weight.
        """
        self.optimizer.zero_grad(set_to_none=True)
        uses_all = not self.trains_words_alone
        network = self.parallel.get_network(uses_all)
        if not uses_all:
            batch = replace(batch, video=None, num_frames=None)
        with self.precision.set_tf32():
            if self.grad_cache is None:
                with self.precision.autocast():
                    embeds = network(batch)
                loss, logits = self.compute_loss(embeds, batch)
                if self.is_usable(loss):
                    self.precision.backward(loss)
            else:
                parts = network, batch, self.compute_loss, self.is_usable
                loss, logits = self.grad_cache.backward(*parts)
            norms = loss.new_full((1 + len(self.branches),), math.nan)
            if self.is_usable(loss):
                self.parallel.exchange_gradients(uses_all)
                norms = self.clip_and_step(loss)
        return torch.cat([torch.stack([loss.detach(), *compute_pair_means(logits)]), norms])

    @property
    def trains_words_alone(self) -> bool:
        """Whether the next step is one of the warm-up of a fusion's OCR branch."""
        step = self.progress.step + len(self.steps)
        return self.model.fuses_modalities and step < self.settings.ocr_warmup_steps

    def compute_loss(self, embeds: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of the joint batch of all processes, and its logits, detached.

        Args:
            embeds: (B, E) each, of this process: ``text``, ``video_key``'s, and those by one
                modality alone that there are losses for.
            batch: says how many of them are real, and which captions are equal.

        Returns:
            The loss, unimodal losses included; the logits of ``video_key``'s.
        """
        count = len(batch) - batch.num_fillers
        caption_ids = gather(batch.query.hash_texts()[:count])

        def gather_rows(key: str) -> Tensor:
            return gather(self.precision.to_full(embeds[key])[:count])

        text = gather_rows("text")
        loss, logits = self.criterion(text, gather_rows(self.model.video_key), caption_ids)
        for name, weight in self.unimodal_losses.items():
            if f"only_{name}" in embeds:
                own, _ = self.criterion(text, gather_rows(f"only_{name}"), caption_ids)
                loss = loss + weight * own
        return loss, logits

    def is_usable(self, loss: Tensor) -> bool:
        """Whether to go on to the weights: a look at the loss, where looking is free."""
        return not self.looks_at_every_loss or bool(loss.isfinite())

    def clip_and_step(self, loss: Tensor) -> Tensor:
        """Let the optimizer step; returns the gradients' norms before clipping (see ``Step``)."""
        unless = None
        if not self.looks_at_every_loss:
            is_bad = (~loss.detach().isfinite()).float()
            self.has_diverged = torch.maximum(self.has_diverged, is_bad)
            unless = self.has_diverged
        limit, branches = self.settings.clip_grad_norm, list(self.branches.values())
        measure = self.parallel.measure_gradient_norms
        norms = self.precision.step(self.optimizer, limit, unless, branches, measure)
        self.criterion.clamp_parameters()
        return norms

    def _read_batches(self, turns: Sequence[Turn]) -> Iterator[tuple[BaseDataLoader, Batch]]:
        """Yield the batches of an epoch's turns as they are read."""
        sources = [iter(loader) for loader in self.loaders]
        for turn, _ in turns:
            with preserve_random_state(), self.tracker.wait_for_data():
                batch = next(sources[turn])
            yield self.loaders[turn], batch

    def prepare_batch(self, read: tuple[BaseDataLoader, Batch]) -> Batch:
        """Return a loader's batch as a step takes it."""
        loader, batch = read
        return move_to_device(batch, loader, self.word_vectors.get(loader), self.device)

    def _read_steps(self) -> float:
        """Take in the numbers of the steps since the last reading; returns the last loss.

        Raises:
            NonFiniteLossError: a loss was not finite, and is not to be skipped.
        """
        steps, self.steps = self.steps, []
        if not steps:
            return math.nan
        values = torch.stack([step.numbers for step in steps]).tolist()
        for step, (loss, positive, negative, norm, *norms) in zip(steps, values, strict=True):
            if not math.isfinite(loss):
                self._skip_or_raise(step, loss)
                continue
            numbers = {
                "lr": step.lr,
                "gradient_norm": norm,
                "similarity_positive": positive,
                "similarity_negative": negative,
            } | {
                f"gradient_norm_{branch}": value
                for branch, value in zip(self.branches, norms, strict=True)
            }
            self.progress.finish_batch(*step.turn, loss)
            self.progress.add(numbers)
            if self.progress.step % self.settings.log_every == 0:
                self.tracker.log_step(self.progress.step, {"loss": loss, **numbers})
        return values[-1][0]

    def _skip_or_raise(self, step: Step, loss: float) -> None:
        """Write down the batch of a loss that is not finite; it is skipped, or the run ends."""
        self.progress.skip_batch()
        videos = list(itertools.chain.from_iterable(gather_objects(step.ids)))
        where = {"epoch": self.epoch + 1, "after_step": self.progress.step}
        where |= {"batch": self.progress.batches}
        file = self.tracker.log_not_finite(where | {"loss": str(loss), "videos": videos})
        text = f"the loss is {loss} at step {self.progress.step + 1} (epoch {self.epoch + 1})"
        if self.settings.on_nan == "skip" and self.progress.skipped <= MAX_SKIPPED:
            logger.warning("%s; the batch is skipped, its videos are listed in %s", text, file)
            return
        last = self.run_dir / LAST
        again = ""
        if last.exists():
            again = f" or trainer.on_nan to skip, then resume with -r {last} --allow-changes"
        raise NonFiniteLossError(
            f"{text}; stopped before the optimizer step, so the weights are those of step "
            f"{self.progress.step}. The batch: {', '.join(step.ids[:4])}"
            f"{' …' if len(step.ids) > 4 else ''}, listed in {file}. Lower optimizer.args.lr or "
            f"set trainer.clip_grad_norm{again}"
        )

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate every validation loader."""
        log: dict[str, float] = {}
        for number, loader in enumerate(self.valid_loaders):
            self._encode_frozen_words(loader, self.evaluator.precision)
            known = self.save_schedule.must_stop, self.word_vectors.get(loader)
            with self.parallel.gather_weights():
                evaluation = self.evaluator.run(self.model, loader, *known)
            if evaluation is None:
                self._stop()
            self.report.merge(evaluation.report)
            self.tracker.log_evaluation(epoch, number, evaluation)
            log |= flatten_evaluation(evaluation, number)
        return log

    def _encode_frozen_words(self, loader: BaseDataLoader, precision: Precision) -> None:
        with self.parallel.gather_weights():
            is_done = self.word_vectors.encode(loader, precision, self.save_schedule.must_stop)
        if not is_done:
            self._stop()

    def finish_epoch(self, epoch: int) -> None:
        """Count an epoch as done, and advance a schedule by epochs."""
        super().finish_epoch(epoch)
        self.progress.finish_epoch(epoch)
        if self.schedule:
            self.schedule.finish_epoch()

    def log_epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch, and what of the data could not be used so far."""
        report = self.report.gather()
        self.tracker.log_epoch(epoch, log | report.counts())
        if get_dist_info().is_main:
            report.write(self.run_dir / "data_report.json")

    def save_epoch(self, improved: bool, keep: bool) -> None:
        """Write the checkpoints of an epoch."""
        self._save(improved, keep)

    def _save_or_stop(self) -> None:
        """Save where it is time to, and end the run where it was asked to stop.

        Several processes ask each other only where they read their numbers anyway, or by a number
        of steps that all of them know.
        """
        step = self.progress.step + len(self.steps)
        action = self.save_schedule.choose_action(step)
        if get_dist_info().world_size > 1:
            if self.steps and not self.save_schedule.is_due_by_steps(step):
                return
            action = all_reduce_max(action, self.device)
        if action == STOP:
            self._stop()
        if action == SAVE:
            self._save()

    def _save(self, improved: bool = False, keep: bool = False, stopped: bool = False) -> None:
        self._read_steps()
        self.tracker.flush()  # what was shown before a checkpoint is there when it is resumed
        self.state.save(self.progress, self.report, improved, keep, stopped)
        self.save_schedule.restart_clock()

    def _stop(self) -> NoReturn:
        self._read_steps()
        step = self.progress.step
        self._save(stopped=step == 0 or not self.save_schedule.is_due_by_steps(step))
        all_reduce_max(0, self.device)  # a process that ends first would stop the one that writes
        self.state.raise_if_unsaved()
        raise Stopped(
            f"stopped and saved after step {self.progress.step}; go on with "
            f"python train.py -r {self.run_dir / LAST}",
            self.save_schedule.signals.received or signal.SIGTERM,
        )

    def _progress_bar(self, epoch: int, plan: Sequence[Turn], done: Sequence[Turn]) -> tqdm:
        total, initial = (sum(size for _, size in part) for part in (plan, done))
        return tqdm(
            total=total, initial=initial, desc=f"epoch {epoch}", unit=" samples",
            dynamic_ncols=True, disable=not get_dist_info().is_main,
        )  # fmt: skip


def plan_epoch(loaders: Sequence[BaseDataLoader], max_samples: int | None) -> list[Turn]:
    """Return (loader, number of samples) of each batch of an epoch.

    As published, an epoch is whole rounds: a batch of each loader. They end with the shortest
    loader, or before the round whose full batches would go past ``max_samples``. The first is
    always there: less than that would be no epoch.
    """
    sizes = [loader.batch_size for loader in loaders]
    lengths = [len(loader.dataset) for loader in loaders]
    rounds = min(math.ceil(n / size) for n, size in zip(lengths, sizes, strict=True))
    if max_samples is not None:
        rounds = min(rounds, max(1, max_samples // sum(sizes)))
    return [
        (turn, min(size, lengths[turn] - done * size))
        for done in range(rounds)
        for turn, size in enumerate(sizes)
    ]


def compute_pair_means(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the right pairs and of the others, NaN for one pair alone.

    Args:
        logits: (B, B), the right pairs on the diagonal.
    """
    right, size = logits.trace(), len(logits)
    return right / size, (logits.sum() - right) / (size * size - size)


def flatten_evaluation(evaluation: Evaluation, number: int) -> dict[str, float]:
    """Return an evaluation's numbers under the names that ``trainer.monitor`` uses."""
    log = {f"val_loss_{number}": evaluation.loss} if evaluation.loss is not None else {}
    for metric, values in evaluation.metrics.items():
        log |= {f"val_{number}_{metric}_{key}": value for key, value in values.items()}
    return log
