"""Work on a Ray cluster: one of two workers on this machine, which is as real as any."""

import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ray_cluster import OPTIONS, ray_cluster  # noqa: F401 - a fixture
from utils.errors import UserError
from utils.processes import TaskDone, TaskError, TaskFailed, TaskProgress, Work, run_in_order
from utils.ray_pool import RayOptions, RayPool, describe_code


def make_work(folder: Path) -> Work:
    """A work whose tasks say what is to happen; files in the folder count how often it did."""

    def work(task: str, tell: Callable[[float], None]) -> tuple[str, int]:
        count = len(list(folder.glob(f"{task} *")))
        (folder / f"{task} {count}").touch()
        if task == "kill" or (task == "kill-once" and not count):
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "memory":
            with limited_memory():
                return task, len(bytearray(10**10))
        if task.startswith("meet"):
            wait_until(lambda: len(list(folder.glob("meet*"))) == 2)
        if task == "wait":
            time.sleep(1.5)
            tell(0.5)
            time.sleep(0.1)
        if task == "warn":
            logging.getLogger("retrieval").warning("what %s", "is said")
        if task == "refuse":
            raise TaskError("not this one")
        if task == "crash":
            raise KeyError("crashed")
        if task == "end":
            raise UserError("the disk is full")
        return task, os.getpid()

    return work


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process have 1 GB more than it has, as in a container."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 10**9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refuse_work() -> Work:
    raise UserError("no engine is installed")


def die() -> Work:
    os.kill(os.getpid(), signal.SIGKILL)


def make_only_one(folder: Path) -> Work:
    """As where a second worker uses up the memory while it loads."""
    with suppress(FileExistsError):
        (folder / "loaded").touch(exist_ok=False)
        return make_work(folder)
    die()


def run(folder: Path, *tasks: str, **options: int) -> list[TaskProgress | TaskDone | TaskFailed]:
    with RayPool(OPTIONS) as pool:
        return list(pool.run_tasks(partial(make_work, folder), tasks, **options))


