"""The checkpoints in a run's folder: the last ones, the best, and those of single epochs.

``model_last.pth`` is what a run goes on from, and takes its name in one step. It says which of the
other names are to hold the same (``copies``): they are made after it, and before anything else when
a run that was killed in between goes on. So the folder is never that of two moments for long, and a
test of ``model_best.pth`` can tell that it was one.

The optimizer state of sharded training lies beside them, in folders that they name
(``trainer/optimizer_shards.py``).
"""

import logging
import re
from pathlib import Path
from typing import Any

from trainer.optimizer_shards import read_shards, remove_unused_shards, verify_shards
from utils.checkpoint.files import (
    CheckpointError,
    copy_checkpoint,
    hold_equal,
    load_values,
    make_folder,
    save_checkpoint,
    verify_checkpoint,
)
from utils.errors import UserError

logger = logging.getLogger(__name__)

LAST, BEST = "model_last.pth", "model_best.pth"
_COPY = re.compile(r"model_best\.pth|checkpoint-epoch\d{1,18}\.pth")


class CheckpointFolder:
    """Writes the checkpoints of a run.

    Args:
        path: the run's folder.
        keep_last: how many of the newest are kept.
    """

    def __init__(self, path: Path, keep_last: int) -> None:
        self.path = path
        self.last = path / LAST
        self.keep_last = keep_last
        self._unfinished: list[str] = []  # copies of the last one that could not be made yet
        self._newest = 0  # number of the last checkpoint that the run went on from
        self._replaces_last = False
        self._shards: dict[tuple[int, int], str | None] = {}  # for remove_unused_shards

    def write(self, state: dict[str, Any]) -> None:
        """Write the last checkpoint and its copies.

        The one before it is replaced when its copies are made, and becomes ``model_last-1.pth``,
        unless it was written because the run was stopped: a run that was never stopped has none.

        Raises:
            CheckpointError: one can't be written; those before it are kept.
        """
        if not self.path.is_dir():
            logger.error("%s: the run's folder is gone; it is made anew", self.path)
            make_folder(self.path)
        try:
            self._finish_copies()
            if not self._replaces_last:
                self._rotate()
            save_checkpoint(self.last, state)
            self._newest, self._replaces_last = 0, state["stopped"]
            self._unfinished = list(state["copies"])
            self._finish_copies()
        finally:
            remove_unused_shards(self.path, self._shards)

    def resume(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Make what a run that was killed has not made of the checkpoint that it goes on from.

        Raises:
            CheckpointError: it can't be written.
        """
        if checkpoint.parent.resolve() != self.path.resolve():
            return
        numbers = {path.name: number for number, path in list_last_checkpoints(self.last)}
        self._newest = numbers.get(checkpoint.name, 0)
        self._replaces_last = checkpoint.name == LAST and state.get("stopped") is True
        for name in list_copies(state):
            if not hold_equal(checkpoint, self.path / name):
                copy_checkpoint(checkpoint, self.path / name)
                logger.info("%s: written now from %s", self.path / name, checkpoint)
        self._restore_best(state)
        remove_unused_shards(self.path, self._shards)

    def _restore_best(self, state: dict[str, Any]) -> None:
        """Where a run goes back to an earlier epoch, put the one back that was the best then."""
        best, epoch = self.path / BEST, get_best_epoch(state)
        if epoch is None or not best.exists() or read_epoch(best) == epoch:
            return
        kept = self.path / f"checkpoint-epoch{epoch}.pth"
        if read_epoch(kept) == epoch:
            copy_checkpoint(kept, best)
            logger.info("%s: is that of epoch %d again", best, epoch)
        else:
            logger.warning(
                "%s: is not that of epoch %d, which was the best so far and has no other file; it "
                "stays until an epoch is better",
                best, epoch,
            )  # fmt: skip

    def _finish_copies(self) -> None:
        while self._unfinished and self.last.exists():
            copy_checkpoint(self.last, self.path / self._unfinished[0])
            del self._unfinished[0]

    def _rotate(self) -> None:
        """Let each checkpoint take the place of the one before it; those too many go.

        One that is there twice counts once, so that what was interrupted is finished.
        """
        chain: list[tuple[int, Path]] = []
        for number, path in list_last_checkpoints(self.last):
            if number >= self._newest and not (chain and hold_equal(chain[-1][1], path)):
                chain.append((number, path))
        moves = [(*found, place) for place, found in enumerate(chain[: self.keep_last - 1], 1)]
        nearer = [move for move in moves if move[0] > move[2]]
        farther = [move for move in moves if move[0] < move[2]]
        for _, path, place in [*nearer, *reversed(farther)]:  # none is overwritten before it moves
            copy_checkpoint(path, name_earlier(self.last, place))
        for number, path in list_last_checkpoints(self.last):
            if number >= self.keep_last:
                path.unlink(missing_ok=True)


def list_copies(state: dict[str, Any]) -> list[str]:
    """Return the names beside ``model_last.pth`` that are to hold the same as it."""
    if "copies" in state:
        return [name for name in state["copies"] if _COPY.fullmatch(name)]
    # Checkpoints of releases before this was kept.
    is_end = get_best_epoch(state) == state.get("epoch") and not state["progress"]["batches"]
    return [BEST] if is_end else []


def get_best_epoch(state: dict[str, Any]) -> int | None:
    """Return which epoch was the best when a checkpoint was written, where it knows."""
    best = state.get("best")
    return best.get("epoch") if isinstance(best, dict) else None


def read_epoch(path: Path) -> int | None:
    """Return the epoch that a checkpoint holds; None where it is not there, or can't be read."""
    try:
        return load_values(path).get("epoch")
    except CheckpointError:
        return None


def check_best(path: Path) -> None:
    """See that ``model_best.pth`` holds what the run beside it calls its best.

    Of checkpoints of other names nothing is known.

    Raises:
        UserError: the run was killed before it wrote its best.
    """
    last = path.with_name(LAST)
    if path.name != BEST or not last.is_file():
        return
    try:
        state = load_values(last)
        best, is_copy = get_best_epoch(state), BEST in list_copies(state)
    except (CheckpointError, LookupError, TypeError):
        return  # no checkpoint of this project, or one that resuming will complain of
    epoch = read_epoch(path)
    if is_copy and not hold_equal(path, last):
        raise UserError(
            f"{path}: holds epoch {epoch}, but the run was killed before it could write its best, "
            f"epoch {best}. Go on with python train.py -r {last}, which writes it, or give {last}, "
            "which holds it"
        )
    if None not in (best, epoch) and best != epoch:
        logger.warning(
            "%s: holds epoch %s, but %s says that epoch %s was the best; that could not be written",
            path, epoch, last, best,
        )  # fmt: skip


def name_earlier(last: Path, number: int) -> Path:
    """Return the name of the checkpoint ``number`` saves before ``model_last.pth``."""
    return last.with_stem(f"{last.stem}-{number}") if number else last


def list_last_checkpoints(last: Path) -> list[tuple[int, Path]]:
    """Return ``model_last.pth`` (0) and those before it that are there, the newest first."""
    found = [(0, last)] if last.exists() else []
    for path in last.parent.glob(f"{last.stem}-*{last.suffix}"):
        number = path.stem.removeprefix(f"{last.stem}-")
        found += [(int(number), path)] if number.isdecimal() else []
    return sorted(found)


def find_newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run that is whole; damaged ones are said and passed over.

    Returns:
        None where there is none.

    Raises:
        CheckpointError: there are some, but none is whole.
    """
    # By name, as far as names tell: a copied folder, and copies without links, have other times.
    last = [path for _, path in list_last_checkpoints(run_dir / LAST)]
    others = [path for path in run_dir.glob("*.pth") if path not in last]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in last + others:
        try:
            verify_checkpoint(path)
            verify_shards(read_shards(path), path)
        except CheckpointError as error:
            logger.error("%s; the one before it is tried", error)
        else:
            return path
    if last or others:
        raise CheckpointError(f"{run_dir}: holds no checkpoint that is whole; begin a new run")
    return None
