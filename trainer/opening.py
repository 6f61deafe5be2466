"""All processes of a run enter its folder."""

from base.config import Config
from trainer.resume import Run, open_run
from utils.distributed import gather_objects, ranks
from utils.run_dir import setup_logging


def enter_run(config: Config, resume: str | None, chosen: str | None) -> Run:
    """Open the run in the first process, which logs to its folder, and tell the others of it.

    Arguments and errors are those of ``open_run``.
    """
    run, is_first = None, ranks().is_first
    setup_logging(config.trainer.verbosity if is_first else 0)
    if is_first:
        run = open_run(config, resume, chosen)
        setup_logging(config.trainer.verbosity, run.folder / "train.log")
    return gather_objects(run)[0]