def test_every_task_is_done_once_by_two_workers(tmp_path, ray_cluster):  # noqa: F811
    tasks = ["meet 0", "meet 1", *"abcdef", "wait"]
    events = run(tmp_path, *tasks)
    done = {event.number: event.result for event in events if isinstance(event, TaskDone)}
    assert [done[number][0] for number in range(9)] == tasks
    pids = {pid for _, pid in done.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert TaskProgress(8, 0.5) in events and len(events) == 10
    assert len(list(tmp_path.iterdir())) == 9
    assert ray_cluster.is_initialized()  # it was there before the pool


def test_no_tasks_want_no_cluster():
    with RayPool(RayOptions("192.0.2.1:1")) as pool:
        assert list(pool.run_tasks(refuse_work, [])) == []


def test_what_kills_its_worker_is_done_again_and_not_for_ever(tmp_path):
    events = run(tmp_path, "a", "kill", "b", "kill-once", "c")
    failed = [event for event in events if isinstance(event, TaskFailed)]
    assert [event.number for event in failed] == [1]
    assert failed[0].reason.startswith("3 workers died of it (SYSTEM_ERROR")
    done = sorted(event.result[0] for event in events if isinstance(event, TaskDone))
    assert done == ["a", "b", "c", "kill-once"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a 0", "b 0", "c 0", "kill 0", "kill 1", "kill 2", "kill-once 0", "kill-once 1"
    ]  # fmt: skip


def test_what_can_t_be_done_is_said_once(tmp_path):
    events = run(tmp_path, "refuse", "crash", "memory", "a")
    reasons = {event.number: event.reason for event in events if isinstance(event, TaskFailed)}
    assert reasons == {0: "not this one", 1: "KeyError: 'crashed'", 2: "MemoryError: "}
    assert [event.number for event in events if isinstance(event, TaskDone)] == [3]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_result_that_can_t_be_sent_is_said(tmp_path):
    class Local:
        def __reduce__(self):
            raise TypeError("stays here")

    def work_locally() -> Work:
        return lambda task, tell: Local()

    with RayPool(OPTIONS) as pool:
        (event,) = pool.run_tasks(work_locally, ["a"])
    assert "its result can't be had" in event.reason and "stays here" in event.traceback


@pytest.mark.parametrize(("task", "make", "said"), [
    ("end", None, "^worker on .*: the disk is full$"),
    ("a", refuse_work, "^worker on .*: no engine is installed$"),
    ("a", die, "^--ray: 3 workers died while they were loading .*--ray-cpus"),
])  # fmt: skip
def test_what_concerns_all_tasks_ends_the_run(tmp_path, task, make, said):
    with RayPool(OPTIONS) as pool, pytest.raises(UserError, match=said):
        list(pool.run_tasks(make or partial(make_work, tmp_path), [task, "b"]))


def test_those_that_there_is_room_for_go_on(tmp_path):
    """Others die while they load, three times; what the first one does takes longer than that."""
    with RayPool(OPTIONS) as pool:
        events = list(pool.run_tasks(partial(make_only_one, tmp_path), ["wait", "wait", *"abc"]))
    done = [event for event in events if isinstance(event, TaskDone)]
    assert [event.number for event in done] == list(range(5))
    assert len({event.result[1] for event in done}) == 1


NO_PROJECT = """
import sys
sys.path.append(sys.argv[1])
import ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
from utils.cli import run_cli
from utils.ray_pool import RayOptions, RayPool

def make():
    return lambda task, tell: task

def main():
    with RayPool(RayOptions("local")) as pool:
        list(pool.run_tasks(make, ["a"]))

run_cli(main)
"""


@pytest.mark.slow
def test_workers_that_lack_the_project(tmp_path):
    (tmp_path / "driver.py").write_text(NO_PROJECT)
    done = subprocess.run(
        [sys.executable, "driver.py", ROOT], cwd=tmp_path, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("--ray: workers can't import the project (No module named 'utils'); ")
    assert str(ROOT) in said


def test_a_folder_that_is_not_shared(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setattr(os, "getcwd", lambda: str(folder))
    with RayPool(OPTIONS) as pool, pytest.raises(UserError, match="every machine of the cluster"):
        list(pool.run_tasks(refuse_work, ["a"]))


def test_other_code_is_refused(monkeypatch):
    code = describe_code() | {"Python": "2.7"}
    monkeypatch.setattr("utils.ray_pool.describe_code", lambda: code)
    with RayPool(OPTIONS) as pool, pytest.raises(UserError, match="has other code .Python .*2.7"):
        list(pool.run_tasks(refuse_work, ["a"]))


def test_warnings_of_workers_are_said(tmp_path, caplog):
    run(tmp_path, "warn")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("retrieval", "WARNING", "what is said")
    ]


def test_results_in_the_order_of_the_tasks_are_few_at_a_time(tmp_path):
    """While the first one goes on, no more than so many others are begun."""
    events = []
    with RayPool(OPTIONS) as pool:
        for event in run_in_order(
            pool.run_tasks(partial(make_work, tmp_path), ["wait", *"abcdefgh"], max_ahead=3)
        ):
            if not events:
                time.sleep(0.2)
                assert len(list(tmp_path.iterdir())) == 4
            events.append(event)
    done = [event.number for event in events if isinstance(event, TaskDone)]
    assert events[0] == TaskProgress(0, 0.5) and done == list(range(9))


def test_workers_as_many_as_there_is_room_for():
    with RayPool(OPTIONS) as pool:
        assert pool.resources == (1, 0) and pool.count_workers() == 2
    with RayPool(RayOptions("local", cpus=2)) as pool:
        assert pool.count_workers() == 1
    with RayPool(OPTIONS, workers=1) as pool:
        assert pool.count_workers() == 1
    for options in (RayOptions("local", cpus=3), RayOptions("local", gpus=0.5)):
        with RayPool(options) as pool, pytest.raises(UserError, match="no machine of the cluster"):
            pool.count_workers()


DRIVER = """
import os, signal, sys, time
from utils.cli import run_cli
from utils.ray_pool import RayOptions, RayPool, describe_code

def make():
    def work(task, tell):
        open(f"{task}.{os.getpid()}", "w").close()
        time.sleep(600)
    return work

def main():
    with RayPool(RayOptions("local")) as pool:
        list(pool.run_tasks(make, ["a", "b"]))

run_cli(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)
])  # fmt: skip
def test_a_stopped_driver_leaves_no_worker(tmp_path, number, code):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment)
    wait_until(lambda: len(list(tmp_path.glob("[ab].*"))) == 2)
    pids = [int(path.suffix[1:]) for path in tmp_path.glob("[ab].*")]
    driver.send_signal(number)
    assert driver.wait(60) == code
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("address", "said"), [
    ("no address", "expected HOST:PORT"), ("ray://127.0.0.1:1", "expected HOST:PORT"),
    ("127.0.0.1:1", "Connection refused"),
])  # fmt: skip
def test_a_cluster_that_is_not_there(address, said, ray_cluster, monkeypatch):  # noqa: F811
    monkeypatch.setattr(ray_cluster, "is_initialized", lambda: False)
    before = signal.getsignal(signal.SIGTERM)
    with RayPool(RayOptions(address)) as pool, pytest.raises(UserError) as caught:
        list(pool.run_tasks(refuse_work, ["a"]))
    assert str(caught.value).startswith(f"--ray {address}: no Ray cluster can be reached there (")
    assert said in str(caught.value) and "--ray local" in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) is before


MEMORY = """
import os, time, psutil
memory = psutil.virtual_memory()
share = (memory.total - memory.available + 3e9) / memory.total
os.environ |= {"RAY_memory_usage_threshold": str(share), "RAY_memory_monitor_refresh_ms": "50"}
from utils.ray_pool import RayOptions, RayPool

def make():
    def work(task, tell):
        kept = []
        while task == "greedy" and len(kept) < 100:
            kept.append(bytearray(b"x") * 10**8)
            time.sleep(0.02)
        return task
    return work

with RayPool(RayOptions("local")) as pool:
    for event in pool.run_tasks(make, ["a", "greedy", "b", "c"]):
        print(event, flush=True)
"""


@pytest.mark.slow
def test_what_uses_up_the_memory_of_the_machine_is_said_once(tmp_path):
    """Ray's memory monitor ends its worker, here at 3 GB more than is in use."""
    available = int(re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text())[1])
    if available < 7 * 2**20:
        pytest.skip("needs 7 GB of memory")
    (tmp_path / "driver.py").write_text(MEMORY)
    done = subprocess.run(
        [sys.executable, tmp_path / "driver.py"], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    lines = sorted(done.stdout.splitlines())
    assert [line.partition("(")[0] for line in lines] == ["TaskDone"] * 3 + ["TaskFailed"], lines
    assert "number=1, reason=\"3 workers died of it (OutOfMemoryError, the machine's" in lines[3]
