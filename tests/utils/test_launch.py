"""One command in several processes: how it ends when one of them does."""

import subprocess
import sys
import time

import pytest

from utils.launch import launch

CODE = "import os, sys, time; rank = int(os.environ['RANK']); {}"


def run(text: str, count: int = 2) -> int:
    return launch([sys.executable, "-c", CODE.format(text)], count)


def test_all_that_end_well():
    assert run("sys.exit(int(os.environ['WORLD_SIZE']) - 3)", 3) == 0


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_that_fails_ends_the_others(failing):
    begin = time.monotonic()
    assert run(f"sys.exit(7) if rank == {failing} else time.sleep(60)", 3) == 7
    assert time.monotonic() - begin < 30


def test_one_that_a_signal_ends():
    assert run("os.kill(os.getpid(), 9) if rank else time.sleep(60)") == 137


@pytest.mark.slow
def test_one_that_does_not_listen_is_ended_by_force():
    text = "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(2 * rank); "
    assert run(text + "sys.exit(3) if rank else time.sleep(600)") == 3
    assert subprocess.run(["pgrep", "-f", "time.sleep[(]600"], capture_output=True).returncode == 1
