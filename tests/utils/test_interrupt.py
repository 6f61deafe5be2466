"""The signals that ask a run to stop are noted, and only for its time."""

import signal

import pytest

from utils.interrupt import Stopped, StopSignals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_noted_and_one_right_after_it_is_the_same(signum):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        assert signals.received == 0
        signal.raise_signal(signum)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signum
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert Stopped("x", signum).exit_code == 128 + signum
