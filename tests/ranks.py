"""Processes of one run (gloo, CPU), forked from a server that has imported what they need."""

import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0


def start_ranks(
    count: int, stderr: Path, target: Callable[..., Any], *args: Any
) -> list[multiprocessing.Process]:
    """Start ``target(*args)`` in each of ``count`` processes; what they say goes to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(target=_be_rank, args=(rank, count, port, stderr, target, args))
        for rank in range(count)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def wait_for_ranks(ranks: Sequence[multiprocessing.Process]) -> list[int | None]:
    """Wait until all have ended, or one has failed, which ends the others; returns exit codes."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while running := [rank for rank in ranks if rank.exitcode is None]:
            wait([rank.sentinel for rank in running], timeout=1)
            if any(rank.exitcode for rank in ranks) or time.monotonic() > deadline:
                break
    finally:
        codes = [rank.exitcode for rank in ranks]
        for rank in ranks:
            rank.kill()
            rank.join()
    return codes


def run_ranks(count: int, stderr: Path, target: Callable[..., Any], *args: Any) -> None:
    """Run ``target(*args)`` in each of ``count`` processes to its end."""
    codes = wait_for_ranks(start_ranks(count, stderr, target, *args))
    assert codes == [0] * count, f"{codes}\n{stderr.read_text()[-4000:]}"


def _be_rank(
    rank: int, count: int, port: int, stderr: Path, target: Callable[..., Any], args: tuple
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)  # not pytest's
    logging.getLogger().handlers.clear()
    target(*args)
