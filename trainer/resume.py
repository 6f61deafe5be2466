"""The folder that a run works in, and the checkpoint that it goes on from."""

import logging
from dataclasses import dataclass
from pathlib import Path

from base.config import Config
from trainer.state import newest_checkpoint
from utils.checkpoint.files import remove_leftovers
from utils.errors import UserError
from utils.run_dir import latest_run_dir, make_run_dir

logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class Run:
    """A run's folder, and the checkpoint to go on from, None for a new run."""

    folder: Path
    checkpoint: Path | None = None


def open_run(config: Config, resume: str | None, chosen: str | None) -> Run:
    """Find what to go on with, or make the folder of a new run.

    Args:
        config: names the folder of all runs and the experiment.
        resume: a checkpoint; ``auto``: the newest whole one in the chosen folder, or in that of
            the newest run of this name, and a new run where there is none; None: a new run.
        chosen: the run's folder, where the user names one.

    Raises:
        UserError: there is no such checkpoint, none of them is whole, or the folder can't be made.
    """
    save_dir = config.trainer.save_dir
    if resume not in (None, AUTO):
        if not Path(resume).is_file():
            raise UserError(f"{resume}: no such checkpoint to resume")
        return _existing(Path(resume).parent, Path(resume))
    if resume == AUTO:
        folder = Path(chosen) if chosen else latest_run_dir(save_dir, config.name)
        if folder is not None and folder.is_dir():
            logger.info("-r auto: looking into %s", folder)
            checkpoint = newest_checkpoint(folder)
            if checkpoint is None:
                logger.info("no checkpoint in %s: the run begins there", folder)
            return _existing(folder, checkpoint)
    return Run(make_run_dir(save_dir, config.name, chosen))


def _existing(folder: Path, checkpoint: Path | None) -> Run:
    for name in remove_leftovers(folder):
        logger.info("%s: removed %s, left by a run that was killed while it wrote", folder, name)
    return Run(folder, checkpoint)
