"""Work on many files by the machines of a Ray cluster, in the way of ``utils.processes.run_tasks``.

Each worker is an actor: it loads what the work needs (a model, an engine) once, and does one task
after the other. A worker that dies, and one whose machine is lost, is replaced, and its task is
done again; a task that ``MAX_DEATHS`` workers died of has failed. Tasks have to be such that doing
one twice is harmless: they write a file in one step, or return what the driver writes.

Nothing is sent to the machines but tasks and results: the project, the videos and the models have
to lie there under the same paths, in a shared file system (docs/ray.md).
"""

import argparse
import hashlib
import logging
import os
import platform
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tqdm import tqdm
from typing_extensions import Self

from utils.cli import positive_int
from utils.errors import UserError
from utils.optional import import_optional
from utils.processes import (
    Abort,
    TaskDone,
    TaskFailed,
    TaskProgress,
    Work,
    count_cpus,
    run_task,
)

AUTO, LOCAL = "auto", "local"  # addresses
MAX_DEATHS = 3  # of workers, until a task counts as failed, and until none is started any more
_PROGRESS_S = 0.5  # between two messages of a worker that a task goes on
_ANSWER_S = 10.0  # of a cluster
_WAIT_S = 30.0  # until it is said that no worker has begun
_PROJECT = Path(__file__).parents[1]
# Results depend on these, beside the project's own code.
_PACKAGES = (
    "torch torchvision transformers numpy av onnxruntime rapidocr-onnxruntime moonshine-voice "
    "opencv-python-headless"
).split()


