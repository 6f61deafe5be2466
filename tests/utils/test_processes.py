"""Tasks in several real processes: results, failures, crashes, a full disk, a parent that dies."""

import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from utils.errors import UserError
from utils.processes import (
    TaskDone,
    TaskError,
    TaskFailed,
    TaskProgress,
    count_cpus,
    map_tasks,
    run_tasks,
)


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


def collect_ends(tasks, workers):
    events = list(run_tasks(make_work, tasks, workers))
    return {e.number: e for e in events if not isinstance(e, TaskProgress)}


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_task_is_done_once_in_other_processes(workers):
    events = list(run_tasks(make_work, list("abcdefg"), workers))
    done = [event for event in events if isinstance(event, TaskDone)]
    assert sorted((e.number, e.result[0]) for e in done) == list(enumerate("abcdefg"))
    pids = {e.result[1] for e in done}
    assert os.getpid() not in pids and len(pids) <= workers
    progress = [TaskProgress(number, 0.5) for number in range(7)]
    assert sorted(e for e in events if isinstance(e, TaskProgress)) == progress


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_or_crashes_is_told_and_the_rest_is_done(workers):
    tasks = ["a", "bad", "crash", "strange", "exit", "denied", "b"]
    found = collect_ends(tasks, workers)
    assert isinstance(found[0], TaskDone) and isinstance(found[6], TaskDone)
    reasons = {number: e.reason for number, e in found.items() if isinstance(e, TaskFailed)}
    assert reasons[1] == "bad.mp4: is bad"
    assert reasons[2].startswith("its process ended (SIGSEGV)") and "--workers" in reasons[2]
    assert reasons[3] == "RuntimeError: two lines"
    assert 'raise RuntimeError("two\\nlines")' in found[3].traceback
    assert found[1].traceback is found[2].traceback is found[5].traceback is None
    assert reasons[4].startswith("its process ended (exit code 3)")
    assert reasons[5] == "[Errno 13] Permission denied: 'x'"


def test_a_full_disk_ends_the_run():
    with pytest.raises(UserError, match=r"out/x\.json: No space left on device: free some space"):
        collect_ends(["a", "full", "b"], 1)


def refuse():
    raise UserError("a package is missing")


def test_work_that_cant_be_made_ends_the_run():
    with pytest.raises(UserError, match="a package is missing"):
        list(run_tasks(refuse, ["a", "b"], 2))


def test_what_no_task_can_do_without_ends_the_run():
    with pytest.raises(UserError, match="a package is missing"):
        collect_ends(["a", "package", "b"], 1)


def test_no_task_starts_no_process():
    assert list(run_tasks(refuse, [], 2)) == []


PARENT = """
import os, sys, time
from utils.processes import run_tasks
def make_work():
    def work(task, tell):
        while True:
            time.sleep(0.05)
            tell(0.1)
            os.write(1, b"%d\\n" % os.getpid())
    return work
for event in run_tasks(make_work, ["a", "b"], 2):
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


def square(number):
    if number == 13:
        raise UserError("13.mp4: is bad; take it out")
    if number == 14:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 15:
        raise ValueError("our own mistake")
    return number**2, os.getpid()


@pytest.mark.parametrize(
    ("workers", "chunk", "count"), [(1, 1, 5), (3, 1, 7), (2, 3, 8), (4, 100, 5), (2, 1, 0)]
)
def test_mapped_results_are_in_the_order_of_the_tasks(workers, chunk, count):
    results = map_tasks(square, range(count), workers, "squares", chunk)
    assert [result for result, _ in results] == [number**2 for number in range(count)]
    pids = {pid for _, pid in results}
    assert len(pids) <= workers
    assert (os.getpid() in pids) == (workers == 1)


def test_a_chunk_is_done_by_one_process():
    pids = [pid for _, pid in map_tasks(square, range(12), 2, "squares", chunk=6)]
    assert len(set(pids[:6])) == len(set(pids[6:])) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_user_can_mend_ends_the_map_as_it_is(workers):
    with pytest.raises(UserError, match=r"^13\.mp4: is bad; take it out$"):
        map_tasks(square, [1, 2, 13, 3], workers, "squares", chunk=2)


def test_a_process_that_dies_is_named_with_its_place_and_a_remedy():
    with pytest.raises(UserError) as caught:
        map_tasks(square, [1, 2, 14, 3], 2, "squares", chunk=2, remedy="Eat less.", unit=" numbers")
    text = str(caught.value)
    assert text.startswith("squares: its process ended (SIGSEGV)") and text.endswith("Eat less.")
    assert "3 of 4 numbers" in text


def test_our_own_mistake_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="squares") as caught:
        map_tasks(square, [1, 2, 15, 3], 2, "squares")
    assert "ValueError: our own mistake" in str(caught.value)
    assert 'raise ValueError("our own mistake")' in str(caught.value)  # the line, from the process
    with pytest.raises(ValueError, match="our own mistake"):
        map_tasks(square, [15], 2, "squares")


def test_only_processors_that_may_be_used_are_counted():
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(own)})
        assert count_cpus() == 1
    finally:
        os.sched_setaffinity(0, own)
    assert count_cpus() == len(own)
