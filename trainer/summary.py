"""What a run comes to: the best epoch, its numbers, where the files are, and what to do next."""

import logging
from pathlib import Path
from typing import Any

from base.base_trainer import BestValue
from trainer.recorder import TIMINGS, read_metrics
from trainer.state import BEST, LAST
from trainer.trainer import Trainer

logger = logging.getLogger(__name__)

WIDTH = 10  # of a column of numbers


def train_to_the_end(trainer: Trainer, run_dir: Path) -> str:
    """Train, and return the run's summary; raises what ``Trainer.fit`` raises."""
    trainer.fit()
    return run_summary(run_dir, trainer.epoch, trainer.best)


def run_summary(run_dir: Path, epochs: int, best: BestValue | None) -> str:
    """Return the summary of a run that has come to its end, and log the heart of it.

    Args:
        run_dir: its folder; ``metrics.jsonl`` is read there.
        epochs: how many are done.
        best: the monitored quantity, or None.
    """
    best_epoch = best.epoch if best is not None else None
    shown = epochs if best_epoch is None else best_epoch
    written = {line["epoch"]: line for line in read_metrics(run_dir / "metrics.jsonl")}
    lines = [f"epochs done: {epochs}", _best_line(best), f"epoch {shown}:"]
    lines += _numbers(written[shown]) if shown in written else ["  not in metrics.jsonl"]
    lines += ["files:", *_files(run_dir), "next:", f"  {next_command(run_dir)}"]
    logger.info("the run is done; %s; next: %s", _best_line(best), next_command(run_dir))
    return "\n".join(lines) + "\n"


def next_command(run_dir: Path) -> str:
    """Return the command that tests the run's best checkpoint, or its last where there is none."""
    checkpoint = run_dir / (BEST if (run_dir / BEST).exists() else LAST)
    return f"python test.py -r {checkpoint} --sim_path {run_dir / 'test' / 'sim_matrix.npy'}"


def _best_line(best: BestValue | None) -> str:
    if best is None:
        return "best epoch: none, trainer.monitor is off"
    if best.value is None:
        return f"best epoch: none, {best.name} was never finite"
    where = "unknown, it was before this code noted it" if best.epoch is None else best.epoch
    return f"best epoch: {where} ({best.mode} {best.name} = {best.value:.6g})"


def _numbers(log: dict[str, Any]) -> list[str]:
    """One line a number."""
    left_out = {"epoch", *TIMINGS}
    numbers = {name: value for name, value in log.items() if name not in left_out}
    width = max(map(len, numbers), default=0)
    return [f"  {name:<{width}} {value:>{WIDTH}.4g}" for name, value in numbers.items()]


def _files(run_dir: Path) -> list[str]:
    """The files and folders of the run that are there, each with what it holds."""
    holds = {
        BEST: "weights of the best epoch",
        LAST: "everything to go on with: train.py -r",
        "metrics.jsonl": "numbers of every epoch",
        "tensorboard": f"curves and clips: tensorboard --logdir {run_dir}",
        "wandb": f"curves and clips: Weights & Biases; offline ones: wandb sync {run_dir}/wandb/*",
        "data_report.json": "what of the data could not be used",
        "train.log": "the log",
    }
    there = {name: text for name, text in holds.items() if (run_dir / name).exists()}
    width = max(map(len, there), default=0)
    return [f"  {str(run_dir / name):<{len(str(run_dir)) + 1 + width}}  {text}"
            for name, text in there.items()]  # fmt: skip
