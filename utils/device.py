"""Which device a run uses: ``n_gpu`` of the configuration, or ``-d`` on the command line."""

import logging

import torch

from utils.errors import UserError

logger = logging.getLogger(__name__)


def choose_device(n_gpu: int, requested: str | None = None) -> torch.device:
    """Return the device to run on.

    Args:
        n_gpu: GPUs that the configuration wants; more than there are is a warning, as published.
        requested: GPU indices such as ``"1"`` or ``"0,1"``; wins over ``n_gpu``.

    Raises:
        UserError: ``requested`` is not a list of GPUs that are there.
    """
    available = torch.cuda.device_count()
    if requested is not None:
        return torch.device("cuda", _requested_gpu(requested, available))
    if n_gpu > available:
        used = "GPU 0" if available else "the CPU"
        logger.warning("n_gpu is %d, but this machine has %d: using %s", n_gpu, available, used)
    elif n_gpu > 1:
        logger.warning("training on several GPUs is not built yet: using GPU 0")
    return torch.device("cuda", 0) if min(n_gpu, available) else torch.device("cpu")


def _requested_gpu(requested: str, available: int) -> int:
    names = [torch.cuda.get_device_name(i) for i in range(available)]
    there = ", ".join(f"{i} ({name})" for i, name in enumerate(names)) or "none"
    parts = [part.strip() for part in requested.split(",")]
    if not all(part.isdecimal() and int(part) < available for part in parts):
        raise UserError(f"-d {requested}: no such GPU; this machine has {there}")
    if len(parts) > 1:
        logger.warning("training on several GPUs is not built yet: using GPU %s", parts[0])
    return int(parts[0])
