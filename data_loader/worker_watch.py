"""Watch over the loading processes: one that hangs or dies is reported with its file."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import get_worker_info

from data_loader.shared_memory import FOLDER, REMEDY
from utils.cli import USER_ERROR
from utils.errors import UserError
from utils.running_time import Stopwatch, is_suspended

_POLL_S = 0.5
_END_S = 1.0  # that a process may take to end by itself


class WorkerWatch:
    """Stops processes that hang, and names the file that a lost process was reading.

    A loading process is killed, and the main one told. Where the main one reads itself, nothing can
    be told to it while it hangs in a decoder: the run ends there.

    Args:
        num_workers: loading processes; 0: the main one reads.
        timeout_s: a process that reads one sample for longer is stopped; time in which it, or
            the process that watches, was suspended does not count.
        name_sample: sample -> the file to name in messages.

    Attributes:
        rows: in shared memory, written by ``record_sample``; for each process: sample + 1
            (0: none), start in seconds, process id.
    """

    def __init__(
        self, num_workers: int, timeout_s: float, name_sample: Callable[[int], str]
    ) -> None:
        self.rows = torch.zeros(max(num_workers, 1), 3, dtype=torch.float64)
        self._has_workers = num_workers > 0
        if self._has_workers:
            self.rows.share_memory_()
        self._timeout_s = timeout_s
        self._name_sample = name_sample
        self._hung: int | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Watch during a ``with`` block; raises ``UserError`` if a process hung or died."""
        self._hung, done = None, threading.Event()
        thread = threading.Thread(target=self._watch, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        except RuntimeError as error:  # what DataLoader raises when a process is gone
            text = self._explain_loss(str(error))
            if text is None:
                raise
            raise UserError(text) from error
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event) -> None:
        watches = [Stopwatch(_POLL_S) for _ in self.rows]
        while not done.wait(_POLL_S):
            for watch, (sample, since, pid) in zip(watches, self.rows.tolist(), strict=True):
                # A row that is cleared and set again has another start.
                seconds = watch.look((sample, since), not is_suspended(int(pid)))
                if sample and seconds > self._timeout_s:
                    if not self._has_workers:
                        text = f"{self._explain_hang(int(sample) - 1)}\n"
                        os.write(2, text.encode(errors="backslashreplace"))
                        os._exit(USER_ERROR)
                    self._hung = int(sample) - 1
                    os.kill(int(pid), signal.SIGKILL)
                    return

    def _explain_loss(self, error: str) -> str | None:
        """Return why a process was lost and what helps; None: the error is about something else."""
        if self._hung is not None:
            return self._explain_hang(self._hung)
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", error)
        if found is None:
            return None
        gone = {int(pid) for pid in found[1].split(",")}
        busy = [int(sample) - 1 for sample, _, pid in self.rows.tolist() if sample and pid in gone]
        files = ", ".join(map(self._name_sample, busy)) or "no sample in particular"
        if "Bus error" in error:  # what a write to a full disk in memory ends in
            return (
                f"a loading process died while it read {files}: {FOLDER}, memory that processes "
                f"share, is full; {REMEDY}"
            )
        return (
            f"a loading process died ({' '.join(error.split())}) while it read {files}. Either the "
            "machine ran out of memory: lower data_loader.args.num_workers or prefetch_factor; or "
            "the file crashes the decoder: replace it, or try another video reader"
        )

    def _explain_hang(self, sample: int) -> str:
        text = (
            f"{self._name_sample(sample)}: could not be read within {self._timeout_s:g} s "
            "(data_loader.args.item_timeout); the decoder hangs: replace or re-encode the "
            "file, or try another video reader"
        )
        return str(UserError(text))


@contextmanager
def record_sample(rows: torch.Tensor, sample: int) -> Iterator[None]:
    """Record that a process reads a sample; see ``WorkerWatch.rows``."""
    worker = get_worker_info()
    row = rows[0 if worker is None else worker.id]
    row[1], row[2] = time.monotonic(), os.getpid()
    row[0] = sample + 1
    try:
        yield
    finally:
        row[0] = 0


def make_worker_context() -> BaseContext | None:
    """Return how loading processes are made; None: as always, where they are not forked.

    PyTorch asks those that are left at the end to end themselves, which one that hangs in a decoder
    may not do, and would wait for it: here it is killed.
    """
    context = multiprocessing.get_context()
    if context.get_start_method() != "fork":
        return None

    from multiprocessing.popen_fork import Popen  # not on Windows

    class KilledPopen(Popen):
        def terminate(self) -> None:
            super().terminate()
            if self.wait(_END_S) is None:
                with suppress(RuntimeError):  # by which PyTorch says that a worker was killed
                    self.kill()
                    self.wait()

    class Process(context.Process):
        _Popen = staticmethod(KilledPopen)

    class Context(type(context)):
        pass

    Context.Process = Process
    return Context()


def obey_only_parent() -> None:
    """Let only the main process end this loading process by SIGTERM; ignore SIGINT.

    Ctrl-C, torchrun and batch systems signal every process of a run; the main one then finishes
    its step, for which it needs the loading processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Not the parent as the system has it, which may be a server that forks for the main process.
    main = multiprocessing.parent_process()
    parent = os.getppid() if main is None else main.pid

    def wait_for_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_parent, daemon=True).start()
