"""Runs a job on every GPU it is to use: one process for each, as torchrun starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import torch

from utils.cpu_memory import keep_freed_memory
from utils.device import choose_devices, own_device
from utils.distributed import process_group, ranks

GRACE_S = 10.0  # for the other processes, once one has ended
_POLL_S = 0.1


def on_devices(
    job: Callable[[torch.device], None], n_gpu: int, requested: str | None, timeout_s: float
) -> int:
    """Run ``job`` on this process's device; returns the exit code.

    With several GPUs, and not started by torchrun, this command is started anew for each of them.

    Args:
        job: takes the device.
        n_gpu: GPUs that the configuration wants.
        requested: those that the command line wants, such as ``0,1``; wins.
        timeout_s: seconds after which a process that waits for another gives up.

    Raises:
        UserError: these GPUs are not there.
    """
    devices, place = choose_devices(n_gpu, requested), ranks()
    if len(devices) > 1 and place.size == 1:
        return launch([sys.executable, *sys.argv], len(devices))
    device = own_device(devices, place)
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(device, timeout_s):
        job(device)
    return 0


def launch(command: Sequence[str], count: int) -> int:
    """Run ``command`` in ``count`` processes that find each other; returns the exit code.

    The code is 0, or that of the first process that failed: the others are then stopped, by force
    after ``GRACE_S``. SIGTERM and SIGINT are passed on.
    """
    environment = os.environ | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        # The processes share the machine's cores; torchrun sets the same.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]

    def pass_on(signum: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(signum)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """Wait for all; when one fails, stop the others and return its code."""
    # All are asked each time: one that fails is not to be missed while one before it runs.
    while None in (codes := [process.poll() for process in processes]):
        failed = [code for code in codes if code]
        if failed:
            _stop(processes)
            return _exit_code(failed[0])
        time.sleep(_POLL_S)
    return next((_exit_code(p.returncode) for p in processes if p.returncode), 0)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _exit_code(code: int) -> int:
    """A process that a signal ended has the code that shells give it."""
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
