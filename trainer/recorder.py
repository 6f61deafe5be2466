"""Where the numbers of a run go: ``metrics.jsonl``, a board to look at, and the log."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from base.batch import Batch
from trainer.boards import Board, Tracker, open_board
from trainer.clips import shown_clips
from trainer.clock import StepClock
from trainer.evaluator.encode import Evaluation
from trainer.loading import Loader
from trainer.steady_board import SteadyBoard
from utils.distributed import ranks
from utils.files import write_text
from utils.ranks import t2v_ranks, v2t_ranks

logger = logging.getLogger(__name__)

NUM_CLIPS = 4
CLIPS_EVERY = 10  # epochs
# Values of a line of metrics.jsonl that differ between equal runs.
TIMINGS = ("seconds", "timing")


class Recorder:
    """Takes the numbers of a run; this one is for the processes that do not write.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._not_finite = run_dir / "not_finite.jsonl"

    def resume(self, epoch: int) -> None:
        """Go on after ``epoch``: what an earlier run wrote of later ones is done again."""

    def begin_epoch(self) -> None:
        """Start measuring an epoch's batches, or those that are left of it."""

    def waiting(self) -> AbstractContextManager[None]:
        """Return the context in which the run waits for data."""
        return nullcontext()

    def batch(self, loader: Loader, batch: Batch, epoch: int) -> None:
        """Take a batch of ``epoch`` as it came from the loader; some of them are shown."""

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of an optimizer step."""

    def batch_done(self, step: int, num_samples: int) -> None:
        """Take in that a batch of all processes is done; ``step`` is the last one."""

    def evaluation(self, epoch: int, number: int, evaluation: Evaluation) -> None:
        """Take the evaluation of a validation set."""

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Take the log of an epoch."""

    def not_finite(self, where: dict[str, Any]) -> Path:
        """Take a batch whose loss was not finite; returns the file that lists it."""
        return self._not_finite

    def close(self) -> None:
        """Finish writing."""


class FileRecorder(Recorder):
    """Appends one JSON line an epoch, and shows the same numbers and more on a board.

    A line of ``metrics.jsonl`` holds an epoch's log; ``seconds`` since the run was started and
    ``timing``, both of this process, are the only values that differ between equal runs.

    Args:
        run_dir: folder of the run.
        board: takes curves and pictures.
    """

    def __init__(self, run_dir: Path, board: Board) -> None:
        super().__init__(run_dir)
        self._file = run_dir / "metrics.jsonl"
        self._board = board
        self._clock = StepClock()
        self._shown_at: int | None = None  # the epoch whose clips were shown last
        self._start = time.monotonic()

    def resume(self, epoch: int) -> None:
        """Drop the lines of epochs after ``epoch``, which are run again."""
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self._file, "".join(line for line in lines if _epoch_of(line) <= epoch))

    def begin_epoch(self) -> None:
        """Start measuring an epoch's batches, or those that are left of it."""
        self._clock.begin_epoch()

    def waiting(self) -> AbstractContextManager[None]:
        """Return the context in which the run waits for data."""
        return self._clock.waiting()

    def batch(self, loader: Loader, batch: Batch, epoch: int) -> None:
        """Show clips of the run's first batch, and of one every ``CLIPS_EVERY`` epochs."""
        if self._shown_at is not None and epoch < self._shown_at + CLIPS_EVERY:
            return
        self._shown_at = epoch
        for number, clip in enumerate(shown_clips(loader, batch, NUM_CLIPS)):
            name = f"clips/{number}"
            self._board.text(name, clip.text, "epoch", epoch)
            if clip.picture is not None:
                self._board.image(name, clip.picture, "epoch", epoch)

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the numbers of one step."""
        self._board.scalars({f"step/{k}": v for k, v in numbers.items()}, "step", step)

    def batch_done(self, step: int, num_samples: int) -> None:
        """Show how long the batch took."""
        numbers = self._clock.batch_done(num_samples)
        self._board.scalars({f"step/{k}": v for k, v in numbers.items()}, "step", step)

    def evaluation(self, epoch: int, number: int, evaluation: Evaluation) -> None:
        """Show the distribution of the ranks, from captions to videos and back."""
        video = evaluation.video_of_query
        if not len(video):
            return
        for name, rank in (("t2v", t2v_ranks), ("v2t", v2t_ranks)):
            found = rank(evaluation.similarity, np.arange(len(video)), video)
            found = found[np.isfinite(found)]  # a video without a caption has no rank
            self._board.histogram(f"val_{number}_{name}_ranks", found, "epoch", epoch)

    def epoch(self, epoch: int, log: dict[str, float]) -> None:
        """Write the log of an epoch."""
        seconds = round(time.monotonic() - self._start, 2)
        timing = {name: round(value, 4) for name, value in self._clock.epoch().items()}
        line = {"epoch": epoch, "seconds": seconds} | log
        _append(self._file, line | {"timing": timing} if timing else line)
        shown = log | {f"timing/{name}": value for name, value in timing.items()}
        self._board.scalars(shown, "epoch", epoch)
        self._board.flush()
        logger.info("epoch %d: %s", epoch, ", ".join(f"{k} {v:.4g}" for k, v in log.items()))

    def not_finite(self, where: dict[str, Any]) -> Path:
        """Append a batch to ``not_finite.jsonl``."""
        _append(self._not_finite, where)
        return self._not_finite

    def close(self) -> None:
        """Finish writing."""
        self._board.close()


def build_recorder(tracker: Tracker, run_dir: Path, config: Mapping[str, Any]) -> Recorder:
    """Build the recorder of this process: the first one writes.

    Arguments and errors are those of ``open_board``.
    """
    if not ranks().is_first:
        return Recorder(run_dir)
    return FileRecorder(run_dir, SteadyBoard(open_board(tracker, run_dir, config)))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; one that was cut short is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if _epoch_of(line) < float("inf")]


def _append(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON line; what can't be written is said, and the run goes on."""
    line = json.dumps(value) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        logger.error("NOT WRITTEN to %s (%s): %s", path, error.strerror, line.strip())


def _epoch_of(line: str) -> float:
    """The epoch of a line; a line that was cut short belongs to none that is kept."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError):
        return float("inf")
