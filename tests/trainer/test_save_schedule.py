"""When a run saves within an epoch."""

import pytest

from trainer import checkpointing
from trainer.checkpointing import NOTHING, SAVE, STOP, SaveSchedule
from utils.interrupt import StopSignals


def test_every_third_step():
    found = [SaveSchedule(StopSignals(), 3, None).choose_action(step) for step in range(1, 8)]
    assert found == [NOTHING, NOTHING, SAVE] * 2 + [NOTHING]


def test_every_two_minutes_since_the_last_save(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    times = SaveSchedule(StopSignals(), None, 2.0)
    found = []
    for seconds in (0, 119, 1, 1, 118, 2):
        now[0] += seconds
        found.append(times.choose_action(1))
        if seconds == 1 and found[-2] == SAVE:
            times.restart_clock()  # also where another process was due
    assert found == [NOTHING, NOTHING, SAVE, SAVE, NOTHING, SAVE]


def test_to_stop_counts_more():
    signals = StopSignals()
    signals.received = 15
    assert SaveSchedule(signals, 1, None).choose_action(1) == STOP
    assert max(NOTHING, SAVE, STOP) == STOP  # what the processes agree on