@dataclass(frozen=True)
class RayOptions:
    """Where the work is done.

    Attributes:
        address: ``auto`` (the cluster of $RAY_ADDRESS or the one that ``ray start`` has started on
            this machine, and where there is none one for the time of the command), ``local``
            (always such a one), or HOST:PORT of a cluster.
        cpus: of a worker; None: 1, of one with a GPU its share of those of its machine.
        gpus: of a worker, a share of one too; None: 1 where the work uses a model and the cluster
            has GPUs.
    """

    address: str = AUTO
    cpus: int | None = None
    gpus: float | None = None


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--ray``, ``--ray-cpus`` and ``--ray-gpus``, which ``read_ray_options`` reads."""
    address = (
        "work on a Ray cluster: HOST:PORT; auto or nothing: that of $RAY_ADDRESS or of this "
        "machine, or else one of its own; local: one of its own (docs/ray.md)"
    )
    parser.add_argument("--ray", nargs="?", const=AUTO, metavar="ADDRESS", help=address)
    cpus = "CPUs of a worker of --ray (1, with a GPU its share)"
    parser.add_argument("--ray-cpus", type=positive_int, metavar="N", help=cpus)
    gpus = "GPUs of a worker of --ray, such as 0.5 (1 where a model is used and GPUs are there)"
    parser.add_argument("--ray-gpus", type=_parse_gpus, metavar="SHARE", help=gpus)


def _parse_gpus(text: str) -> float:
    try:
        if 0 <= float(text) < 1 or float(text) in range(1, 1000):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a share below 1, or a whole number, got {text}")


def read_ray_options(arguments: argparse.Namespace) -> RayOptions | None:
    """Return what the options of ``add_ray_arguments`` say; None: no cluster is wanted.

    Raises:
        UserError: they contradict each other.
    """
    if arguments.ray is None:
        if arguments.ray_cpus is not None or arguments.ray_gpus is not None:
            raise UserError("--ray-cpus and --ray-gpus change nothing without --ray; give it, too")
        return None
    return RayOptions(arguments.ray, arguments.ray_cpus, arguments.ray_gpus)


class _Warning(NamedTuple):
    """What a worker has logged; the driver says it."""

    logger: str
    level: int
    text: str


class _Warnings(logging.Handler):
    """Puts what is logged, warnings and worse, into a queue."""

    def __init__(self, events: "queue.SimpleQueue[Any]") -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.put(_Warning(record.name, record.levelno, record.getMessage()))


class Resources(NamedTuple):
    """What a worker has."""

    cpus: int
    gpus: float


@dataclass
class _Member:
    """A worker, as the driver sees it."""

    actor: Any
    number: int | None = None  # of the task in hand; None: it is still loading


class _Tasks:
    """The tasks of a run that are not done.

    Args:
        max_ahead: how many tasks beyond the first that is not done may be begun; None: any.
    """

    def __init__(self, tasks: Sequence[Any], max_ahead: int | None) -> None:
        self._tasks, self._max_ahead = tasks, max_ahead
        self._next = 0  # of those that nobody has had
        self._again: deque[int] = deque()  # whose workers have died
        self._at_work: set[int] = set()
        self._deaths: Counter[int] = Counter()

    def count_left(self) -> int:
        """Return how many are not done."""
        return len(self._at_work) + len(self._again) + len(self._tasks) - self._next

    def take(self) -> tuple[int, Any] | None:
        """Return a task and its number; None: there is none, or it waits for an earlier one."""
        if self._again:
            number = self._again.popleft()
        else:
            number, oldest = self._next, min(self._at_work, default=self._next)
            is_ahead = self._max_ahead is not None and number - oldest > self._max_ahead
            if number == len(self._tasks) or is_ahead:
                return None
            self._next += 1
        self._at_work.add(number)
        return number, self._tasks[number]

    def finish(self, number: int) -> None:
        """Take note that a task is done, or has failed."""
        self._at_work.remove(number)

    def put_back(self, number: int) -> bool:
        """Put a task back whose worker has died; returns whether it was not the last time."""
        self.finish(number)
        self._deaths[number] += 1
        if self._deaths[number] == MAX_DEATHS:
            return False
        self._again.append(number)
        return True


class RayPool:
    """Workers on a cluster, for a ``with`` block; the cluster is sought when there is a task.

    Args:
        workers: at most; None: as many as the machines have room for.
        uses_model: whether the work is faster on a GPU.
    """

    def __init__(
        self, options: RayOptions, workers: int | None = None, uses_model: bool = False
    ) -> None:
        self._options, self._workers, self._uses_model = options, workers, uses_model
        self._is_ours = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    @cached_property
    def _ray(self) -> ModuleType:
        ray = import_optional("ray", "--ray")
        if not ray.is_initialized():
            _connect(ray, self._options.address)
            self._is_ours = True
        return ray

    @cached_property
    def resources(self) -> Resources:
        """What a worker has; raises ``UserError`` where no machine has as many."""
        cpus, gpus = self._options.cpus, self._options.gpus
        nodes = self._list_nodes()
        if gpus is None:
            gpus = 1.0 if self._uses_model and any(there for _, there in nodes) else 0.0
        if cpus is None:
            shares = [int(own * gpus / there) for own, there in nodes if gpus and there]
            cpus = max(1, min(shares, default=1))
        return Resources(cpus, gpus)

    def _list_nodes(self) -> list[tuple[float, float]]:
        """Return the CPUs and GPUs of each machine."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [(own.get("CPU", 0.0), own.get("GPU", 0.0)) for own in alive]

    def count_workers(self) -> int:
        """Return how many workers there are to be; raises ``UserError`` where none has room."""
        if self._workers is not None:
            return self._workers
        cpus, gpus = self.resources
        number = 0
        for own, there in self._list_nodes():
            number += min(int(own / cpus), int(there / gpus + 1e-6) if gpus else sys.maxsize)
        if not number:
            wanted = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            raise UserError(
                f"--ray: no machine of the cluster has the {wanted} of a worker; give fewer "
                "--ray-cpus and --ray-gpus, or add machines (ray start --address=...)"
            )
        return number

    def run_tasks(
        self,
        make_work: Callable[[], Work],
        tasks: Sequence[Any],
        max_ahead: int | None = None,
    ) -> Iterator[TaskProgress | TaskDone | TaskFailed]:
        """Do every task in one of several workers, and tell what happens as it happens.

        Args:
            make_work, tasks: as for ``utils.processes.run_tasks``, and picklable.
            max_ahead: how many tasks beyond the first that is not done may be begun; None: any.

        Yields:
            As ``utils.processes.run_tasks``.

        Raises:
            UserError: no task can be done, by what the work says or on one of the machines; there
                is no such cluster.
        """
        if not tasks:
            return
        ray, workers, (cpus, gpus) = self._ray, self.count_workers(), self.resources
        left = _Tasks(tasks, max_ahead)
        # Put there once, and fetched by each machine.
        loaded = ray.put(ray.cloudpickle.dumps(make_work)), os.getcwd(), describe_code()
        create = ray.remote(_Worker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        team: dict[Any, _Member] = {}  # by what is waited for
        idle: list[_Member] = []
        num_lost = 0  # workers, one after the other, that died before their first task
        is_silent = True
        try:
            while num_left := left.count_left():
                for _ in range(min(workers, num_left) - len(team) - len(idle)):
                    member = _Member(create.remote())
                    team[member.actor.start.remote(*loaded)] = member
                while idle and (taken := left.take()) is not None:
                    member = idle.pop()
                    member.number = taken[0]
                    run = member.actor.run.options(num_returns="streaming")
                    team[run.remote(*taken)] = member
                ready, _ = ray.wait(list(team), timeout=_WAIT_S)
                is_waiting = all(member.number is None for member in team.values())
                if not ready and is_waiting and is_silent:
                    is_silent = False
                    _say(
                        f"--ray: no worker of {cpus} CPUs and {gpus:g} GPUs has begun; the cluster "
                        "is busy, or loading takes long"
                    )
                for waited in ready:
                    member = team[waited]
                    is_loading = member.number is None
                    try:
                        event = ray.get(waited if is_loading else next(waited))
                    except ray.exceptions.RayTaskError as error:
                        event = _describe_error(member, error)
                    except ray.exceptions.RayError as error:
                        del team[waited]
                        ray.kill(member.actor)
                        num_lost += is_loading
                        if is_loading and num_lost >= MAX_DEATHS:
                            workers = len(team) + len(idle)  # that may be all there is room for
                            if not workers:
                                raise UserError(_describe_loading(error)) from error
                        if not is_loading and not left.put_back(member.number):
                            yield TaskFailed(member.number, _describe_death(error))
                        continue
                    if isinstance(event, Abort):
                        raise UserError(event.reason)
                    if isinstance(event, _Warning):
                        logging.getLogger(event.logger).log(event.level, "%s", event.text)
                        continue
                    if isinstance(event, TaskProgress):
                        yield event
                        continue
                    del team[waited]
                    idle.append(member)
                    if event is None:
                        num_lost = 0
                    else:
                        left.finish(event.number)
                        yield event
        finally:
            for member in (*team.values(), *idle):
                ray.kill(member.actor)


@contextmanager
def open_pool(
    arguments: argparse.Namespace,
    workers: int | None = None,
    uses_model: bool = False,
) -> Iterator[RayPool | None]:
    """Give the pool that a command line asks for, as ``RayPool``; None: no cluster is wanted."""
    options = read_ray_options(arguments)
    if options is None:
        yield None
        return
    with RayPool(options, workers, uses_model) as pool:
        yield pool


class _Worker:
    """The actor."""

    def start(self, pickled: bytes, folder: str, code: dict[str, str | None]) -> Abort | None:
        """Load the work, in the driver's current folder; an ``Abort`` where that can't be done."""
        try:
            check_shared([Path(folder)])
            os.chdir(folder)
            _check_code(code)
            self._work = import_optional("ray.cloudpickle", "--ray").loads(pickled)()
        except UserError as error:
            return _name_machine(Abort(str(error)))
        return None

    def run(self, number: int, task: Any) -> Iterator[Any]:
        """Do a task; yields warnings and, now and then, how far it is; at last what it came to."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        handler = _Warnings(events)
        logging.getLogger().addHandler(handler)
        told = time.monotonic()

        def tell(share: float) -> None:
            nonlocal told
            if time.monotonic() - told >= _PROGRESS_S:
                told = time.monotonic()
                events.put(TaskProgress(number, share))

        def work() -> None:
            try:
                event = run_task(self._work, number, task, tell)
                events.put(_name_machine(event) if isinstance(event, Abort) else event)
            except BaseException as error:  # a library that ends the process: it is waited for
                events.put(TaskFailed(number, f"{type(error).__name__}: {error}"))

        threading.Thread(target=work, daemon=True).start()
        event = None
        while event is None or isinstance(event, TaskProgress | _Warning):
            event = events.get()
            yield event
        logging.getLogger().removeHandler(handler)


def _name_machine(abort: Abort) -> Abort:
    return Abort(f"worker on {socket.gethostname()}: {abort.reason}")


def describe_code() -> dict[str, str | None]:
    """Return what the results of a machine depend on: Python, the project, packages."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    digest = hashlib.sha256()
    packages = {path.parent for path in _PROJECT.glob("*/__init__.py")} - {_PROJECT / "tests"}
    files = [path for folder in packages for path in folder.rglob("*.py")]
    for path in sorted([*files, *_PROJECT.glob("*.py")]):
        digest.update(f"{path.relative_to(_PROJECT)}\n".encode() + path.read_bytes())
    found["project"] = digest.hexdigest()[:12]
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _check_code(wanted: dict[str, str | None]) -> None:
    """Raise ``UserError`` where this machine has other code than the driver's."""
    differences = [
        f"{name} {found or 'none'} there, {wanted[name] or 'none'} where the command was given"
        for name, found in describe_code().items()
        if found != wanted[name]
    ]
    if differences:
        raise UserError(
            f"has other code ({'; '.join(differences)}); every machine of the cluster needs the "
            "same project and packages"
        )


def check_shared(paths: Iterable[Path]) -> None:
    """Raise ``UserError`` where this machine lacks files or folders that the driver has."""
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} is not there; every machine of the cluster needs it under the same path, "
                "in a shared file system"
            )


