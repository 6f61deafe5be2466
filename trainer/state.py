"""The state of a training run in its checkpoints."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base.base_trainer import BestValue
from trainer.data_report import DataReport
from trainer.optim import Schedule
from trainer.progress import Progress
from utils.checkpoint.files import (
    CheckpointError,
    check_whole,
    copy_checkpoint,
    load_checkpoint,
    make_folder,
    save_checkpoint,
)
from utils.checkpoint.weights import fit_weights, weights_of
from utils.distributed import gather_objects, ranks
from utils.precision import Precision
from utils.seed import random_states, restore_random_states

logger = logging.getLogger(__name__)

LAST, BEST = "model_last.pth", "model_best.pth"
NEEDED = {"state_dict", "optimizer", "scheduler", "scaler", "best", "progress", "random_states"}
NEEDED |= {"data_report"}


class TrainingState:
    """Everything that makes a resumed run equal to one that never stopped.

    Args:
        run_dir: where checkpoints go.
        config: resolved; kept in every checkpoint.
        model: and the following: saved and restored.
        optimizer: see ``model``.
        schedule: see ``model``.
        precision: see ``model``.
        best: see ``model``.
        keep_last: how many of the newest checkpoints are kept.
    """

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        precision: Precision,
        best: BestValue | None,
        keep_last: int,
    ) -> None:
        self.run_dir = run_dir
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.precision = precision
        self.best = best
        self.keep_last = keep_last
        self.unsaved: CheckpointError | None = None  # why the newest state is not on disk

    def save(
        self, progress: Progress, report: DataReport, improved: bool = False, keep: bool = False
    ) -> None:
        """Write the last checkpoint, the best if ``improved``, and one of the epoch if ``keep``.

        What can't be written is said loudly and tried again next time; the run goes on, and the
        checkpoints written before are kept. Every process has to call this; the first one writes.
        """
        random_of_all, report = gather_objects(random_states()), report.of_all()
        if not ranks().is_first:
            return
        state = {
            "arch": type(self.model).__name__,
            "epoch": progress.epoch,
            "step": progress.step,
            "progress": progress.state_dict(),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict() if self.schedule else None,
            "scaler": self.precision.scaler.state_dict(),
            "best": self.best.state_dict() if self.best else None,
            "random_states": random_of_all,
            "data_report": report.state_dict(),
            "config": self.config,
        }
        copies = [BEST] * improved + [f"checkpoint-epoch{progress.epoch}.pth"] * keep
        try:
            self._write(state, copies)
        except CheckpointError as error:
            self.unsaved = error
            lost = f" {BEST} stays that of an earlier epoch." if improved else ""
            logger.error("NOT SAVED: %s.%s The run goes on and will try again", error, lost)
        else:
            self.unsaved = None
            logger.debug("saved %s in %s", ", ".join([LAST, *copies]), self.run_dir)

    def raise_if_unsaved(self) -> None:
        """Raise the ``CheckpointError`` of a run whose last state is not on disk."""
        if self.unsaved is not None:
            raise self.unsaved

    def _write(self, state: dict[str, Any], copies: list[str]) -> None:
        if not self.run_dir.is_dir():
            logger.error("%s: the run's folder is gone; it is made anew", self.run_dir)
            make_folder(self.run_dir)
        last = self.run_dir / LAST
        self._rotate(last)
        save_checkpoint(last, state)
        for name in copies:
            copy_checkpoint(last, self.run_dir / name)

    def _rotate(self, last: Path) -> None:
        """Let each checkpoint take the place of the one before it; those too many go."""
        for number in range(self.keep_last - 1, 0, -1):
            newer = earlier(last, number - 1)
            if newer.exists():
                copy_checkpoint(newer, earlier(last, number))
        for number, path in numbered(last):
            if number >= self.keep_last:
                path.unlink(missing_ok=True)

    def load(self, path: Path) -> tuple[Progress, DataReport]:
        """Restore a checkpoint; returns how far its run was, and what it could not use.

        Raises:
            CheckpointError: it is damaged, no training checkpoint, or does not fit this run.
        """
        state = load_checkpoint(path)
        lacking = NEEDED - state.keys()
        if lacking:
            raise CheckpointError(
                f"{path}: can't be resumed, it has no {', '.join(sorted(lacking))}; to start from "
                "its weights alone, set arch.args.load_checkpoint"
            )
        check_whole(path)
        if (state["scheduler"] is None) != (self.schedule is None):
            raise CheckpointError(f"{path}: one of it and the configuration has no lr_scheduler")
        own = self.schedule.scheduler.state_dict() if self.schedule else {}
        if own.keys() != (state["scheduler"] or {}).keys():
            raise CheckpointError(f"{path}: its lr_scheduler is another than the configuration's")
        self._check_optimizer(state["optimizer"], path)
        fit_weights(self.model, weights_of(state, path), path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"{path}: its optimizer does not fit ({error})") from error
        if self.schedule:
            self.schedule.scheduler.load_state_dict(state["scheduler"])
            self.optimizer._opt_called = True  # it has stepped, in another process
        if self.best and state["best"]:
            self.best.load_state_dict(state["best"])
        if self.precision.scaler.is_enabled() and state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        self._restore_random_states(state["random_states"], path)
        return (
            Progress.from_state(state["progress"]),
            DataReport.from_state(state["data_report"]) if ranks().is_first else DataReport(),
        )

    @staticmethod
    def _restore_random_states(of_all: list[dict[str, Any]], path: Path) -> None:
        place = ranks()
        if len(of_all) != place.size:
            logger.warning(
                "%s: was written by %d processes, this run has %d: dropout goes another way than "
                "in a run that never stopped",
                path, len(of_all), place.size,
            )  # fmt: skip
        restore_random_states(of_all[place.rank % len(of_all)])

    def _check_optimizer(self, state: dict[str, Any], path: Path) -> None:
        """Refuse another optimizer's state; say which settings will be others than configured."""
        wanted = [_settings(group) for group in self.optimizer.param_groups]
        kept = [_settings(group) for group in state["param_groups"]]
        if [group.keys() for group in wanted] != [group.keys() for group in kept]:
            raise CheckpointError(f"{path}: its optimizer is of another kind than optimizer.type")
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


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group; ``lr`` is the one that a schedule starts from."""
    # A fused step is another program for the same numbers: devices differ in it.
    settings = {n: value for n, value in group.items() if n not in ("params", "fused")}
    return settings | {"lr": settings.pop("initial_lr", group["lr"])}


def earlier(last: Path, number: int) -> Path:
    """Return the name of the checkpoint ``number`` saves before ``model_last.pth``."""
    return last.with_stem(f"{last.stem}-{number}") if number else last


def numbered(last: Path) -> list[tuple[int, Path]]:
    """Return ``model_last.pth`` (0) and those before it that are there, the newest first."""
    found = [(0, last)] if last.exists() else []
    for path in last.parent.glob(f"{last.stem}-*{last.suffix}"):
        number = path.stem.removeprefix(f"{last.stem}-")
        found += [(int(number), path)] if number.isdecimal() else []
    return sorted(found)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run that is whole; damaged ones are said and passed over.

    Returns:
        None where there is none.

    Raises:
        CheckpointError: there are some, but none is whole.
    """
    # By name, as far as names tell: a copied folder, and copies without links, have other times.
    last = [path for _, path in numbered(run_dir / LAST)]
    others = [path for path in run_dir.glob("*.pth") if path not in last]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in last + others:
        try:
            check_whole(path)
        except CheckpointError as error:
            logger.error("%s; the one before it is tried", error)
        else:
            return path
    if last or others:
        raise CheckpointError(f"{run_dir}: holds no checkpoint that is whole; begin a new run")
    return None
