"""Watch over loading processes: one that hangs or dies is named with what it was reading."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from utils.errors import UserError

_POLL_S = 0.5


class WorkerWatch:
    """A table in shared memory: for each loading process the sample it reads and since when.

    Args:
        num_workers: loading processes; with 0 nothing is watched.
        timeout_s: a process that reads one sample for longer is stopped.
        name_sample: sample -> the file to name in messages.

    Attributes:
        rows: what the loading processes write into with ``record_sample``; a row each: sample + 1
            (0: none), start in seconds, process id.
    """

    def __init__(
        self, num_workers: int, timeout_s: float, name_sample: Callable[[int], str]
    ) -> None:
        self.rows = torch.zeros(num_workers, 3, dtype=torch.float64).share_memory_()
        self._timeout_s = timeout_s
        self._name_sample = name_sample
        self._hung: int | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Stop processes that hang, and name what a process read when it ended.

        Raises:
            UserError: a loading process hung or died.
        """
        if not len(self.rows):
            yield
            return
        self._hung, done = None, threading.Event()
        thread = threading.Thread(target=self._watch, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        except RuntimeError as error:  # what DataLoader raises when a process is gone
            text = self._explain(str(error))
            if text is None:
                raise
            raise UserError(text) from error
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(_POLL_S):
            for sample, since, pid in self.rows.tolist():
                if sample and time.monotonic() - since > self._timeout_s:
                    self._hung = int(sample) - 1
                    os.kill(int(pid), signal.SIGKILL)
                    return

    def _explain(self, error: str) -> str | None:
        """What a user can do about a lost process; None: the error is about something else."""
        if self._hung is not None:
            return (
                f"{self._name_sample(self._hung)}: could not be read within {self._timeout_s:g} s "
                "(data_loader.args.item_timeout); the decoder hangs: replace or re-encode the "
                "file, or try another video reader"
            )
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", error)
        if found is None:
            return None
        gone = {int(pid) for pid in found[1].split(",")}
        busy = [int(sample) - 1 for sample, _, pid in self.rows.tolist() if sample and pid in gone]
        files = ", ".join(map(self._name_sample, busy)) or "no sample in particular"
        return (
            f"a loading process died ({' '.join(error.split())}) while it read {files}. Either the "
            "machine ran out of memory: lower data_loader.args.num_workers or prefetch_factor; or "
            "the file crashes the decoder: replace it, or try another video reader"
        )


@contextmanager
def record_sample(rows: torch.Tensor, sample: int) -> Iterator[None]:
    """Write down, in a loading process, that it reads a sample; see ``WorkerWatch.rows``."""
    worker = get_worker_info()
    if worker is None or worker.id >= len(rows):
        yield
        return
    own = rows[worker.id]
    own[1], own[2] = time.monotonic(), os.getpid()
    own[0] = sample + 1
    try:
        yield
    finally:
        own[0] = 0


def obey_only_parent() -> None:
    """Let SIGTERM end this loading process only where the main one sent it; ignore SIGINT.

    Ctrl-C, torchrun and batch systems signal every process of a run; the main one finishes its
    step then, for which it needs the loading ones.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
