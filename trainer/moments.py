"""When a run saves within an epoch, and when it stops."""

import time

from utils.interrupt import StopSignals

NOTHING, SAVE, STOP = 0, 1, 2  # the largest wish of all processes counts


class SaveMoments:
    """Says after each step what is to be done.

    Args:
        signals: notes that the run is asked to stop.
        every_steps: save after so many steps; None: not by steps.
        every_minutes: save when so many minutes have passed; None: not by time.
    """

    def __init__(
        self, signals: StopSignals, every_steps: int | None, every_minutes: float | None
    ) -> None:
        self.signals = signals
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()

    def wish(self, step: int) -> int:
        """Return ``STOP``, ``SAVE`` or ``NOTHING`` after optimizer step ``step``."""
        if self.must_stop():
            return STOP
        return SAVE if self._by_steps(step) or self._by_time() else NOTHING

    def saved(self) -> None:
        """Count the minutes anew; every process calls this, whichever of them was due."""
        self._saved_at = time.monotonic()

    def must_stop(self) -> bool:
        """Whether the run was asked to stop."""
        return self.signals.received != 0

    def _by_steps(self, step: int) -> bool:
        return self.every_steps is not None and step % self.every_steps == 0

    def _by_time(self) -> bool:
        if self.every_minutes is None:
            return False
        return time.monotonic() - self._saved_at >= 60 * self.every_minutes
