"""Time in which a watching thread has run: what passes while a process is suspended is no waiting.

Clocks go on while a process is stopped (SIGSTOP, Ctrl-Z, a debugger) and, on some machines, while
the machine sleeps. Who compares two readings of one then takes the pause for a process that hangs.
"""

import time
from collections.abc import Hashable


class Stopwatch:
    """Seconds that one thing has gone on, counted by a thread that looks every so often.

    A look counts for one interval at most, however long ago the last one was: a longer gap means
    that the thread itself did not run.

    Args:
        interval_s: between looks.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._looked_at = time.monotonic()
        self._subject: Hashable = None
        self._seconds = 0.0

    def look(self, subject: Hashable, is_running: bool = True) -> float:
        """Return for how many seconds ``subject`` has been what is going on, 0 for a new one.

        Args:
            subject: what is going on.
            is_running: whether who does it runs; time in which that is false does not count.
        """
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, self._interval_s), now
        if subject != self._subject:
            self._subject, self._seconds = subject, 0.0
        elif is_running:
            self._seconds += passed
        return self._seconds


def is_suspended(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal or a debugger.

    False where that can't be known: there is no such process, or the system has no ``/proc``.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
