"""Signals that ask a run to stop: the step is finished and saved, then the process ends."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

from utils.dist_info import get_dist_info

T = TypeVar("T")
_CAUGHT = (signal.SIGTERM, signal.SIGINT)
# A signal to all processes of a job reaches one twice: once directly, once by its launcher.
SAME_S = 1.0
# A wait for data that goes on for so long after a signal is ended from outside: the main thread is
# in a library that does not come back, or other processes of the run depend on it.
STUCK_S = 10.0
_POLL_S = 0.5


class Stopped(Exception):  # noqa: N818 - not an error: the run did what it was asked
    """The run was asked to stop and has saved what it had.

    Attributes:
        exit_code: what the process ends with, 128 + the signal's number, as shells have it.
    """

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.exit_code = 128 + signum


class WaitInterrupted(BaseException):
    """A signal came while data was waited for, where nothing is half done.

    As ``KeyboardInterrupt`` no ``Exception``: readers of foreign files catch all of these.
    """


class StopSignals:
    """Notes SIGTERM and SIGINT for the time of a ``with`` block; a second one stops at once.

    At once is meant: a thread sees to it, because the main one may be waiting for a disk or for
    another process. Signals less than ``SAME_S`` after the first are the same one. What waits by
    ``wait_for`` is interrupted by the first one.

    Attributes:
        received: the signal's number, 0 before there is one.
        waiting_since: since when data is waited for, where it is.
    """

    current: "StopSignals | None" = None  # of the ``with`` block that the main thread is in

    def __init__(self) -> None:
        self.received = 0
        self.waiting_since: float | None = None
        self._is_alone = get_dist_info().world_size == 1
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        threading.Thread(target=self._end_at_second, args=(reading,), daemon=True).start()
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in _CAUGHT}
        StopSignals.current = self
        return self

    def __exit__(self, *_: object) -> None:
        StopSignals.current = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writing)  # ends the thread

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        self.raise_if_interrupted()

    def raise_if_interrupted(self) -> None:
        """Raise ``WaitInterrupted`` where data is waited for and the run is to stop.

        Not where several processes train one model: they agree on the step after which they stop.
        """
        if self.received and self.waiting_since is not None and self._is_alone:
            self.waiting_since = None  # once
            raise WaitInterrupted

    def _end_at_second(self, reading: int) -> None:
        """End the process at the second signal whose number comes through a pipe.

        Or where it is still waiting for the same data ``STUCK_S`` after the first.
        """
        first, number, owner = None, 0, os.getpid()
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while True:
                is_ready, *_ = select.select([pipe], [], [], None if first is None else _POLL_S)
                byte = pipe.read(1) if is_ready else None
                if byte == b"" or os.getpid() != owner:
                    return
                since, now = self.waiting_since, time.monotonic()
                if byte and byte[0] in _CAUGHT:
                    first, number = first or now, number or byte[0]
                    if now - first > SAME_S:
                        _end_at_once("stopped at once, without saving", byte[0])
                if first and since and now - max(first, since) > STUCK_S:
                    _end_at_once("stopped without saving: data was waited for in vain", number)


def _end_at_once(text: str, signum: int) -> None:
    os.write(2, f"{text}\n".encode())
    os._exit(128 + signum)


def wait_for(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator; a signal that asks to stop ends the wait for the next one.

    Raises:
        WaitInterrupted: in the main thread, in a ``with`` block of ``StopSignals``.
    """
    while True:
        signals = StopSignals.current
        if threading.current_thread() is not threading.main_thread():
            signals = None
        if signals is None:
            item = next(items, _END)
        else:
            signals.waiting_since = time.monotonic()
            try:
                signals.raise_if_interrupted()
                item = next(items, _END)
            finally:
                signals.waiting_since = None
        if item is _END:
            return
        yield item


_END = object()
