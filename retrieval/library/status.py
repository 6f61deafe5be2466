"""State of the work on a library, for the page and the terminal, as a file that is replaced.

The fields are those of ``work`` in the answer of ``/api/library``.
"""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils.files import write_json

MAX_FAILED = 100  # that are named
_PERIOD_S = 0.3  # between two writings, where nothing is finished
_JUMP = 50  # frames that no one looks at in one go: a video is gone on with


@dataclass
class Work:
    """Where the work is; times in seconds."""

    state: str = "working"  # or "watching", "done", "stopped"
    step: str = "looking for videos"
    video: str | None = None  # in hand
    share: float = 0.0  # of it that is done
    num_done: int = 0  # videos, of this step
    num_total: int = 0
    remaining_s: float | None = None  # of this step
    failed: list[dict[str, str]] = field(default_factory=list)  # {"video", "reason"}
    num_failed: int = 0
    message: str | None = None


class RemainingTime:
    """Estimates how long a step takes by the frames that are to be looked at.

    Args:
        frames: video -> how many of them; any unit will do.
    """

    def __init__(self, frames: Mapping[str, float]) -> None:
        self._frames = dict(frames)
        self._shares: dict[str, float] = {}
        self._left = sum(self._frames.values())
        self._done = 0.0
        self._start = time.monotonic()

    def advance(self, video: str, share: float) -> None:
        """Take note of a video's share that is done."""
        frames, before = self._frames.get(video, 0.0), self._shares.get(video, 0.0)
        step = (share - before) * frames
        self._shares[video] = share
        self._left -= step
        if before > 0 or step <= _JUMP or share == 1:  # otherwise most was done by an earlier run
            self._done += step

    def estimate(self) -> float | None:
        """Return how many seconds are left; None where nothing is known as yet."""
        passed = time.monotonic() - self._start
        if self._done <= 0 or passed < 1:
            return None
        return max(0.0, self._left) * passed / self._done


class StatusWriter:
    """Keeps the file of the status; any thread may tell it what happens."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._work, self._remaining = Work(), RemainingTime({})
        self._written = 0.0
        self._in_hand: dict[str, float] = {}  # videos, in the order in which they were begun
        self.write()

    def begin_step(self, step: str, frames: Mapping[str, float]) -> None:
        """A step begins: of each of these videos so many frames are to be looked at."""
        with self._lock:
            self._remaining, self._in_hand = RemainingTime(frames), {}
            work = self._work
            work.step, work.num_done, work.num_total = step, 0, len(frames)
            work.state, work.video, work.share, work.remaining_s = "working", None, 0.0, None
        self.write()

    def advance(self, video: str, share: float) -> None:
        """A share of a video is done; 1: all of it is, unless ``finish`` is still to come."""
        with self._lock:
            self._in_hand[video] = share
            self._remaining.advance(video, share)
            self._show_first()
        if time.monotonic() - self._written > _PERIOD_S:
            self.write()

    def finish(self, video: str) -> None:
        """A video is done with."""
        with self._lock:
            self._remaining.advance(video, 1.0)
            self._in_hand.pop(video, None)
            self._work.num_done += 1
            self._show_first()
        self.write()

    def _show_first(self) -> None:
        self._work.video, self._work.share = next(iter(self._in_hand.items()), (None, 0.0))
        self._work.remaining_s = self._remaining.estimate()

    def set_failed(self, failed: Mapping[str, str]) -> None:
        """Name the videos that can't be read."""
        with self._lock:
            pairs = [{"video": name, "reason": reason} for name, reason in failed.items()]
            self._work.failed, self._work.num_failed = pairs[:MAX_FAILED], len(pairs)
        self.write()

    def set_state(self, state: str, message: str | None = None) -> None:
        """Nothing is in hand; ``message`` is one line."""
        with self._lock:
            self._work.state, self._work.message = state, message
            if state != "working":
                self._work.video, self._work.share, self._work.remaining_s = None, 0.0, None
        self.write()

    def write(self) -> None:
        """Replace the file."""
        with self._lock, suppress(OSError):  # a full disk is said where something is lost by it
            write_json(self._file, asdict(self._work))
            self._written = time.monotonic()


def read_status(file: Path) -> dict[str, Any] | None:
    """Return what was last written; None: nothing."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
