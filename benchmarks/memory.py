"""How much memory this process takes, now and at most."""

import re
from pathlib import Path

import torch

from utils.errors import UserError

MIB = 2**20


def memory(device: torch.device) -> tuple[float, float]:
    """Return the MiB in use now and at most: of CUDA's tensors, else resident in this process."""
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return used[0] / MIB, used[1] / MIB
    status = Path("/proc/self/status")
    if not status.exists():
        raise UserError(f"{status}: not there; resident memory is measured on Linux only")
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE))
    return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024
