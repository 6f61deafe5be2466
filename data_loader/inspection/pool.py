"""Work on many files in several processes, with progress on standard error."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import TypeVar

from tqdm import tqdm

from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

QUIET_SECONDS = 2  # work that is done sooner shows no bar
_PARENT_S = 0.5  # between looks whether the first process is still there


def default_workers() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    label: str,
    chunk: int = 1,
    remedy: str = "Give fewer --workers, or choose another video reader",
    unit: str = " files",
) -> list[Result]:
    """Apply a module's function to every task; the results are in the tasks' order.

    Args:
        function: importable by name.
        tasks: picklable.
        workers: processes; 1 works in this one.
        label: the bar's title.
        chunk: tasks that a process is handed at a time.
        remedy: what may help where a process dies.
        unit: what a task is, for the bar.

    Raises:
        UserError: a process died, for want of memory or in a decoder.
        KeyboardInterrupt: after the processes have ended their files.
    """
    results: list[Result] = []
    bar = tqdm(
        total=len(tasks),
        desc=label,
        unit=unit,
        delay=QUIET_SECONDS,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log file keeps every line
        dynamic_ncols=True,
    )
    workers = min(workers, len(tasks))
    with bar:
        if workers <= 1:
            for task in tasks:
                results.append(function(task))
                bar.update()
            return results
        pool = _pool(workers)
        try:
            for result in pool.map(function, tasks, chunksize=chunk):
                results.append(result)
                bar.update()
        except BrokenProcessPool as error:
            raise UserError(
                f"{label}: a process ended at {len(results) + 1} of {len(tasks)}{unit} or a few "
                f"after it: the memory was used up, or a file makes the decoder crash. {remedy}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fresh process would import torch once more, which takes longer than most folders; forked
    # ones are what the data loaders use, too.
    method = "fork" if "fork" in get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(
        workers, mp_context=get_context(method), initializer=_depend_on_parent
    )


def _depend_on_parent() -> None:
    """Ctrl-C reaches every process, and only the first one is to answer; all end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    # A killed parent tells nobody, and its queue stays open in its other children.
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os._exit(1)
