"""Signals that ask a run to stop: the step is finished and saved, then the process ends."""

import signal
from types import FrameType

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


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

    Attributes:
        received: the signal's number, 0 before there is one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in _CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
