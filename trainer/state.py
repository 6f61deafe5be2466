"""The state of a training run in its checkpoints."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base.base_trainer import BestValue
from trainer.optim import Schedule
from utils.checkpoint.files import (
    CheckpointError,
    copy_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from utils.checkpoint.weights import fit_weights, weights_of
from utils.seed import random_states, restore_random_states

logger = logging.getLogger(__name__)

LAST, BEST = "model_last.pth", "model_best.pth"
NEEDED = {"state_dict", "optimizer", "scheduler", "best", "epoch", "step", "random_states"}


class TrainingState:
    """Everything that makes a resumed run equal to one that never stopped.

    Args:
        run_dir: where checkpoints go.
        config: resolved; kept in every checkpoint.
        model: and the following: saved and restored.
        optimizer: see ``model``.
        schedule: see ``model``.
        best: see ``model``.
    """

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        best: BestValue | None,
    ) -> None:
        self.run_dir = run_dir
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.best = best

    def save(self, epoch: int, step: int, improved: bool, keep: bool) -> None:
        """Write the last checkpoint, the best if ``improved``, and a numbered one if ``keep``.

        Raises:
            CheckpointError: it can't be written; those written before are kept.
        """
        state = {
            "arch": type(self.model).__name__,
            "epoch": epoch,
            "step": step,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict() if self.schedule else None,
            "best": self.best.state_dict() if self.best else None,
            "random_states": random_states(),
            "config": self.config,
        }
        save_checkpoint(self.run_dir / LAST, state)
        copies = [BEST] * improved + [f"checkpoint-epoch{epoch}.pth"] * keep
        for name in copies:
            copy_checkpoint(self.run_dir / LAST, self.run_dir / name)
        logger.debug("saved %s in %s", ", ".join([LAST, *copies]), self.run_dir)

    def load(self, path: Path) -> tuple[int, int]:
        """Restore a checkpoint; returns its epoch and step.

        Raises:
            CheckpointError: it is not a training checkpoint, or does not fit this run.
        """
        state = load_checkpoint(path)
        lacking = NEEDED - state.keys()
        if lacking:
            raise CheckpointError(
                f"{path}: can't be resumed, it has no {', '.join(sorted(lacking))}; to start from "
                "its weights alone, set arch.args.load_checkpoint"
            )
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
        if self.best and state["best"]:
            self.best.load_state_dict(state["best"])
        restore_random_states(state["random_states"])
        return state["epoch"], state["step"]

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
    settings = {name: value for name, value in group.items() if name != "params"}
    return settings | {"lr": settings.pop("initial_lr", group["lr"])}
