"""Long tasks in several processes; one that fails, or crashes its process, harms no other."""

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from utils.errors import UserError

Task = TypeVar("Task")
# A task, and what is called with the share of it that is done -> a picklable result.
Work = Callable[[Task, Callable[[float], None]], Any]

_POLL_S = 2.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class TaskError(Exception):
    """This task can't be done, others can; the text, one line, says why."""


class Progress(NamedTuple):
    """A task goes on; ``share`` of it, in (0, 1], is done."""

    number: int
    share: float


class Done(NamedTuple):
    """A task is finished."""

    number: int
    result: Any


class Failed(NamedTuple):
    """A task could not be done; ``reason`` is one line."""

    number: int
    reason: str


class _Stop(NamedTuple):
    """No task can be done: the run ends."""

    reason: str


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int = -1  # of the task in hand


def run_each(
    make_work: Callable[[], Work], tasks: Sequence[Task], workers: int
) -> Iterator[Progress | Done | Failed]:
    """Do every task in one of several processes, and tell what happens as it happens.

    Args:
        make_work: makes, in each process, the function that does a task. ``UserError`` from either
            ends the run, whatever else the function raises fails its task.
        tasks: what the function is given; the events count them from 0.
        workers: processes, at least 1.

    Yields:
        Any number of ``Progress`` for each task and one ``Done`` or ``Failed``.

    Raises:
        UserError: no task can be done (a package is missing), or the disk is full.
    """
    waiting = iter(enumerate(tasks))
    team = []
    try:
        for number, task in waiting:
            team.append(_started(make_work, number, task))
            if len(team) == workers:
                break
        while team:
            ready = wait([w.connection for w in team] + [w.process.sentinel for w in team])
            for worker in list(team):
                if worker.connection not in ready and worker.process.sentinel not in ready:
                    continue
                event = _event(worker)
                if isinstance(event, _Stop):
                    raise UserError(event.reason)
                yield event
                if isinstance(event, Progress):
                    continue
                following = next(waiting, None)
                if following is not None and worker.process.is_alive():
                    _hand(worker, *following)
                    continue
                team.remove(worker)
                if following is not None:
                    team.append(_started(make_work, *following))
                _end(worker)
    finally:
        for worker in team:
            _end(worker)


def _started(make_work: Callable[[], Work], number: int, task: Any) -> _Worker:
    # Forked, as the loaders' processes are; those started afresh import everything anew.
    context = get_context("fork" if "fork" in get_all_start_methods() else "spawn")
    connection, other = context.Pipe()
    process = context.Process(target=_serve, args=(make_work, other, os.getpid()), daemon=True)
    process.start()
    other.close()
    worker = _Worker(process, connection)
    _hand(worker, number, task)
    return worker


def _hand(worker: _Worker, number: int, task: Any) -> None:
    worker.number = number
    try:
        worker.connection.send((number, task))
    except BrokenPipeError:  # it has just died, which is seen next
        pass


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _event(worker: _Worker) -> Progress | Done | Failed | _Stop:
    """Return what a worker has to say, or what its death says."""
    try:
        if worker.connection.poll():
            return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        pass
    worker.process.join()
    code = worker.process.exitcode
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Failed(
        worker.number,
        f"its process ended ({name}): the file made a library crash, or the memory was used up; "
        "take it out, or give fewer --workers",
    )


def _serve(make_work: Callable[[], Work], connection: Connection, parent: int) -> None:
    """Do the tasks that come through a connection, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work = make_work()
    except UserError as error:
        connection.send(_Stop(str(error)))
        return
    while True:
        while not connection.poll(_POLL_S):
            _end_if_orphaned(parent)
        number, task = connection.recv()

        def tell(share: float, number: int = number) -> None:
            _end_if_orphaned(parent)
            connection.send(Progress(number, share))

        connection.send(_done(work, number, task, tell))


def _done(
    work: Work, number: int, task: Any, tell: Callable[[float], None]
) -> Done | Failed | _Stop:
    try:
        return Done(number, work(task, tell))
    except UserError as error:
        return _Stop(str(error))
    except TaskError as error:
        return Failed(number, str(error))
    except OSError as error:
        if error.errno in NO_ROOM:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            return _Stop(f"{where}{error.strerror}: free some space, or write to another folder")
        return Failed(number, str(error))
    except Exception as error:  # whatever a library makes of a strange file; it is told, not hidden
        return Failed(number, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _end_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        os._exit(1)