def _connect(ray: ModuleType, address: str) -> None:
    """Connect to a cluster, or start one on this machine; raises ``UserError``."""
    search_path = [str(_PROJECT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    options = {
        "job_config": ray.job_config.JobConfig(code_search_path=search_path),
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    start = options | {"num_cpus": count_cpus(), "include_dashboard": False}
    # Of a cluster of its own: by default (15) all else on the machine would go before the work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    with _keep_signal_handlers():
        try:
            if address == LOCAL:
                ray.init(LOCAL, **start)
            elif address != AUTO:
                _check_address(address)
                ray.init(address, **options)
            else:
                try:
                    ray.init(**start)
                    address = LOCAL
                except ValueError:  # there is one, so that none is started with options
                    ray.init(**options)
        except (ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"--ray {address}: no Ray cluster can be reached there ({reason}); give its "
                "HOST:PORT (and RAY_AUTH_MODE=token where it asks for a token), or --ray local for "
                "one on this machine alone"
            ) from error
    # Messages of the cluster would come between those of the command, on standard output.
    sys.modules["ray._private.worker"]._worker_logs_enabled = False
    place = "started on this machine, for this command" if address == LOCAL else "found"
    own = ray.cluster_resources()
    size = f"{own.get('CPU', 0):g} CPUs, {own.get('GPU', 0):g} GPUs"
    _say(f"Ray cluster of {size}: {place}")


def _check_address(address: str) -> None:
    """Raise ``ValueError`` or ``OSError`` where nothing answers: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "://" in host:
        raise ValueError("expected HOST:PORT, such as 10.0.0.1:6379")
    socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Leave signals to the command: Ray would end it with an exit code of its own at SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe_error(member: _Member, error: Exception) -> TaskFailed | Abort:
    """Return what an exception in a worker means: one beside the work itself, which is ours."""
    if member.number is None:
        raise RuntimeError(f"a worker can't load the work: {error}") from error
    return TaskFailed(member.number, f"its result can't be had: {_shorten(error)}", str(error))


def _describe_loading(error: Exception) -> str:
    """Return why workers die before their first task, and the remedy."""
    if "No module named" in str(error):
        return (
            f"--ray: workers can't import the project ({_shorten(error)}); every machine of the "
            f"cluster needs it under the same path, {_PROJECT}, in a shared file system"
        )
    return (
        f"--ray: {MAX_DEATHS} workers died while they were loading ({_shorten(error)}); give "
        "each more --ray-cpus, so that fewer are on a machine, or take machines with more memory"
    )


def _describe_death(error: Exception) -> str:
    """Return why a task has failed whose workers died of it."""
    return (
        f"{MAX_DEATHS} workers died of it ({_shorten(error)}): the file made a library crash, or "
        "the memory was used up; take it out, or give each worker more --ray-cpus"
    )


def _shorten(error: Exception) -> str:
    """Return what of Ray's long message says why, in one line."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":
        return "OutOfMemoryError, the machine's memory was used up"
    if found := re.search(r"exit type: (\w+) Worker exit detail: ([^.]*)", text):
        return f"{found[1]}, {found[2]}"
    if found := re.search(r"No module named \S+", text):
        return found[0]
    return f"{type(error).__name__}: {text[-300:]}"


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
