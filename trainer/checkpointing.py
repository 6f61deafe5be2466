"""Checkpoints of a training run: what they hold, when they are written, how one is resumed."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.base_model import RetrievalModel
from base.base_trainer import Monitor
from base.config import Config
from base.criterion import Criterion
from evaluation.data_report import DataReport
from trainer.changes import check_changes
from trainer.checkpoint_folder import (
    BEST,
    LAST,
    CheckpointFolder,
    check_best,
    find_newest_checkpoint,
)
from trainer.optim import Schedule
from trainer.parallel import Parallel
from utils.checkpoint.files import (
    CheckpointError,
    explain_damaged_state,
    load_checkpoint,
    verify_checkpoint,
)
from utils.checkpoint.weights import get_weights, load_weights
from utils.distributed import gather_objects, get_dist_info
from utils.errors import UserError
from utils.files import remove_temporary_files
from utils.interrupt import StopSignals
from utils.precision import Precision
from utils.run_dir import find_latest_run_dir, make_run_dir, setup_logging
from utils.seed import get_random_states, restore_random_states

logger = logging.getLogger(__name__)

AUTO = "auto"
NOTHING, SAVE, STOP = 0, 1, 2  # of all processes' actions the largest counts
NEEDED = {"state_dict", "optimizer", "scheduler", "scaler", "best", "progress", "random_states"}
NEEDED |= {"data_report"}


@dataclass(frozen=True)
class Run:
    """A run's folder, and the checkpoint to go on from, None for a new run."""

    folder: Path
    checkpoint: Path | None = None


def enter_run(config: Config, resume: str | None, chosen: str | None) -> Run:
    """Let all processes enter a run's folder; the first one finds or makes it, and logs there.

    Args:
        config: names the folder of all runs and the experiment.
        resume: a checkpoint; ``auto``: the newest intact one in the chosen folder, or in that of
            the newest run of this name, and a new run where there is none; None: a new run.
        chosen: the run's folder, where the user names one.

    Raises:
        UserError: there is no such checkpoint, none is intact, or the folder can't be made.
    """
    run, is_main = None, get_dist_info().is_main
    setup_logging(config.trainer.verbosity if is_main else 0)
    if is_main:
        run = open_run(config, resume, chosen)
        setup_logging(config.trainer.verbosity, run.folder / "train.log")
    return gather_objects(run)[0]


def open_run(config: Config, resume: str | None, chosen: str | None) -> Run:
    """Find what to go on with, or make the folder of a new run; see ``enter_run``."""
    save_dir = config.trainer.save_dir
    if resume not in (None, AUTO):
        if not Path(resume).is_file():
            raise UserError(f"{resume}: no such checkpoint to resume")
        return _reopen(Path(resume).parent, Path(resume))
    if resume == AUTO:
        folder = Path(chosen) if chosen else find_latest_run_dir(save_dir, config.name)
        if folder is not None and folder.is_dir():
            logger.info("-r auto: looking into %s", folder)
            checkpoint = find_newest_checkpoint(folder)
            if checkpoint is None:
                logger.info("no checkpoint in %s: the run begins there", folder)
            return _reopen(folder, checkpoint)
    return _reopen(make_run_dir(save_dir, config.name, chosen), None)


def _reopen(folder: Path, checkpoint: Path | None) -> Run:
    for name in remove_temporary_files(folder):
        logger.info("%s: removed %s, left by a run that was killed while it wrote", folder, name)
    return Run(folder, checkpoint)


