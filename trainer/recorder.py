"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard and the log."""

import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from utils.files import write_text

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Takes the numbers of a run."""

    def resume(self, epoch: int) -> None:
        """Go on after ``epoch``: what an earlier run wrote of later ones is done again."""

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Take the log of an epoch."""

    def step(self, step: int, loss: float, lr: float, norm: torch.Tensor) -> None:
        """Take the loss, the learning rate and the gradient's norm of one step."""

    def not_finite(self, where: dict[str, Any]) -> Path:
        """Take a batch whose loss was not finite; returns the file that lists it."""

    def close(self) -> None:
        """Finish writing."""


class FileRecorder:
    """Appends one JSON line an epoch and the same scalars to TensorBoard.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / "metrics.jsonl"
        self._not_finite = run_dir / "not_finite.jsonl"
        self._board = SummaryWriter(str(run_dir / "tensorboard"))
        self._start = time.monotonic()

    def resume(self, epoch: int) -> None:
        """Drop the lines of epochs after ``epoch``, which are run again."""
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self._file, "".join(line for line in lines if _epoch_of(line) <= epoch))

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""
        seconds = round(time.monotonic() - self._start, 2)
        self._append(self._file, {"epoch": epoch, "seconds": seconds} | log)
        for name, value in log.items():
            self._board.add_scalar(name, value, epoch)
        self._board.flush()
        logger.info("epoch %d: %s", epoch, ", ".join(f"{k} {v:.4g}" for k, v in log.items()))

    def step(self, step: int, loss: float, lr: float, norm: torch.Tensor) -> None:
        """Write the numbers of one step to TensorBoard."""
        self._board.add_scalar("step/loss", loss, step)
        self._board.add_scalar("step/lr", lr, step)
        self._board.add_scalar("step/gradient_norm", norm, step)

    def not_finite(self, where: dict[str, Any]) -> Path:
        """Append a batch to ``not_finite.jsonl``."""
        self._append(self._not_finite, where)
        return self._not_finite

    def close(self) -> None:
        """Finish writing."""
        self._board.close()

    @staticmethod
    def _append(path: Path, value: dict[str, Any]) -> None:
        """Append a JSON line; what can't be written is said, and the run goes on."""
        line = json.dumps(value) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            logger.error("NOT WRITTEN to %s (%s): %s", path, error.strerror, line.strip())


class NoRecorder:
    """Takes the numbers in the processes that do not write."""

    def __init__(self, run_dir: Path) -> None:
        self._not_finite = run_dir / "not_finite.jsonl"

    def resume(self, epoch: int) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Do nothing."""

    def step(self, step: int, loss: float, lr: float, norm: torch.Tensor) -> None:
        """Do nothing."""

    def not_finite(self, where: dict[str, Any]) -> Path:
        """Name the file that the first process writes."""
        return self._not_finite

    def close(self) -> None:
        """Do nothing."""


def _epoch_of(line: str) -> float:
    """The epoch of a line; a line that was cut short belongs to none that is kept."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError):
        return float("inf")
