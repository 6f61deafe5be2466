"""Tasks in several real processes: results, failures, crashes, a full disk, a parent that dies."""

import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time

import pytest

from retrieval.spotting.workers import Done, Failed, Progress, TaskError, run_each
from tests.conftest import ROOT
from utils.errors import UserError


def make_work():
    def work(task, tell):
        tell(0.5)
        if task == "bad":
            raise TaskError("bad.mp4: is bad")
        if task == "package":
            raise UserError("a package is missing")
        if task == "strange":
            raise RuntimeError("two\nlines")
        if task == "denied":
            raise PermissionError(errno.EACCES, "Permission denied", "x")
        if task == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "out/x.json")
        if task == "crash":
            faulthandler.disable()  # pytest's, which would tell it at length
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == "exit":
            os._exit(3)
        return task, os.getpid()

    return work


def ended(tasks, workers):
    events = list(run_each(make_work, tasks, workers))
    return {e.number: e for e in events if not isinstance(e, Progress)}


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_task_is_done_once_in_other_processes(workers):
    events = list(run_each(make_work, list("abcdefg"), workers))
    done = [event for event in events if isinstance(event, Done)]
    assert sorted((e.number, e.result[0]) for e in done) == list(enumerate("abcdefg"))
    pids = {e.result[1] for e in done}
    assert os.getpid() not in pids and len(pids) <= workers
    assert sorted(events[:0] + [e for e in events if isinstance(e, Progress)]) == [
        Progress(number, 0.5) for number in range(7)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_or_crashes_is_told_and_the_rest_is_done(workers):
    tasks = ["a", "bad", "crash", "strange", "exit", "denied", "b"]
    found = ended(tasks, workers)
    assert isinstance(found[0], Done) and isinstance(found[6], Done)
    reasons = {number: e.reason for number, e in found.items() if isinstance(e, Failed)}
    assert reasons[1] == "bad.mp4: is bad"
    assert reasons[2].startswith("its process ended (SIGSEGV)") and "--workers" in reasons[2]
    assert reasons[3] == "RuntimeError: two lines"
    assert reasons[4].startswith("its process ended (exit code 3)")
    assert reasons[5] == "[Errno 13] Permission denied: 'x'"


def test_a_full_disk_ends_the_run():
    with pytest.raises(UserError, match=r"out/x\.json: No space left on device: free some space"):
        ended(["a", "full", "b"], 1)


def refuse():
    raise UserError("a package is missing")


def test_work_that_cant_be_made_ends_the_run():
    with pytest.raises(UserError, match="a package is missing"):
        list(run_each(refuse, ["a", "b"], 2))


def test_what_no_task_can_do_without_ends_the_run():
    with pytest.raises(UserError, match="a package is missing"):
        ended(["a", "package", "b"], 1)


def test_no_task_starts_no_process():
    assert list(run_each(refuse, [], 2)) == []


PARENT = """
import os, sys, time
from retrieval.spotting.workers import run_each
def make_work():
    def work(task, tell):
        while True:
            time.sleep(0.05)
            tell(0.1)
            print(os.getpid(), flush=True)
    return work
for event in run_each(make_work, ["a", "b"], 2):
    pass
"""


def test_the_processes_end_with_their_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    pids = set()
    while len(pids) < 2:
        pids.add(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.read()  # ends when no process has the pipe any more
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a process has outlived its parent"
        time.sleep(0.05)
