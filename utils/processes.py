"""Work on many files in several processes; one that fails, or crashes its process, harms no other.

``run_tasks`` tells what happens to each task as it happens; ``map_tasks`` wants every result, shows
a bar, and stops at the first failure.
"""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
# A task, and what is called with the share of it that is done -> a picklable result.
Work = Callable[[Task, Callable[[float], None]], Any]

BAR_DELAY_S = 2  # work that is done sooner shows no bar
_POLL_S = 2.0
_MAX_FILES = 65_536  # open at a time, where the system names no limit
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class TaskError(Exception):
    """This task can't be done, others can; the text, one line, says why."""


class TaskProgress(NamedTuple):
    """A task goes on; ``share`` of it, in (0, 1], is done."""

    number: int
    share: float


class TaskDone(NamedTuple):
    """A task is finished."""

    number: int
    result: Any


class TaskFailed(NamedTuple):
    """A task could not be done.

    ``reason`` is one line; ``traceback`` is that of an exception that is no ``TaskError`` and no
    ``OSError``: a library's on a strange file, or our own.
    """

    number: int
    reason: str
    traceback: str | None = None


class Abort(NamedTuple):
    """No task can be done: the run ends."""

    reason: str


# What does the same as ``run_tasks`` elsewhere (``utils.ray_pool``), of make_work and tasks.
RunTasks = Callable[
    [Callable[[], Work], Sequence[Any]], Iterator[TaskProgress | TaskDone | TaskFailed]
]


def count_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    label: str,
    chunk: int = 1,
    remedy: str = "Give fewer --workers, or choose another video reader",
    unit: str = " files",
    run: RunTasks | None = None,
) -> list[Result]:
    """Apply a function to every task, with a progress bar; the results are in the tasks' order.

    Args:
        function: raises ``UserError`` for what the user can mend, which ends the run.
        chunk: tasks that a process is handed at a time.
        remedy: what may help where a process dies.
        run: does the work in the place of processes of this machine.

    Raises:
        UserError: a task failed, or its process died, for want of memory or in a decoder.
    """
    bar = tqdm(
        total=len(tasks),
        desc=label,
        unit=unit,
        delay=BAR_DELAY_S,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log file keeps every line
        dynamic_ncols=True,
    )
    results: list[Any] = [None] * len(tasks)
    with bar:
        if run is None and min(workers, len(tasks)) <= 1:
            for number, task in enumerate(tasks):
                results[number] = function(task)
                bar.update()
            return results
        starts = range(0, len(tasks), chunk)
        chunks = [tasks[start : start + chunk] for start in starts]
        make_work = partial(_map_work, function)
        if run is None:
            events = run_tasks(make_work, chunks, min(workers, len(chunks)))
        else:
            events = run(make_work, chunks)
        for event in events:
            if isinstance(event, TaskFailed) and event.traceback is not None:
                raise RuntimeError(f"{label}, in a process: {event.traceback}")
            if isinstance(event, TaskFailed):
                raise UserError(
                    f"{label}: {event.reason}. It was at {starts[event.number] + 1} of {len(tasks)}"
                    f"{unit} or a few after it. {remedy}"
                )
            if isinstance(event, TaskDone):
                start = starts[event.number]
                results[start : start + len(event.result)] = event.result
                bar.update(len(event.result))
    return results


def _map_work(function: Callable[[Task], Result]) -> Work:
    return lambda chunk, _: [function(task) for task in chunk]


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int = -1  # of the task in hand