class SaveSchedule:
    """Says after each step whether to save within the epoch, or to stop."""

    def __init__(
        self, signals: StopSignals, every_steps: int | None, every_minutes: float | None
    ) -> None:
        self.signals = signals
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count the minutes anew; every process calls this, whichever of them was due."""
        self._saved_at = time.monotonic()

    def choose_action(self, step: int) -> int:
        """Return ``STOP``, ``SAVE`` or ``NOTHING`` after optimizer step ``step``."""
        if self.must_stop():
            return STOP
        return SAVE if self.is_due_by_steps(step) or self._is_due_by_time() else NOTHING

    def must_stop(self) -> bool:
        """Whether the run was asked to stop."""
        return self.signals.received != 0

    def is_due_by_steps(self, step: int) -> bool:
        """Whether to save after this step; the same in every process."""
        return self.every_steps is not None and step % self.every_steps == 0

    def _is_due_by_time(self) -> bool:
        if self.every_minutes is None:
            return False
        return time.monotonic() - self._saved_at >= 60 * self.every_minutes


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

    def finish_batch(self, loader: int, size: int, loss: float) -> None:
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

    def skip_batch(self) -> None:
        """Take in a batch that the optimizer did not step on."""
        self.batches += 1
        self.skipped += 1

    def finish_epoch(self, epoch: int) -> None:
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


class TrainingState:
    """Everything that makes a resumed run equal to one that never stopped."""

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        parallel: Parallel,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        precision: Precision,
        monitor: Monitor | None,
        keep_last: int,
        inputs: dict[str, Any] | None = None,
    ) -> None:
        self.folder = CheckpointFolder(run_dir, keep_last)
        self.config = config
        self.inputs = inputs
        self.parallel = parallel
        self.criterion = parallel.criterion
        self.optimizer = optimizer
        self.schedule = schedule
        self.precision = precision
        self.monitor = monitor
        self.unsaved: CheckpointError | None = None  # why the newest state is not on disk

    def save(
        self,
        progress: Progress,
        report: DataReport,
        improved: bool = False,
        keep: bool = False,
        stopped: bool = False,
    ) -> None:
        """Write the last checkpoint, the best if ``improved``, and one of the epoch if ``keep``.

        What can't be written is said loudly and tried again next time; the run goes on, and the
        checkpoints written before are kept. Every process has to call this; the first one writes.

        Args:
            stopped: whether it is written only because the run was asked to stop.
        """
        random_of_all, report = gather_objects(get_random_states()), report.gather()
        weights = self.parallel.collect_weights()
        try:
            optimizer = self.parallel.save_optimizer(
                self.optimizer, self.folder.path, progress.step
            )
        except CheckpointError as error:
            self._note_unsaved(error, improved)
            return
        if not get_dist_info().is_main:
            return
        copies = [BEST] * improved + [f"checkpoint-epoch{progress.epoch}.pth"] * keep
        state = {
            "arch": type(self.parallel.model).__name__,
            "epoch": progress.epoch,
            "step": progress.step,
            "progress": progress.state_dict(),
            "state_dict": weights,
            "criterion": self.criterion.state_dict(),
            "optimizer": optimizer,
            "scheduler": self.schedule.scheduler.state_dict() if self.schedule else None,
            "scaler": self.precision.scaler.state_dict(),
            "best": self.monitor.state_dict() if self.monitor else None,
            "random_states": random_of_all,
            "data_report": report.state_dict(),
            "config": self.config,
            "inputs": self.inputs,
            "copies": copies,
            "stopped": stopped,
        }
        try:
            self.folder.write(state)
        except CheckpointError as error:
            self._note_unsaved(error, improved)
        else:
            self.unsaved = None
            logger.debug("saved %s in %s", ", ".join([LAST, *copies]), self.folder.path)

    def _note_unsaved(self, error: CheckpointError, improved: bool) -> None:
        if get_dist_info().is_main:
            self.unsaved = error
            lost = f" {BEST} stays that of an earlier epoch." if improved else ""
            logger.error("NOT SAVED: %s.%s The run goes on and will try again", error, lost)

    def raise_if_unsaved(self) -> None:
        """Raise the ``CheckpointError`` of a run whose last state is not on disk."""
        if self.unsaved is not None:
            raise self.unsaved

    @explain_damaged_state
    def load(self, path: Path, allow_changes: bool | None = None) -> tuple[Progress, DataReport]:
        """Restore a checkpoint; returns how far its run was, and what it could not use.

        Every process has to call this.

        Args:
            allow_changes: whether it may be one of other data or settings; None: they are not
                compared.

        Raises:
            CheckpointError: it is damaged, no training checkpoint, or does not fit this run.
            UserError: it was written with other data or settings; see ``check_changes``.
        """
        state = load_checkpoint(path)
        missing = NEEDED - state.keys()
        if missing:
            raise CheckpointError(
                f"{path}: can't be resumed, it has no {', '.join(sorted(missing))}; to start from "
                "its weights alone, set arch.args.load_checkpoint"
            )
        verify_checkpoint(path)
        if (state["scheduler"] is None) != (self.schedule is None):
            raise CheckpointError(f"{path}: one of it and the configuration has no lr_scheduler")
        own = self.schedule.scheduler.state_dict() if self.schedule else {}
        if own.keys() != (state["scheduler"] or {}).keys():
            raise CheckpointError(f"{path}: its lr_scheduler is another than the configuration's")
        self._check_optimizer(state, path)
        load_criterion(self.criterion, state, path)
        self.parallel.load_weights(get_weights(state, path), path)
        try:
            self.parallel.load_optimizer(self.optimizer, state["optimizer"], path)
        except ValueError as error:
            raise CheckpointError(f"{path}: its optimizer does not fit ({error})") from error
        if self.schedule:
            self.schedule.scheduler.load_state_dict(state["scheduler"])
            self.optimizer._opt_called = True  # it has stepped, in another process
        if self.monitor and state["best"]:
            self.monitor.load_state_dict(state["best"])
        if self.precision.scaler.is_enabled() and state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        self._restore_random_states(state["random_states"], path)
        if allow_changes is not None:
            self._check_changes(path, state, allow_changes)
        if get_dist_info().is_main:
            self.folder.resume(path, state)
        return (
            Progress.from_state(state["progress"]),
            DataReport.from_state(state["data_report"])
            if get_dist_info().is_main
            else DataReport(),
        )

    def _check_changes(self, path: Path, state: dict[str, Any], allowed: bool) -> None:
        """Let the first process, which knows the data, compare; all of them end together."""
        problem = None
        if get_dist_info().is_main:
            try:
                check_changes(path, state, self.config, self.inputs or {}, allowed)
            except UserError as error:
                problem = str(error)
        problem = gather_objects(problem)[0]
        if problem is not None:
            raise UserError(problem)

    @staticmethod
    def _restore_random_states(states: list[dict[str, Any]], path: Path) -> None:
        info = get_dist_info()
        if len(states) != info.world_size:
            logger.warning(
                "%s: was written by %d processes, this run has %d: dropout goes another way than "
                "in a run that never stopped",
                path, len(states), info.world_size,
            )  # fmt: skip
        restore_random_states(states[info.rank % len(states)])

    def _check_optimizer(self, state: dict[str, Any], path: Path) -> None:
        """Refuse another optimizer's state; say which settings will be others than configured."""
        wanted = [_get_settings(group) for group in self.optimizer.param_groups]
        kept = [_get_settings(group) for group in state["optimizer"]["param_groups"]]
        # AdamW and TransformersAdamW keep the same numbers and step otherwise.
        own, its = (_get_optimizer_type(config) for config in (self.config, state.get("config")))
        other_type = None not in (own, its) and own != its
        if other_type or [group.keys() for group in wanted] != [group.keys() for group in kept]:
            names = f" ({its} in place of {own})" if other_type else ""
            raise CheckpointError(
                f"{path}: its optimizer is of another kind than optimizer.type{names}; resume with "
                "-r alone, by the checkpoint's own configuration, or start a new run from these "
                "weights with arch.args.load_checkpoint"
            )
        for new, old in zip(wanted, kept, strict=True):
            for name in (name for name in new if new[name] != old[name]):
                logger.warning(
                    "optimizer.args.%s is %s in the configuration, but a resumed run goes on with "
                    "the checkpoint's %s; to change it, start a new run from these weights with "
                    "arch.args.load_checkpoint",
                    name,
                    new[name],
                    old[name],
                )


