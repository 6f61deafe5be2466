"""Files replaced whole, one process at a time, and where the cache is."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import alone, cache_folder, replaced_by, write_json


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        replaced_by(path, fail)
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def _enter(lock, log, barrier):
    barrier.wait()
    with alone(lock), open(log, "a") as file:
        file.write("in\n")
        file.flush()
        time.sleep(0.05)
        file.write("out\n")


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(3), tmp_path / "log"
    arguments = (tmp_path / "lock", log, barrier)
    processes = [context.Process(target=_enter, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text().split() == ["in", "out"] * 3


def _enter_and_die(lock):
    with alone(lock):
        os._exit(7)


def test_the_lock_goes_with_the_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_enter_and_die, args=(tmp_path / "lock",)
    )
    process.start()
    process.join()
    assert process.exitcode == 7
    with alone(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(OSError), alone(tmp_path / "nowhere/lock"):
        pytest.fail("went in")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEXTVR_CACHE", "")
    assert cache_folder(None) == tmp_path / ".cache/textvr"
    monkeypatch.setenv("TEXTVR_CACHE", "$HOME/x")
    assert cache_folder(None) == tmp_path / "x"
    assert cache_folder("~/mine") == tmp_path / "mine" and cache_folder("b/c") == Path("b/c")
    assert cache_folder("off") is None
    monkeypatch.setenv("TEXTVR_CACHE", "off")
    assert cache_folder(None) is None


def test_a_user_without_a_home_folder(monkeypatch):
    with pytest.raises(UserError, match="cache_dir or the environment variable TEXTVR_CACHE"):
        cache_folder("~no_such_user_here/cache")