def run_tasks(
    make_work: Callable[[], Work], tasks: Sequence[Task], workers: int
) -> Iterator[TaskProgress | TaskDone | TaskFailed]:
    """Do every task in one of several processes, and tell what happens as it happens.

    Args:
        make_work: makes, in each process, the function that does a task. ``UserError`` from either
            ends the run, whatever else the function raises fails its task.
        tasks: what the function is given; the events count them from 0.
        workers: processes, at least 1.

    Yields:
        Any number of ``TaskProgress`` for each task and one ``TaskDone`` or ``TaskFailed``.

    Raises:
        UserError: no task can be done (a package is missing), or the disk is full.
    """
    waiting = iter(enumerate(tasks))
    team = []
    try:
        for number, task in waiting:
            team.append(_start_worker(make_work, number, task))
            if len(team) == workers:
                break
        while team:
            ready = wait([w.connection for w in team] + [w.process.sentinel for w in team])
            for worker in list(team):
                if worker.connection not in ready and worker.process.sentinel not in ready:
                    continue
                event = _receive_event(worker)
                if isinstance(event, Abort):
                    raise UserError(event.reason)
                yield event
                if isinstance(event, TaskProgress):
                    continue
                following = next(waiting, None)
                if following is not None and worker.process.is_alive():
                    _send_task(worker, *following)
                    continue
                team.remove(worker)
                if following is not None:
                    team.append(_start_worker(make_work, *following))
                _end_worker(worker)
    finally:
        for worker in team:
            _end_worker(worker)


def run_in_order(
    events: Iterator[TaskProgress | TaskDone | TaskFailed],
) -> Iterator[TaskProgress | TaskDone | TaskFailed]:
    """Pass on what became of tasks in the order of the tasks; what comes early is held back."""
    held: dict[int, TaskDone | TaskFailed] = {}
    following = 0
    for event in events:
        if isinstance(event, TaskProgress):
            yield event
            continue
        held[event.number] = event
        while following in held:
            yield held.pop(following)
            following += 1


def _start_worker(make_work: Callable[[], Work], number: int, task: Any) -> _Worker:
    # Forked, as the loaders' processes are; those started afresh import everything anew.
    context = get_context("fork" if "fork" in get_all_start_methods() else "spawn")
    connection, other = context.Pipe()
    arguments = (make_work, other, os.getpid())
    process = context.Process(target=_serve_tasks, args=arguments, daemon=True)
    process.start()
    other.close()
    worker = _Worker(process, connection)
    _send_task(worker, number, task)
    return worker


def _send_task(worker: _Worker, number: int, task: Any) -> None:
    worker.number = number
    try:
        worker.connection.send((number, task))
    except BrokenPipeError:  # it has just died, which is seen next
        pass


def _end_worker(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _receive_event(worker: _Worker) -> TaskProgress | TaskDone | TaskFailed | Abort:
    """Return what a worker has to say, or what its death says."""
    try:
        if worker.connection.poll():
            return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        pass
    worker.process.join()
    code = worker.process.exitcode
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return TaskFailed(
        worker.number,
        f"its process ended ({name}): the file made a library crash, or the memory was used up; "
        "take it out, or give fewer --workers",
    )


def _serve_tasks(make_work: Callable[[], Work], connection: Connection, parent: int) -> None:
    """Do the tasks that come through a connection, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work = make_work()
    except UserError as error:
        connection.send(Abort(str(error)))
        return
    while True:
        while not connection.poll(_POLL_S):
            _end_if_orphaned(parent)
        number, task = connection.recv()

        def tell(share: float, number: int = number) -> None:
            _end_if_orphaned(parent)
            connection.send(TaskProgress(number, share))

        connection.send(run_task(work, number, task, tell))


def run_task(
    work: Work, number: int, task: Any, tell: Callable[[float], None]
) -> TaskDone | TaskFailed | Abort:
    """Do a task, and return what became of it."""
    try:
        return TaskDone(number, work(task, tell))
    except UserError as error:
        return Abort(str(error))
    except TaskError as error:
        return TaskFailed(number, str(error))
    except OSError as error:
        if error.errno in _DISK_FULL:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            return Abort(f"{where}{error.strerror}: free some space, or write to another folder")
        return TaskFailed(number, str(error))
    except Exception as error:  # whatever a library makes of a strange file; it is told, not hidden
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return TaskFailed(number, reason, traceback.format_exc())


def end_with_parent() -> None:
    """End this process, whatever it is at, soon after the one that started it has ended.

    What a killed process has started would go on for hours otherwise. A thread looks now and then.
    """
    parent = os.getppid()

    def watch() -> None:
        while True:
            time.sleep(_POLL_S)
            _end_if_orphaned(parent)

    threading.Thread(target=watch, daemon=True).start()


def _end_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        os._exit(1)


def raise_file_limit() -> int:
    """Let this process have as many files open as the system allows it; returns how many."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS has a limit that it doesn't say
        return soft
    return wanted
