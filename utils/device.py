"""Devices of a run: ``n_gpu`` of the configuration, or ``-d`` on the command line."""

import logging
from collections.abc import Sequence

import torch

from utils.distributed import DistInfo
from utils.errors import UserError

logger = logging.getLogger(__name__)


def choose_devices(n_gpu: int, requested: str | None = None) -> list[torch.device]:
    """Return the devices to run on, one for each process.

    Args:
        n_gpu: GPUs that the configuration wants; more than there are is a warning, as published.
        requested: GPU indices such as ``"1"`` or ``"0,1"``; wins over ``n_gpu``.

    Raises:
        UserError: ``requested`` is not a list of different GPUs that are there.
    """
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
