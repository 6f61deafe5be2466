"""A process that the others wait for in vain is named, and the run ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

CODE = """
import os, sys, time, torch
from utils import distributed
from utils.distributed import all_reduce_max, gather, gather_objects, process_group
cpu = torch.device("cpu")
with process_group(cpu, timeout_s=float(sys.argv[1])) as place:
    for number in range(3):
        assert all_reduce_max(number + place.rank, cpu) == number + 1
        assert gather_objects(place.rank) == [0, 1]
        assert gather(torch.ones(2 + place.rank, 1)).shape == (5, 1)
    os.write(1, b"%d %d\\n" % (place.rank, os.getpid()))
    time.sleep(float(sys.argv[2 + place.rank]))
    all_reduce_max(0, cpu)
    print("ended", flush=True)
"""
LAUNCH = "import sys; from utils.launch import launch; sys.exit(launch(sys.argv[1:], 2))"


def run(*seconds: float) -> tuple[subprocess.CompletedProcess, float]:
    """Run two processes with a time-out that sleep for so long each."""
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-c", CODE, *map(str, seconds)]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("stalled", [0, 1])
def test_a_stalled_process_is_named(stalled):
    seconds = [100.0 if rank == stalled else 0.0 for rank in (0, 1)]
    done, took = run(3.0, *seconds)
    assert done.returncode == 2 and took < 3 + 25
    assert f"process {1 - stalled} has waited 3 s (trainer.rank_timeout)" in done.stderr
    assert f"for process {stalled} on " in done.stderr
    assert "ended" not in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_slow_process_is_waited_for():
    done, _ = run(20.0, 0.0, 4.0)
    assert done.returncode == 0 and done.stdout.count("ended") == 2 and not done.stderr
    done, _ = run(2.0, 4.0, 4.0)  # both: none waits for the other
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suspended", ["all", "one"])
def test_processes_that_were_suspended_go_on(suspended):
    """For longer than rank_timeout, and than the backend's time-out behind it."""
    code = CODE.replace("cpu =", "distributed._SECOND_S = 1.0\ncpu =")
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-c", code, "2.0", "0.0", "2.0"]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        pids = dict(map(int, process.stdout.readline().split()) for _ in range(2))
        time.sleep(0.7)  # process 0 waits for process 1, which sleeps
        stop, target = (os.killpg, process.pid) if suspended == "all" else (os.kill, pids[1])
        stop(target, signal.SIGSTOP)
        time.sleep(5)
        stop(target, signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out.count("ended") == 2 and not err