def _get_optimizer_type(config: Any) -> str | None:
    """Return ``optimizer.type`` of a resolved configuration, where there is one."""
    try:
        return config["optimizer"]["type"]
    except (KeyError, TypeError):
        return None


_NOT_SETTINGS = ("params", "param_names", "fused")


def _get_settings(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group; ``lr`` is the one that a schedule starts from."""
    # A fused step is another program for the same numbers: devices differ in it.
    settings = {n: value for n, value in group.items() if n not in _NOT_SETTINGS}
    return settings | {"lr": settings.pop("initial_lr", group["lr"])}


def load_model(model: RetrievalModel, criterion: Criterion, path: Path) -> dict[str, Any]:
    """Load a checkpoint's weights strictly, and what its loss has learned.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointError: the file can't be read, or does not fit; the names are listed.
        UserError: it is not what its run calls its best; see ``check_best``.
    """
    check_best(path)
    state = load_checkpoint(path)
    load_weights(model, path, state)
    if criterion.state_dict():
        load_criterion(criterion, state, path)
    return state


def load_criterion(criterion: Criterion, state: Mapping[str, Any], path: Path) -> None:
    """Restore what a criterion has learned from the state of a checkpoint.

    Checkpoints from elsewhere, and those of before this was kept, have nothing of it.

    Raises:
        CheckpointError: the parameters there are those of another loss, or none.
    """
    own, found = criterion.state_dict(), state.get("criterion") or {}
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path}: its criterion is no dictionary of tensors")
    if not own and not found:
        return
    if not found:
        logger.warning("%s: has no learned parameters of the loss; it has those of its start", path)
        return
    shapes = [{name: tuple(value.shape) for name, value in of.items()} for of in (own, found)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{path}: its loss has the parameters {shapes[1]}, but that of the configuration "
            f"{shapes[0]}; give its own configuration"
        )
    criterion.load_state_dict(found)
