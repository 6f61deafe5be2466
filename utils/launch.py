"""Devices and processes of a run: one process for each GPU, as torchrun starts them."""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

from utils.distributed import DistInfo, get_dist_info, process_group
from utils.errors import UserError

logger = logging.getLogger(__name__)

GRACE_S = 10.0  # for the other processes, once one has ended
_POLL_S = 0.1
# torch reads any of them, and ALLOC_CONF first.
ALLOC_CONF = "PYTORCH_ALLOC_CONF"
_ALLOC_CONFS = {ALLOC_CONF, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_MORE_AT_A_TIME = 64 * 2**20


def choose_devices(n_gpu: int, requested: str | None = None) -> list[torch.device]:
    """Return the devices to run on, one for each process; GPUs are then set up for it.

    Args:
        n_gpu: GPUs that the configuration wants; more than there are is a warning, as published.
        requested: GPU indices such as ``"1"`` or ``"0,1"``; wins over ``n_gpu``.

    Raises:
        UserError: ``requested`` is not a list of different GPUs that are there.
    """
    configure_cuda()
    available = torch.cuda.device_count()
    if requested is not None:
        return [torch.device("cuda", number) for number in _parse_gpus(requested, available)]
    if n_gpu > available:
        used = {0: "the CPU", 1: "GPU 0"}.get(available, f"GPUs 0 to {available - 1}")
        logger.warning("n_gpu is %d, but this machine has %d: using %s", n_gpu, available, used)
    gpus = [torch.device("cuda", number) for number in range(min(n_gpu, available))]
    return gpus or [torch.device("cpu")]


def select_device(devices: Sequence[torch.device], info: DistInfo) -> torch.device:
    """Return the device of this process and make it the current one.

    Raises:
        UserError: more processes were started on this machine than there are GPUs to use.
    """
    if devices[0].type == "cpu":
        return devices[0]
    if info.local_rank >= len(devices):
        raise UserError(
            f"process {info.local_rank} of this machine has no GPU: {len(devices)} are to be used "
            f"(n_gpu, -d); start as many processes (--nproc_per_node={len(devices)})"
        )
    device = devices[info.local_rank]
    torch.cuda.set_device(device)
    return device


def _parse_gpus(requested: str, available: int) -> list[int]:
    names = [torch.cuda.get_device_name(i) for i in range(available)]
    there = ", ".join(f"{i} ({name})" for i, name in enumerate(names)) or "none"
    parts = [part.strip() for part in requested.split(",")]
    if not all(part.isdecimal() and int(part) < available for part in parts):
        raise UserError(f"-d {requested}: no such GPU; this machine has {there}")
    numbers = list(map(int, parts))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"-d {requested}: names a GPU twice")
    return numbers


def must_launch(devices: Sequence[torch.device]) -> bool:
    """Whether this command is to be started anew for each device: not by torchrun, and several."""
    return len(devices) > 1 and get_dist_info().world_size == 1


@contextmanager
def join_run(devices: Sequence[torch.device], timeout_s: float) -> Iterator[torch.device]:
    """Join the run's processes for the time of a ``with`` block; yields this one's device.

    Args:
        devices: of this machine.
        timeout_s: seconds after which a process that waits for another gives up.

    Raises:
        UserError: there are more processes than devices.
    """
    device = select_device(devices, get_dist_info())
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(device, timeout_s):
        yield device


def configure_cuda() -> None:
    """Choose how this process, and those that it starts, use GPUs; to be called before they do.

    Commands get here by ``choose_devices``.
    """
    # Batches differ in shape. Segments that grow can hold the next one's tensors, where those of
    # fixed size leave gaps that nothing fits in. What the user has set about memory is left alone.
    if not _ALLOC_CONFS & os.environ.keys():
        os.environ[ALLOC_CONF] = "expandable_segments:True"
    # cuDNN's attention plans anew for each shape, and the texts of every batch have another shape.
    # As seen on an H100, it also refuses more than 65,535 sequences.
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors; returns whether the C library can.

    glibc gives each large block back to the system when it is freed, and the system clears every
    page of the next one: in a training step, whose activations come and go, that can take longer
    than the arithmetic between two matrix products. Kept, the memory of one step serves the next.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _MORE_AT_A_TIME}
    return all([mallopt(option, value) for option, value in options.items()])


def relaunch_for_each(devices: Sequence[torch.device]) -> int:
    """Start this command anew for each device; returns the exit code."""
    return launch([sys.executable, *sys.argv], len(devices))


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
