"""How much a step computes, and how fast this machine multiplies matrices.

Products are the floating-point operations that matter here: linear layers, the convolution of the
patches, attention.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the matrices that the machine's rate is measured on
REPEATS = 5
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that ``work`` takes."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def in_turn(
    cases: dict[str, Callable[[], Any]], runs: int, device: torch.device
) -> dict[str, list[float]]:
    """Time the cases in turn, A B A B …; each runs once before, which does not count."""
    for work in cases.values():
        timed(work, device)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, work in cases.items():
            seconds[name].append(timed(work, device))
    return seconds


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP a second of the product of two large square matrices, the median of a few."""
    side = SQUARE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = in_turn({"product": lambda: a @ b}, REPEATS, device)["product"]
    return 2 * side**3 / statistics.median(seconds)


def flops(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of the products that ``work`` computes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Products(TorchDispatchMode):
    """Writes down which products of which sizes are computed, to compute them again alone.

    Attention in one kernel is not taken apart: the plain products of its sizes stand for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Take in one operation, and let it be computed."""
        if func.overloadpacket.__name__ in _PRODUCTS:
            self.counts[func, _signature(args)] += 1
        return func(*args, **(kwargs or {}))

    def seconds(self, device: torch.device) -> float:
        """Return the time of all products, each the median of a few."""
        total = 0.0
        for (func, signature), count in self.counts.items():
            arguments = [_made(part, device) for part in signature]
            work = {"product": lambda f=func, a=arguments: f(*a)}
            total += count * statistics.median(in_turn(work, REPEATS, device)["product"])
        return total


def _signature(args: tuple) -> tuple:
    """What of the arguments decides how long it takes."""
    return tuple(
        (tuple(part.shape), part.stride(), part.dtype) if isinstance(part, Tensor)
        else tuple(part) if isinstance(part, list) else part
        for part in args
    )  # fmt: skip


def _made(part: Any, device: torch.device) -> Any:
    """An argument of the same sizes and layout, or the same value."""
    if not (isinstance(part, tuple) and len(part) == 3 and isinstance(part[2], torch.dtype)):
        return list(part) if isinstance(part, tuple) else part
    shape, stride, dtype = part
    values = torch.empty_strided(shape, stride, dtype=dtype, device=device)
    return values.uniform_(-1, 1)
