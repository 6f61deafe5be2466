"""When a run saves within an epoch."""

import pytest

from trainer import moments
from trainer.moments import NOTHING, SAVE, STOP, SaveMoments
from utils.interrupt import StopSignals


def test_every_third_step():
    found = [SaveMoments(StopSignals(), 3, None).wish(step) for step in range(1, 8)]
    assert found == [NOTHING, NOTHING, SAVE] * 2 + [NOTHING]


def test_every_two_minutes_since_the_last_save(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(moments.time, "monotonic", lambda: now[0])
    times = SaveMoments(StopSignals(), None, 2.0)
    found = []
    for seconds in (0, 119, 1, 1, 118, 2):
        now[0] += seconds
        found.append(times.wish(1))
        if seconds == 1 and found[-2] == SAVE:
            times.saved()  # also where another process wished it
    assert found == [NOTHING, NOTHING, SAVE, SAVE, NOTHING, SAVE]


def test_to_stop_counts_more():
    signals = StopSignals()
    signals.received = 15
    assert SaveMoments(signals, 1, None).wish(1) == STOP
    assert max(NOTHING, SAVE, STOP) == STOP  # what the processes agree on
