"""Signals that ask a run to stop: the step is finished and saved, then the process ends."""

import os
import signal
import threading
import time
from types import FrameType

_CAUGHT = (signal.SIGTERM, signal.SIGINT)
# A signal to all processes of a job reaches one twice: once directly, once by its launcher.
SAME_S = 1.0


class Stopped(Exception):  # noqa: N818 - not an error: the run did what it was asked
    """The run was asked to stop and has saved what it had.

    Attributes:
        exit_code: what the process ends with, 128 + the signal's number, as shells have it.
    """

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.exit_code = 128 + signum


class StopSignals:
    """Notes SIGTERM and SIGINT for the time of a ``with`` block; a second one stops at once.

    At once is meant: a thread sees to it, because the main one may be waiting for a disk or for
    another process. Signals less than ``SAME_S`` after the first are the same one.

    Attributes:
        received: the signal's number, 0 before there is one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        threading.Thread(target=_end_at_second, args=(reading,), daemon=True).start()
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in _CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writing)  # ends the thread

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum


def _end_at_second(reading: int) -> None:
    """End the process at the second signal whose number comes through a pipe."""
    first, owner = None, os.getpid()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] not in _CAUGHT:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > SAME_S and os.getpid() == owner:
                os.write(2, b"stopped at once, without saving\n")
                os._exit(128 + number[0])
