"""serve.py: it answers, ends when it is asked to, and says what is wrong."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

import serve
from tests.conftest import ROOT
from utils.cli import run_cli
from utils.errors import UserError


def _serve(argv: list[str], out: Path) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    sys.argv = ["serve.py", *argv]
    run_cli(serve.main)


@contextmanager
def process(tmp_path: Path, *argv: object):
    """A forked serve.py on a free port; yields it, its address, and the file of what it says."""
    out = tmp_path / "output"
    started = multiprocessing.get_context("fork").Process(
        target=_serve, args=([*map(str, argv), "--port", "0"], out)
    )
    started.start()
    try:
        deadline = time.monotonic() + 60
        while not (found := out.exists() and re.search(r"http://\S+", out.read_text())):
            assert started.is_alive() and time.monotonic() < deadline, out.read_text()
            time.sleep(0.02)
        yield started, found.group(), out
    finally:
        started.kill()
        started.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_a_video_half_sent(own_street, tmp_path, number):
    video = own_street / "videos" / "top.mp4"
    with video.open("ab") as file:
        file.truncate(1 << 28)
    with process(tmp_path, own_street / "my.index") as (started, address, out):
        hits = httpx.get(f"{address}api/search?q=sale&mode=keyword").json()["hits"]
        port = int(address.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            path = f"/api/entries/{hits[0]['id']}/video"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            os.kill(started.pid, number)
            started.join(20)
        assert started.exitcode == 0
        assert "Traceback" not in out.read_text()


def test_another_address_is_warned_of_and_a_token_is_asked_for(street, tmp_path):
    options = "--host", "0.0.0.0", "--token"
    with process(tmp_path, street / "my.index", *options) as (_, link, out):
        message = out.read_text()
        assert "warning: other machines can reach 0.0.0.0: the token and the videos" in message
        port, token = re.search(r":(\d+)/\?token=([\w-]{32})\s", message).groups()
        local = f"http://127.0.0.1:{port}/"
        assert httpx.get(local).status_code == 401
        assert httpx.get(f"{local}?token={token}").status_code == 303
    with process(tmp_path / "..", street / "my.index", "--host", "0.0.0.0") as (_, _, out):
        assert "watch these videos; --token keeps others out" in out.read_text()


@pytest.mark.slow
def test_it_is_a_command(street):
    command = [sys.executable, "serve.py", str(street / "my.index"), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        line = started.stdout.readline()
        address = line.split()[-1]
        assert line.startswith("7 entries of ") and address.startswith("http://127.0.0.1:")
        assert "<title>Search your videos</title>" in httpx.get(address).text
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


def test_the_name_that_was_given_is_answered(street, tmp_path):
    with process(tmp_path, street / "my.index", "--host", "127.0.0.2") as (_, address, out):
        assert address.startswith("http://127.0.0.2:") and "warning" not in out.read_text()
        assert httpx.get(address).status_code == 200
        assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403


def refused(monkeypatch, capsys, *argv: object) -> str:
    """Run the command in this process; returns its one line."""
    monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, argv)])
    with pytest.raises(SystemExit) as caught:
        run_cli(serve.main)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    return line


def test_errors_are_one_message(street, tmp_path, monkeypatch, capsys):
    index = street / "my.index"
    newer = Path(shutil.copytree(index, tmp_path / "newer.index"))
    with closing(sqlite3.connect(newer / "index.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    other = tmp_path / "other.pth"
    other.write_bytes(b"another model")
    damaged = Path(shutil.copytree(index, tmp_path / "damaged.index"))
    (damaged / "query_encoder" / "weights.safetensors").write_bytes(b"no weights")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for argv, message in (
            ([tmp_path / "none"], "none: no such folder; index.py makes one"),
            ([street], "holds no finished index"),
            ([newer], "format 99, from a newer version"),
            ([index, "-r", other], "was made with the model"),
            ([damaged, "--port", "0"], "weights.safetensors: has 10 bytes and not "),
            ([index, "--port", port], f"127.0.0.1:{port}: can't be listened at (the port is in"),
            ([index, "--host", "192.0.2.1", "--port", "0"], "with --host"),
            ([index, "--host", "no.such.host.invalid"], "with --host"),
            ([index, "--port", "70000"], "from 0 to 65535"),
            ([index, "--token", "two words"], "letters, digits"),
            ([index, "--token", "a"], "could be guessed: give at least 16 characters"),
            ([index, "--token", "given-012345678"], "or leave it out"),
            ([index, "--token", "ab" * 20], "6 of them different"),
        ):
            assert message in refused(monkeypatch, capsys, *argv), argv
    assert f"{index}" in refused(monkeypatch, capsys, index, "-r", other)


def test_the_query_encoder_computes_in_what_is_asked_for(street, monkeypatch, capsys):
    found, load = [], serve.VideoIndex.load_query_encoder

    def load_and_end(index):
        found.append(load(index).embed("a red car"))
        raise UserError("loaded")

    monkeypatch.setattr(serve.VideoIndex, "load_query_encoder", load_and_end)
    for options in ([], ["--precision", "fp32"], ["--precision", "bf16"]):
        argv = street / "my.index", "--port", "0", *options
        assert refused(monkeypatch, capsys, *argv) == "loaded"
    plain, full, half = found
    assert np.array_equal(plain, full) and 0 < np.abs(full - half).max() < 0.02


def test_text_is_searched_while_the_model_is_loaded(street, tmp_path, monkeypatch):
    """The gate is opened by the test: no search for text has waited for it."""
    gate, load = multiprocessing.get_context("fork").Event(), serve.VideoIndex.load_query_encoder

    def wait_and_load(index):
        assert gate.wait(60)
        return load(index)

    monkeypatch.setattr(serve.VideoIndex, "load_query_encoder", wait_and_load)
    with process(tmp_path, street / "my.index") as (_, address, out):
        found = httpx.get(f"{address}api/search?q=sale&mode=keyword").json()["hits"]
        assert found and "the model is there" not in out.read_text()
        gate.set()
        hits = httpx.get(f"{address}api/search?q=sale&mode=semantic", timeout=60).json()["hits"]
        assert hits[0]["similarity"] is not None
        deadline = time.monotonic() + 60
        while "the model is there, after" not in out.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_token_of_the_environment(monkeypatch):
    mine, given = "my-own~token.2026", "given-0123456789"
    monkeypatch.setenv(serve.TOKEN_VARIABLE, mine)
    assert serve.choose_token("") == mine and serve.choose_token(given) == given
    assert serve.choose_token(None) is None
    monkeypatch.setenv(serve.TOKEN_VARIABLE, "short")
    with pytest.raises(UserError, match="could be guessed"):
        serve.choose_token("")
    monkeypatch.delenv(serve.TOKEN_VARIABLE)
    assert serve.choose_token("") != serve.choose_token("")
