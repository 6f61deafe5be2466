"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard and the log."""

import json
import logging
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Recorder:
    """Appends one JSON line an epoch and the same scalars to TensorBoard.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / "metrics.jsonl"
        self._board = SummaryWriter(str(run_dir / "tensorboard"))
        self._start = time.monotonic()

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""
        seconds = round(time.monotonic() - self._start, 2)
        line = json.dumps({"epoch": epoch, "seconds": seconds} | log)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        for name, value in log.items():
            self._board.add_scalar(name, value, epoch)
        self._board.flush()
        logger.info("epoch %d: %s", epoch, ", ".join(f"{k} {v:.4g}" for k, v in log.items()))

    def step(self, step: int, loss: float, lr: float) -> None:
        """Write the loss and the learning rate of one step to TensorBoard."""
        self._board.add_scalar("step/loss", loss, step)
        self._board.add_scalar("step/lr", lr, step)

    def close(self) -> None:
        """Finish writing."""
        self._board.close()
